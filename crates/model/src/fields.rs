// SPDX-License-Identifier: Apache-2.0
//! Reading a document's value field by field. It turns each field into the wanted
//! type and keeps three lists apart: type mismatches (the document cannot be read),
//! violations (it can, but is wrong) and warnings (it holds what nobody reads). The
//! kinds in [`crate::kinds`] use it; it knows no kind itself.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::Violations;
use crate::document::ParseError;
use crate::violation::IGNORED;

/// The most type mismatches told at once; after these the author has enough to do.
const MAX_MISMATCHES: usize = 20;
/// The most warnings of one document; further ones are dropped.
const MAX_WARNINGS: usize = 100;

/// What was found while reading one document.
#[derive(Default)]
pub(crate) struct Findings {
    mismatches: Vec<String>,
    pub(crate) violations: Violations,
    warnings: Violations,
}

/// The fields of one map of the document; an absent map has none.
#[derive(Clone)]
pub(crate) struct Fields<'v> {
    path: String,
    map: Option<&'v Map<String, Value>>,
}

impl Findings {
    /// Records that a value has the wrong type.
    pub(crate) fn mismatch(&mut self, path: &str, wanted: &str, found: &Value) {
        if self.mismatches.len() < MAX_MISMATCHES {
            let place = if path.is_empty() { "the document" } else { path };
            self.mismatches.push(format!("{place}: expected {wanted}, found {}", describe(found)));
        }
    }

    /// Records something that has no effect.
    pub(crate) fn warn(&mut self, field: impl Into<String>, message: impl Into<String>) {
        if self.warnings.0.len() < MAX_WARNINGS {
            self.warnings.push(field, message);
        }
    }

    /// The warnings, when nothing worse was found.
    pub(crate) fn finish(self) -> Result<Violations, Refusal> {
        if !self.mismatches.is_empty() {
            return Err(Refusal::Unreadable(ParseError(self.mismatches.join("; "))));
        }
        let mut violations = self.violations;
        violations.arrange();
        Ok(violations.into_result(self.warnings)?)
    }
}

/// Why a document's value is not an artifact.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A field has the wrong type, so the rest was not judged.
    #[error(transparent)]
    Unreadable(#[from] ParseError),
    /// It breaks rules: all of them that it breaks.
    #[error(transparent)]
    Invalid(#[from] Violations),
}

impl<'v> Fields<'v> {
    /// The fields of a value that stands at this path.
    pub(crate) fn of(value: &'v Value, path: String, findings: &mut Findings) -> Fields<'v> {
        let map = value.as_object();
        if map.is_none() && !value.is_null() {
            findings.mismatch(&path, "a map", value);
        }
        Fields { path, map }
    }

    /// The path of a field of this map.
    pub(crate) fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// The path of this map itself.
    pub(crate) fn own_path(&self) -> &str {
        &self.path
    }

    /// A field's value; null counts as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&'v Value> {
        self.map?.get(name).filter(|value| !value.is_null())
    }

    /// Whether the field is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// A field that is a map; absent gives a map without fields.
    pub(crate) fn fields(&self, name: &str, findings: &mut Findings) -> Fields<'v> {
        let path = self.path(name);
        match self.get(name) {
            Some(value) => Fields::of(value, path, findings),
            None => Fields { path, map: None },
        }
    }

    /// A field that is text. Nothing else is taken for it (contract 3.1); what a YAML document
    /// writes without quotes has become text where [`crate::document`] knows that it is meant.
    pub(crate) fn text(&self, name: &str, findings: &mut Findings) -> Option<String> {
        text(self.get(name)?, &self.path(name), findings)
    }

    /// A field that is true or false.
    pub(crate) fn flag(&self, name: &str, findings: &mut Findings) -> Option<bool> {
        let value = self.get(name)?;
        let flag = value.as_bool();
        if flag.is_none() {
            findings.mismatch(&self.path(name), "true or false", value);
        }
        flag
    }

    /// A field that is a list of at most `limit` elements, each with its path.
    pub(crate) fn list(&self, name: &str, limit: usize, findings: &mut Findings) -> Vec<(String, &'v Value)> {
        let Some(value) = self.get(name) else { return Vec::new() };
        let path = self.path(name);
        let Some(elements) = value.as_array() else {
            findings.mismatch(&path, "a list", value);
            return Vec::new();
        };
        if elements.len() > limit {
            findings
                .violations
                .push(path, format!("At most {limit} entries are allowed, found {}", elements.len()));
            return Vec::new();
        }
        let element = |(index, value)| (format!("{path}[{index}]"), value);
        elements.iter().enumerate().map(element).collect()
    }

    /// A field that maps text to text, with at most `limit` entries.
    pub(crate) fn texts(
        &self,
        name: &str,
        limit: usize,
        findings: &mut Findings,
    ) -> BTreeMap<String, String> {
        let inner = self.fields(name, findings);
        let entries = inner.map.map_or(0, Map::len);
        if entries > limit {
            findings
                .violations
                .push(inner.path, format!("At most {limit} entries are allowed, found {entries}"));
            return BTreeMap::new();
        }
        let mut texts = BTreeMap::new();
        for (key, value) in inner.map.into_iter().flatten() {
            if let Some(value) = text(value, &inner.path(key), findings) {
                texts.insert(key.clone(), value);
            }
        }
        texts
    }

    /// Warns of every field that is none of these: it is ignored, which a spelling mistake would hide.
    pub(crate) fn only(&self, known: &[&str], findings: &mut Findings) {
        for key in self.map.into_iter().flat_map(Map::keys) {
            if !known.contains(&key.as_str()) {
                findings.warn(self.path(key), format!("unknown field{IGNORED}"));
            }
        }
    }
}

/// A value that is text, at this path.
pub(crate) fn text(value: &Value, path: &str, findings: &mut Findings) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => {
            findings.mismatch(path, "text (in quotes)", value);
            None
        }
        Value::Null | Value::Array(_) | Value::Object(_) => {
            findings.mismatch(path, "text", value);
            None
        }
    }
}

/// A value's type for a message. Text is not quoted: it could be a secret in the wrong place.
fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(_) => "text".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a map".to_owned(),
    }
}
