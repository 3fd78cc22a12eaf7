// SPDX-License-Identifier: Apache-2.0
//! `resilience.retry`: when a request that came to nothing is sent again, how often and how
//! soon. An extension of the contract, described with its defaults in `docs/upstreams.md`. A
//! section that stands in the document has every default filled in; an operation's
//! replaces its API's as a whole.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{duration_ms, values};
use crate::fields::{Fields, Findings, text};

/// The most attempts after the first.
const MAX_RETRIES: u8 = 10;
const MAX_STATUS_CODES: usize = 32;
const MAX_BODY_BYTES: u32 = 16 * 1024 * 1024;
const HOUR: Duration = Duration::from_secs(3600);
const MILLISECOND: Duration = Duration::from_millis(1);

/// When a request is sent again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryPolicy {
    /// The most attempts after the first.
    pub max_retries: u8,
    /// What is tried again.
    pub on: Vec<RetryOn>,
    /// Responses that are tried again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub status_codes: Vec<u16>,
    /// No attempt waits longer for a response's head; then the next begins.
    #[serde(default, with = "duration_ms", skip_serializing_if = "Option::is_none")]
    pub per_try_timeout: Option<Duration>,
    /// The wait before the first retry; each further one waits twice as long.
    #[serde(with = "duration_ms::value")]
    pub backoff_base: Duration,
    /// No wait is longer.
    #[serde(with = "duration_ms::value")]
    pub backoff_max: Duration,
    /// Retries under way, in percent of the API's requests under way.
    pub budget_percent: u8,
    /// So many retries may be under way whatever the percentage says.
    pub budget_minimum: u32,
    /// A longer request body is not held, and its request not sent twice.
    pub max_body_bytes: u32,
}

/// How an attempt came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryOn {
    /// No connection was made.
    ConnectFailure,
    /// The upstream took the connection, but provably nothing of the request.
    RefusedStream,
    /// The connection ended before a response's head.
    Reset,
}

pub(super) fn read(resilience: &Fields<'_>, found: &mut Findings) -> Option<RetryPolicy> {
    if !resilience.has("retry") {
        return None;
    }
    let fields = resilience.fields("retry", found);
    fields.only(
        &["maxRetries", "on", "statusCodes", "perTryTimeout", "backoff", "budget", "maxBodyBytes"],
        found,
    );
    let backoff = fields.fields("backoff", found);
    backoff.only(&["base", "max"], found);
    let budget = fields.fields("budget", found);
    budget.only(&["percent", "minimum"], found);
    let base = values::duration(&backoff, "base", MILLISECOND..=HOUR, found);
    let max = values::duration(&backoff, "max", MILLISECOND..=HOUR, found);
    let backoff_base = base.unwrap_or(Duration::from_millis(25));
    let backoff_max = max.unwrap_or(backoff_base.saturating_mul(10));
    if backoff_max < backoff_base {
        let message = format!("Must not be shorter than base ({backoff_base:?})");
        found.violations.push(backoff.path("max"), message);
    }
    Some(RetryPolicy {
        max_retries: values::whole(&fields, "maxRetries", 1..=MAX_RETRIES, found).unwrap_or(1),
        on: conditions(&fields, found),
        status_codes: status_codes(&fields, found),
        per_try_timeout: values::duration(&fields, "perTryTimeout", MILLISECOND..=HOUR, found),
        backoff_base,
        backoff_max,
        budget_percent: values::whole(&budget, "percent", 0..=100, found).unwrap_or(20),
        budget_minimum: values::whole(&budget, "minimum", 0..=10_000, found).unwrap_or(3),
        max_body_bytes: values::whole(&fields, "maxBodyBytes", 0..=MAX_BODY_BYTES, found)
            .unwrap_or(64 * 1024),
    })
}

fn conditions(fields: &Fields<'_>, found: &mut Findings) -> Vec<RetryOn> {
    let words = [
        ("connect-failure", RetryOn::ConnectFailure),
        ("refused-stream", RetryOn::RefusedStream),
        ("reset", RetryOn::Reset),
    ];
    if !fields.has("on") {
        return words.map(|(_, condition)| condition).to_vec();
    }
    let mut conditions = Vec::new();
    for (path, value) in fields.list("on", words.len(), found) {
        let Some(word) = text(value, &path, found) else { continue };
        match words.iter().find(|(known, _)| *known == word) {
            Some((_, condition)) if !conditions.contains(condition) => conditions.push(*condition),
            Some(_) => {}
            None => {
                let words = words.map(|(word, _)| format!("'{word}'")).join(", ");
                found.violations.push(path, format!("Must be one of {words}"));
            }
        }
    }
    conditions
}

fn status_codes(fields: &Fields<'_>, found: &mut Findings) -> Vec<u16> {
    let mut codes = Vec::new();
    for (path, value) in fields.list("statusCodes", MAX_STATUS_CODES, found) {
        codes.extend(values::whole_value(value, &path, 400..=599, found));
    }
    codes.sort_unstable();
    codes.dedup();
    codes
}
