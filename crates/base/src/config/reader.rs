// SPDX-License-Identifier: Apache-2.0
//! Typed settings out of [`Sources`]. Each getter answers a usable value whatever
//! happens, the default when the given one is wrong, and remembers what was wrong: so a
//! role reads all its settings in one straight line, and the user learns of every
//! mistake in one run. [`Reader::finish`] must be called, or problems go unseen.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::effective::REDACTED;
use super::sources::{Raw, Sources};
use super::suggest::nearest;
use super::{ConfigError, Effective, Origin, Problem, token};
use crate::duration::{format_go, parse_go};
use crate::secret::Secret;

/// Reads settings and keeps the account.
#[must_use = "problems are only seen when the reader is finished"]
pub struct Reader<'a> {
    sources: &'a Sources,
    effective: Effective,
    problems: Vec<Problem>,
    known: BTreeSet<String>,
    opaque: BTreeSet<String>,
    accepted: BTreeSet<String>,
}

/// What reading came to.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Every setting read, with its origin.
    pub effective: Effective,
    /// Everything wrong, in the order it was found.
    pub problems: Vec<Problem>,
    /// Keys that a file has and that have no effect here, in key order.
    pub without_effect: Vec<String>,
}

/// Older keys that a listen address may be given by instead of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct ListenKeys<'a> {
    /// A port on the default address.
    pub port: Option<&'a str>,
    /// Whether to listen at all.
    pub enabled: Option<&'a str>,
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
        let text = self.typed(key, String::new(), |text| Ok(text.to_owned()), |_| REDACTED.to_owned());
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

    /// A number within limits.
    pub fn float(&mut self, key: &str, default: f64, range: RangeInclusive<f64>) -> f64 {
        let parse = |text: &str| {
            let number: f64 = text.parse().map_err(|_| format!("{} is not a number", quoted(text)))?;
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

    /// An address to listen on, `IP:PORT` with port 0 for any free one; `None` for `off`.
    /// The key's own value wins over the older keys.
    pub fn listen(&mut self, key: &str, default: &str, older: ListenKeys<'_>) -> Option<SocketAddr> {
        // A preset replaces the default only: the older keys win over it.
        let default = self.sources.preset_of(key).unwrap_or(default);
        let default = parse_listen(default).ok().flatten();
        let mut fallback = default;
        let listens = older.enabled.map(|enabled| self.bool(enabled, default.is_some()));
        // The port is read even where nothing listens: it stays a known key, and a wrong one is told.
        let standard = default.map_or(0, |address| u64::from(address.port()));
        let number = older.port.map(|port| self.integer(port, standard, 0..=u64::from(u16::MAX)));
        let derived = [older.port, older.enabled].into_iter().flatten();
        let derived = derived.filter_map(|key| self.sources.find_set(key)).map(|(_, origin)| origin).next();
        if listens == Some(false) {
            fallback = None;
        } else if let Some(number) = number
            && (default.is_some() || derived.is_some())
        {
            let address = default.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip());
            fallback = Some(SocketAddr::new(address, u16::try_from(number).unwrap_or_default()));
        }
        let show =
            |value: &Option<SocketAddr>| value.map_or_else(|| quoted("off"), |at| quoted(&at.to_string()));
        let found = self.sources.find_set(key);
        let own = found.is_some();
        let address = self.interpret(key, found, fallback, parse_listen, show);
        if let (false, Some(origin)) = (own, derived) {
            self.effective.record(key, show(&address), origin);
        }
        address
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

    /// A list of tables, each with the fields of `T`. Their content is not shown.
    pub fn tables<T: DeserializeOwned>(&mut self, key: &str) -> Vec<T> {
        self.opaque.insert(key.to_owned());
        let Some((raw, origin)) = self.sources.find(key) else { return Vec::new() };
        let read = match raw {
            Raw::Value(toml::Value::Array(items)) => {
                let read =
                    |(index, item)| self.table(item).map_err(|reason| format!("entry {index}: {reason}"));
                items.into_iter().enumerate().map(read).collect()
            }
            Raw::Value(_) | Raw::Texts(_) => Err("a list of tables is wanted, from a file".to_owned()),
        };
        let tables: Vec<T> = self.settle(key, read, Vec::new(), &origin);
        self.effective.record(key, format!("<{} tables>", tables.len()), origin);
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
        let without_effect = idle.cloned().collect();
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

fn parse_listen(text: &str) -> Result<Option<SocketAddr>, String> {
    if text.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    let wrong = || format!("{} is not an address to listen on: write IP:PORT, or off", quoted(text));
    if let Ok(address) = text.parse() {
        return Ok(Some(address));
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().map_err(|_| wrong())?;
    let address = match host {
        "" | "*" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        _ => return Err(wrong()),
    };
    Ok(Some(SocketAddr::new(address, port)))
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests;
