// SPDX-License-Identifier: Apache-2.0
//! Typed settings out of [`Sources`]. Each getter answers a usable value whatever
//! happens, the default when the given one is wrong, and remembers what was wrong: so a
//! role reads all its settings in one straight line, and the user learns of every
//! mistake in one run. [`Reader::finish`] must be called, or problems go unseen.

mod listen;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::effective::{REDACTED, UNSET};
use super::sources::{Raw, Sources};
use super::suggest::nearest;
use super::{ConfigError, Effective, Origin, Problem, token};
use crate::duration::{format_go, parse_go};
use crate::networks::Networks;
use crate::secret::Secret;

pub use listen::ListenKeys;

/// Reads settings and keeps the account.
#[must_use = "problems are only seen when the reader is finished"]
pub struct Reader<'a> {
    sources: &'a Sources,
    effective: Effective,
    problems: Vec<Problem>,
    known: BTreeSet<String>,
    opaque: BTreeSet<String>,
    accepted: BTreeSet<String>,
    overruled: Vec<String>,
}

/// What reading came to.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Every setting read, with its origin.
    pub effective: Effective,
    /// Everything wrong, in the order it was found.
    pub problems: Vec<Problem>,
    /// Settings that somebody made and that have no effect here: keys of files in their order, then
    /// what another setting overrules, with the reason.
    pub without_effect: Vec<String>,
}

impl<'a> Reader<'a> {
    /// Over these sources.
    pub fn new(sources: &'a Sources) -> Self {
        Self {
            sources,
            effective: Effective::default(),
            problems: sources.problems.clone(),
            known: BTreeSet::new(),
            opaque: BTreeSet::new(),
            accepted: BTreeSet::new(),
            overruled: Vec::new(),
        }
    }

    /// Whether any layer above the default has the key.
    pub fn is_set(&self, key: &str) -> bool {
        self.sources.find_set(key).is_some()
    }

    /// A text.
    pub fn string(&mut self, key: &str, default: &str) -> String {
        self.typed(key, default.to_owned(), |text| Ok(text.to_owned()), |value| quoted(value))
    }

    /// A text that names something, and so is not empty.
    pub fn name(&mut self, key: &str, default: &str) -> String {
        let parse = |text: &str| match text.trim() {
            "" => Err("a name is wanted, not an empty text".to_owned()),
            _ => Ok(text.to_owned()),
        };
        self.typed(key, default.to_owned(), parse, |value| quoted(value))
    }

    /// A text that may be absent; an empty one counts as absent.
    pub fn optional_string(&mut self, key: &str) -> Option<String> {
        let text = self.string(key, "");
        (!text.is_empty()).then_some(text)
    }

    /// A path.
    pub fn path(&mut self, key: &str, default: &str) -> PathBuf {
        PathBuf::from(self.string(key, default))
    }

    /// A path that may be absent.
    pub fn optional_path(&mut self, key: &str) -> Option<PathBuf> {
        self.optional_string(key).map(PathBuf::from)
    }

    /// A text that is never shown; an empty one counts as absent.
    pub fn secret(&mut self, key: &str) -> Option<Secret> {
        let show = |text: &String| if text.is_empty() { UNSET } else { REDACTED }.to_owned();
        let text = self.typed(key, String::new(), |text| Ok(text.to_owned()), show);
        (!text.is_empty()).then(|| Secret::new(text))
    }

    /// A yes or no.
    pub fn bool(&mut self, key: &str, default: bool) -> bool {
        let parse =
            |text: &str| text.parse().map_err(|_| format!("{} is neither true nor false", quoted(text)));
        self.typed(key, default, parse, ToString::to_string)
    }

    /// A whole number within limits.
    pub fn integer(&mut self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let parse = |text: &str| {
            let number: u64 = text.parse().map_err(|_| format!("{} is not a whole number", quoted(text)))?;
            within(number, &range, |bound| bound.to_string())
        };
        self.typed(key, default, parse, ToString::to_string)
    }

    /// A duration within limits: a Go duration, or a plain number of milliseconds or
    /// seconds when the key ends in `_ms` or `_seconds`.
    pub fn duration(&mut self, key: &str, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        let unit: Option<fn(u64) -> Duration> = match key.rsplit('_').next() {
            Some("ms") => Some(Duration::from_millis),
            Some("seconds") => Some(Duration::from_secs),
            Some(_) | None => None,
        };
        let parse = |text: &str| {
            let plain = unit.and_then(|unit| text.parse().ok().map(unit));
            let duration = match plain {
                Some(duration) => duration,
                None => parse_go(text).map_err(|error| format!("{}: {error}", quoted(text)))?,
            };
            within(duration, &range, |bound| format_go(*bound))
        };
        self.typed(key, default, parse, |value| quoted(&format_go(*value)))
    }

    /// One of several names.
    pub fn choice<T: Copy + PartialEq>(&mut self, key: &str, default: T, choices: &[(&str, T)]) -> T {
        let parse = |text: &str| {
            let found = choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
            found.map(|(_, value)| *value).ok_or_else(|| {
                let names = choices.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
                format!("{} is not one of {names}", quoted(text))
            })
        };
        let show = |value: &T| {
            let found = choices.iter().find(|(_, choice)| choice == value);
            quoted(found.map_or("", |(name, _)| *name))
        };
        self.typed(key, default, parse, show)
    }

    /// A list of texts; in the environment, separated by commas.
    pub fn strings(&mut self, key: &str, default: &[&str]) -> Vec<String> {
        let standard: Vec<String> = default.iter().map(|text| (*text).to_owned()).collect();
        self.known.insert(key.to_owned());
        let (values, origin) = match self.sources.find(key) {
            None => (Ok(standard.clone()), Origin::Default),
            Some((raw, origin)) => (self.list(raw, &origin), origin),
        };
        let values = self.settle(key, values, standard, &origin);
        let shown = values.iter().map(|value| quoted(value)).collect::<Vec<_>>().join(", ");
        self.effective.record(key, format!("[{shown}]"), origin);
        values
    }

    /// Networks, each `*`, an address, or an address with the length of its prefix.
    pub fn networks(&mut self, key: &str, default: &[&str]) -> Networks {
        let mut networks = Networks::none();
        for text in self.strings(key, default) {
            if let Err(message) = networks.add(&text) {
                self.problem(key, message);
            }
        }
        networks
    }

    /// A list of tables, each with the fields of `T`. Their content is not shown. Those that are wrong
    /// are told one by one, counted from 1, and left out.
    pub fn tables<T: DeserializeOwned>(&mut self, key: &str) -> Vec<T> {
        self.opaque.insert(key.to_owned());
        let Some((raw, origin)) = self.sources.find(key) else { return Vec::new() };
        let items = match raw {
            Raw::Value(toml::Value::Array(items)) => Ok(items),
            Raw::Value(_) | Raw::Texts(_) => Err("a list of tables is wanted, from a file".to_owned()),
        };
        let items = self.settle(key, items, Vec::new(), &origin);
        self.effective.record(key, format!("<{} tables>", items.len()), origin);
        let mut tables = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            match self.table(item) {
                Ok(table) => tables.push(table),
                Err(reason) => self.problem(key, format!("entry {}: {reason}", index + 1)),
            }
        }
        tables
    }

    /// Everything below a key as it stands, for what defines its own fields. Not shown.
    pub fn subtree(&mut self, key: &str) -> serde_json::Value {
        self.opaque.insert(key.to_owned());
        let empty = || serde_json::Value::Object(serde_json::Map::new());
        let Some((Raw::Value(value), origin)) = self.sources.find(key) else { return empty() };
        let resolved = self.resolve_all(value);
        let json = resolved.and_then(|value| serde_json::to_value(value).map_err(|error| error.to_string()));
        let json = self.settle(key, json, empty(), &origin);
        self.effective.record(key, "<present>".to_owned(), origin);
        json
    }

    /// Takes note that everything at or below this key is a setting of the file format
    /// that has no effect here: it is reported as that and not as unknown.
    pub fn accept(&mut self, key: &str) {
        self.opaque.insert(key.to_owned());
        self.accepted.insert(key.to_owned());
    }

    /// Takes note that another setting overrules this one, if somebody made it: it is reported as
    /// having no effect.
    pub fn overruled(&mut self, key: &str, why: &str) {
        if let Some((_, origin)) = self.sources.find_set(key) {
            self.overruled.push(format!("{key} ({origin}: {why})"));
        }
    }

    /// Something the role found wrong with a setting.
    pub fn problem(&mut self, key: &str, message: impl Into<String>) {
        let origin = self.sources.find(key).map(|(_, origin)| origin);
        self.problems.push(Problem { key: Some(key.to_owned()), origin, message: message.into() });
    }

    /// Ends reading. `own` are the sections this process reads, in which every unknown key
    /// is a mistake; `foreign` those of other roles, which the same file may serve.
    pub fn finish(mut self, own: &[&str], foreign: &[&str]) -> Finished {
        let sources = self.sources;
        for (section, value) in &sources.table {
            if own.contains(&section.as_str()) {
                self.find_unknown(section, value);
            } else if !foreign.contains(&section.as_str()) {
                let sections = own.iter().chain(foreign).copied();
                self.unknown(section, nearest(section, sections).map(str::to_owned));
            }
        }
        // A section of which some keys are read has an effect; the rest of it is merely let through.
        // One role may let a key through that another one in the same process reads.
        let is_read = |key: &str| {
            let below = self.known.range(format!("{key}.")..).next();
            self.known.contains(key) || below.is_some_and(|one| one.starts_with(&format!("{key}.")))
        };
        let idle = self.accepted.iter().filter(|key| sources.is_in_files(key) && !is_read(key));
        let without_effect = idle.cloned().chain(self.overruled).collect();
        Finished { effective: self.effective, problems: self.problems, without_effect }
    }

    fn typed<T: Clone>(
        &mut self,
        key: &str,
        default: T,
        parse: impl Fn(&str) -> Result<T, String>,
        show: impl Fn(&T) -> String,
    ) -> T {
        let found = self.sources.find(key);
        self.interpret(key, found, default, parse, show)
    }

    fn interpret<T: Clone>(
        &mut self,
        key: &str,
        found: Option<(Raw, Origin)>,
        default: T,
        parse: impl Fn(&str) -> Result<T, String>,
        show: impl Fn(&T) -> String,
    ) -> T {
        self.known.insert(key.to_owned());
        let (value, origin) = match found {
            None => (Ok(default.clone()), Origin::Default),
            Some((raw, origin)) => (self.text(raw).and_then(|text| parse(&text)), origin),
        };
        let value = self.settle(key, value, default, &origin);
        self.effective.record(key, show(&value), origin);
        value
    }

    /// The value, or the default and a problem.
    fn settle<T>(&mut self, key: &str, value: Result<T, String>, default: T, origin: &Origin) -> T {
        value.unwrap_or_else(|message| {
            let problem = Problem { key: Some(key.to_owned()), origin: Some(origin.clone()), message };
            self.problems.push(problem);
            default
        })
    }

    /// A scalar as text. Numbers and texts are not told apart: a token can only be a text.
    fn text(&self, raw: Raw) -> Result<String, String> {
        match raw {
            Raw::Texts(texts) => texts.into_iter().next_back().ok_or_else(|| "a value is missing".to_owned()),
            Raw::Value(toml::Value::String(text)) => self.sources.resolve(&text),
            Raw::Value(toml::Value::Integer(number)) => Ok(number.to_string()),
            Raw::Value(toml::Value::Float(number)) => Ok(number.to_string()),
            Raw::Value(toml::Value::Boolean(value)) => Ok(value.to_string()),
            Raw::Value(toml::Value::Datetime(moment)) => Ok(moment.to_string()),
            Raw::Value(toml::Value::Array(_)) => Err("one value is wanted, not a list".to_owned()),
            Raw::Value(toml::Value::Table(_)) => Err("one value is wanted, not a section".to_owned()),
        }
    }

    fn list(&self, raw: Raw, origin: &Origin) -> Result<Vec<String>, String> {
        match raw {
            Raw::Texts(texts) if matches!(origin, Origin::Flag(_)) => Ok(texts),
            Raw::Texts(texts) => Ok(texts
                .iter()
                .flat_map(|text| text.split(','))
                .map(|text| text.trim().to_owned())
                .filter(|text| !text.is_empty())
                .collect()),
            Raw::Value(toml::Value::Array(items)) => {
                items.into_iter().map(|item| self.text(Raw::Value(item))).collect()
            }
            scalar @ Raw::Value(_) => self.text(scalar).map(|text| vec![text]),
        }
    }

    fn table<T: DeserializeOwned>(&self, item: toml::Value) -> Result<T, String> {
        let item = self.resolve_all(item)?;
        T::deserialize(item).map_err(|error: toml::de::Error| error.message().to_owned())
    }

    /// Resolves every token below; a text that was one token and reads as a number or a
    /// yes or no becomes that, because a bare token could not have been written as one.
    fn resolve_all(&self, value: toml::Value) -> Result<toml::Value, String> {
        Ok(match value {
            toml::Value::String(text) if token::has_placeholder(&text) => {
                let text = self.sources.resolve(&text)?;
                match (text.parse(), text.parse()) {
                    (Ok(number), _) => toml::Value::Integer(number),
                    (_, Ok(flag)) => toml::Value::Boolean(flag),
                    (Err(_), Err(_)) => toml::Value::String(text),
                }
            }
            toml::Value::Array(items) => toml::Value::Array(
                items.into_iter().map(|item| self.resolve_all(item)).collect::<Result<_, _>>()?,
            ),
            toml::Value::Table(table) => toml::Value::Table(
                table
                    .into_iter()
                    .map(|(name, value)| Ok((name, self.resolve_all(value)?)))
                    .collect::<Result<_, String>>()?,
            ),
            other => other,
        })
    }

    fn find_unknown(&mut self, path: &str, value: &toml::Value) {
        if self.known.contains(path) || self.opaque.contains(path) {
            return;
        }
        let below = format!("{path}.");
        let leads_on = |keys: &BTreeSet<String>| {
            keys.range(below.clone()..).next().is_some_and(|key| key.starts_with(&below))
        };
        match value {
            toml::Value::Table(table) if leads_on(&self.known) || leads_on(&self.opaque) => {
                for (name, value) in table {
                    self.find_unknown(&format!("{below}{name}"), value);
                }
            }
            _ if leads_on(&self.known) || leads_on(&self.opaque) => {
                self.problem(path, format!("a section is wanted, with keys of its own, not {}", kind(value)));
            }
            _ => {
                let known = self.known.iter().chain(&self.opaque).map(String::as_str);
                let near = nearest(path, known).map(str::to_owned);
                self.unknown(path, near);
            }
        }
    }

    fn unknown(&mut self, path: &str, near: Option<String>) {
        let hint = near.map_or_else(String::new, |near| format!(": did you mean {near}?"));
        self.problem(path, format!("unknown key{hint}"));
    }
}

impl Finished {
    /// The effective settings, or everything wrong.
    pub fn into_result(self) -> Result<Effective, ConfigError> {
        if self.problems.is_empty() { Ok(self.effective) } else { Err(ConfigError(self.problems)) }
    }
}

fn within<T: PartialOrd>(
    value: T,
    range: &RangeInclusive<T>,
    show: impl Fn(&T) -> String,
) -> Result<T, String> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(format!("{} is out of range: {} to {}", show(&value), show(range.start()), show(range.end())))
}

/// What a value is, in words.
fn kind(value: &toml::Value) -> &'static str {
    match value {
        toml::Value::String(_) => "a text",
        toml::Value::Integer(_) | toml::Value::Float(_) => "a number",
        toml::Value::Boolean(_) => "true or false",
        toml::Value::Datetime(_) => "a date",
        toml::Value::Array(_) => "a list",
        toml::Value::Table(_) => "a table",
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests;
