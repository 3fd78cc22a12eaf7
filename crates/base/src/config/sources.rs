// SPDX-License-Identifier: Apache-2.0
//! The layers a setting can come from. Files merge deeply, a later one over an earlier
//! one; arrays are replaced whole. The environment is read here, once, and nowhere else
//! in the tree outside of configuration. The composition root fills this; a
//! [`super::Reader`] looks things up in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::token::{self, Token, World};
use super::{Origin, Problem};

/// Replaces the directories that `{{ file }}` may read from; comma separated.
const ALLOWLIST: &str = "FERROGATE_CONFIG_FILE_ALLOWLIST";
/// The name the same thing has in files written for the contract's origin.
const ALLOWLIST_COMPATIBLE: &str = "APIP_CONFIG_FILE_SOURCE_ALLOWLIST";
/// What the environment variable of every key starts with.
const PREFIX: &str = "FERROGATE_";

/// Files, environment and flags, gathered but not yet interpreted.
#[derive(Clone, Default)]
pub struct Sources {
    pub(super) table: toml::Table,
    pub(super) tokens: Vec<Token>,
    pub(super) problems: Vec<Problem>,
    origins: BTreeMap<String, PathBuf>,
    env: BTreeMap<String, String>,
    aliases: BTreeMap<String, Vec<String>>,
    flags: BTreeMap<String, (String, Vec<String>)>,
    presets: BTreeMap<String, String>,
    stand_ins: BTreeMap<String, String>,
    allowed: Vec<PathBuf>,
}

/// A value as a layer has it, before it is interpreted.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Raw {
    /// From a flag or the environment, one text per occurrence.
    Texts(Vec<String>),
    /// From a file.
    Value(toml::Value),
}

impl Sources {
    /// With this environment and no file or flag.
    pub fn new(env: BTreeMap<String, String>) -> Self {
        let allowed = env.get(ALLOWLIST).or_else(|| env.get(ALLOWLIST_COMPATIBLE));
        let allowed = allowed
            .map(|list| list.split(',').map(|dir| PathBuf::from(dir.trim())).collect())
            .unwrap_or_default();
        Self { env, allowed, ..Self::default() }
    }

    /// With the environment of this process.
    pub fn from_process() -> Self {
        Self::new(
            std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
        )
    }

    /// Directories that `{{ file }}` may read from, unless the environment names others.
    pub fn allow_files_in(&mut self, dirs: &[&str]) {
        if !self.env.contains_key(ALLOWLIST) && !self.env.contains_key(ALLOWLIST_COMPATIBLE) {
            self.allowed.extend(dirs.iter().map(PathBuf::from));
        }
    }

    /// Reads a file over those read before. What is wrong with it is reported by the reader.
    pub fn read_file(&mut self, path: &Path) {
        match std::fs::read_to_string(path) {
            Ok(text) => self.read_text(path, &text),
            Err(error) => self.problem(None, format!("cannot read {}: {error}", path.display())),
        }
    }

    /// As [`Sources::read_file`], with the text at hand.
    pub fn read_text(&mut self, path: &Path, text: &str) {
        let shown = path.display();
        let prepared = match token::extract(text, &mut self.tokens) {
            Ok(prepared) => prepared,
            Err(reason) => return self.problem(None, format!("{shown}: {reason}")),
        };
        match prepared.parse::<toml::Table>() {
            Ok(table) => merge(&mut self.table, table, path, "", &mut self.origins),
            Err(error) => {
                let start = error.span().map_or(0, |span| span.start);
                let line = prepared.bytes().take(start).filter(|byte| *byte == b'\n').count() + 1;
                self.problem(None, format!("{shown}:{line}: {}", error.message()));
            }
        }
    }

    /// A flag the user gave. A flag given several times adds up to a list.
    pub fn flag(&mut self, key: &str, flag: &str, value: impl Into<String>) {
        let (_, values) = self.flags.entry(key.to_owned()).or_insert_with(|| (flag.to_owned(), Vec::new()));
        values.push(value.into());
    }

    /// A default that differs from the reader's, because of how the process is started.
    pub fn preset(&mut self, key: &str, value: impl Into<String>) {
        self.presets.insert(key.to_owned(), value.into());
    }

    /// Another environment variable for a key, besides the one made from its name.
    pub fn env_alias(&mut self, key: &str, name: &str) {
        self.aliases.entry(key.to_owned()).or_default().push(name.to_owned());
    }

    /// Another key whose value counts where nobody set this one: one file serves several roles,
    /// and what they share stands in the section of one of them.
    pub fn stand_in(&mut self, key: &str, other: &str) {
        self.stand_ins.insert(key.to_owned(), other.to_owned());
    }

    /// The environment variable made from a key: `a.b_c` is `FERROGATE_A_B_C`.
    pub fn env_name(key: &str) -> String {
        format!("{PREFIX}{}", key.replace('.', "_").to_uppercase())
    }

    /// An environment variable, for a role that composes a preset from several.
    pub fn env(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The default that the way of starting gave this key.
    pub(super) fn preset_of(&self, key: &str) -> Option<&str> {
        self.presets.get(key).map(String::as_str)
    }

    /// The value of the highest layer that has the key, presets included.
    pub(super) fn find(&self, key: &str) -> Option<(Raw, Origin)> {
        let preset = |value: &String| (Raw::Texts(vec![value.clone()]), Origin::Default);
        self.find_set(key).or_else(|| self.presets.get(key).map(preset))
    }

    /// The value of the highest layer that has the key and was set by somebody.
    pub(super) fn find_set(&self, key: &str) -> Option<(Raw, Origin)> {
        // One step only: a stand-in has none itself.
        self.find_own(key).or_else(|| self.find_own(self.stand_ins.get(key)?))
    }

    fn find_own(&self, key: &str) -> Option<(Raw, Origin)> {
        if let Some((flag, values)) = self.flags.get(key) {
            return Some((Raw::Texts(values.clone()), Origin::Flag(flag.clone())));
        }
        let name = Self::env_name(key);
        let aliases = self.aliases.get(key).map(Vec::as_slice).unwrap_or_default();
        for name in std::iter::once(&name).chain(aliases) {
            if let Some(value) = self.env.get(name).filter(|value| !value.is_empty()) {
                return Some((Raw::Texts(vec![value.clone()]), Origin::Env(name.clone())));
            }
        }
        if let Some(value) = self.in_files(key) {
            let file = self.origins.get(key).cloned().unwrap_or_default();
            return Some((Raw::Value(value.clone()), Origin::File(file)));
        }
        None
    }

    /// Whether a file has the key.
    pub(super) fn is_in_files(&self, key: &str) -> bool {
        self.in_files(key).is_some()
    }

    /// The text with its tokens resolved.
    pub(super) fn resolve(&self, text: &str) -> Result<String, String> {
        token::resolve(text, &self.tokens, &World { env: &self.env, allowed: &self.allowed })
    }

    fn in_files(&self, key: &str) -> Option<&toml::Value> {
        let (first, rest) = key.split_once('.').map_or((key, None), |(first, rest)| (first, Some(rest)));
        let mut value = self.table.get(first)?;
        for part in rest.into_iter().flat_map(|rest| rest.split('.')) {
            value = value.as_table()?.get(part)?;
        }
        Some(value)
    }

    fn problem(&mut self, origin: Option<Origin>, message: String) {
        self.problems.push(Problem { key: None, origin, message });
    }
}

/// Lays `over` on `base`; tables merge, everything else is replaced.
fn merge(
    base: &mut toml::Table,
    over: toml::Table,
    file: &Path,
    prefix: &str,
    origins: &mut BTreeMap<String, PathBuf>,
) {
    for (name, value) in over {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        origins.insert(path.clone(), file.to_owned());
        match value {
            toml::Value::Table(table) => {
                let slot = base.entry(name).or_insert_with(|| toml::Value::Table(toml::Table::new()));
                if !slot.is_table() {
                    *slot = toml::Value::Table(toml::Table::new());
                }
                if let toml::Value::Table(below) = slot {
                    merge(below, table, file, &path, origins);
                }
            }
            value => {
                base.insert(name, value);
            }
        }
    }
}
