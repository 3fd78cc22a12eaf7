// SPDX-License-Identifier: Apache-2.0
//! What the configuration came to: every setting a role read, with its value and where
//! it came from. Secrets are redacted when they are recorded, so that no way of printing
//! this can show one.

use std::collections::BTreeMap;
use std::fmt;

use super::Origin;

/// What a secret's value is shown as.
pub(super) const REDACTED: &str = "<redacted>";
/// What a secret without a value is shown as.
pub(super) const UNSET: &str = "<unset>";

/// One setting's value and origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The value as TOML would have it; a secret's is `<redacted>`, or `<unset>`.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// Every setting read, by key. Prints as `key = value  # origin`, one line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effective {
    settings: BTreeMap<String, Setting>,
}

impl Effective {
    /// One setting.
    pub fn get(&self, key: &str) -> Option<&Setting> {
        self.settings.get(key)
    }

    /// All settings, in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Setting)> {
        self.settings.iter().map(|(key, setting)| (key.as_str(), setting))
    }

    pub(super) fn record(&mut self, key: &str, value: String, origin: Origin) {
        self.settings.insert(key.to_owned(), Setting { value, origin });
    }
}

impl fmt::Display for Effective {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, setting) in &self.settings {
            writeln!(out, "{key} = {}  # {}", setting.value, setting.origin)?;
        }
        Ok(())
    }
}
