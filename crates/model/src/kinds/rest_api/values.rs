// SPDX-License-Identifier: Apache-2.0
//! Values that several parts of the artifact write alike: durations within a range, whole
//! numbers, percentages, one of several words. Each reader records what is wrong under the
//! field's path and gives nothing, so that the other fields are still judged.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::Value;

use crate::duration;
use crate::fields::{Fields, Findings};

const DURATION: &str = "Invalid duration format (expected a single-unit duration like '30s', '1m', '500ms')";

/// A single-unit duration within a range, in whole milliseconds.
pub(super) fn duration(
    fields: &Fields<'_>,
    name: &str,
    range: RangeInclusive<Duration>,
    found: &mut Findings,
) -> Option<Duration> {
    let text = fields.text(name, found)?;
    match duration::parse_single(&text).map(duration::whole_millis) {
        None => found.violations.push(fields.path(name), DURATION),
        Some(duration) if range.contains(&duration) => return Some(duration),
        Some(_) => {
            let message = format!("Must be between {:?} and {:?}", range.start(), range.end());
            found.violations.push(fields.path(name), message);
        }
    }
    None
}

/// A whole number within a range.
pub(super) fn whole<N>(
    fields: &Fields<'_>,
    name: &str,
    range: RangeInclusive<N>,
    found: &mut Findings,
) -> Option<N>
where
    N: TryFrom<u64> + PartialOrd + std::fmt::Display,
{
    let value = fields.get(name)?;
    whole_value(value, &fields.path(name), range, found)
}

/// A whole number within a range, at this path.
pub(super) fn whole_value<N>(
    value: &Value,
    path: &str,
    range: RangeInclusive<N>,
    found: &mut Findings,
) -> Option<N>
where
    N: TryFrom<u64> + PartialOrd + std::fmt::Display,
{
    if !matches!(value, Value::Number(number) if !number.is_f64()) {
        found.mismatch(path, "a whole number", value);
        return None;
    }
    let number = value.as_u64().and_then(|number| N::try_from(number).ok());
    let number = number.filter(|number| range.contains(number));
    if number.is_none() {
        let message = format!("Must be a whole number between {} and {}", range.start(), range.end());
        found.violations.push(path, message);
    }
    number
}

/// One of these words, with what it stands for.
pub(super) fn choice<T: Copy>(
    fields: &Fields<'_>,
    name: &str,
    words: &[(&str, T)],
    found: &mut Findings,
) -> Option<T> {
    let text = fields.text(name, found)?;
    let chosen = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
    if chosen.is_none() {
        let words: Vec<String> = words.iter().map(|(word, _)| format!("'{word}'")).collect();
        found.violations.push(fields.path(name), format!("Must be one of {}", words.join(", ")));
    }
    chosen
}

/// A header or cookie name: a token (RFC 9110, 5.6.2).
pub(super) fn token(fields: &Fields<'_>, name: &str, found: &mut Findings) -> Option<String> {
    const MAX_CHARS: usize = 100;
    let text = fields.text(name, found)?;
    let fits = !text.is_empty()
        && text.len() <= MAX_CHARS
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
    if !fits {
        found.violations.push(fields.path(name), "Must be a header or cookie name of 1-100 characters");
        return None;
    }
    Some(text)
}
