// SPDX-License-Identifier: Apache-2.0
//! `upstreamDefinitions[].healthCheck`: how a runtime asks targets whether they are well. An
//! extension of the contract, described with its defaults in `docs/upstreams.md`. What does
//! not belong to the kind of check is refused, so that a [`HealthCheck`] asks one thing.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{duration_ms, values};
use crate::fields::{Fields, Findings, text};

const MAX_STATUS_RANGES: usize = 32;
const MAX_TEXT_CHARS: usize = 200;

/// How and how often targets are asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// What is asked.
    pub question: HealthQuestion,
    /// From one question to the next.
    #[serde(with = "duration_ms::value")]
    pub interval: Duration,
    /// An answer that takes longer is none.
    #[serde(with = "duration_ms::value")]
    pub timeout: Duration,
    /// So many good answers in a row make a target healthy again.
    pub healthy_threshold: u32,
    /// So many bad ones make it unhealthy.
    pub unhealthy_threshold: u32,
}

/// What a target is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HealthQuestion {
    /// A GET; the status decides.
    #[serde(rename_all = "camelCase")]
    Http {
        /// The path.
        path: String,
        /// `Host`, instead of the target's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// Good statuses, each range with both ends.
        expected_statuses: Vec<(u16, u16)>,
    },
    /// `grpc.health.v1.Health/Check` over HTTP/2; the service must be serving.
    Grpc {
        /// The service asked about; empty for the server.
        service: String,
    },
    /// Whether a connection can be made.
    Tcp,
}

#[derive(Clone, Copy)]
enum Word {
    Http,
    Grpc,
    Tcp,
}

pub(super) fn read(definition: &Fields<'_>, found: &mut Findings) -> Option<HealthCheck> {
    if !definition.has("healthCheck") {
        return None;
    }
    let fields = definition.fields("healthCheck", found);
    let own = ["path", "host", "expectedStatuses", "service"];
    let common = ["type", "interval", "timeout", "healthyThreshold", "unhealthyThreshold"];
    fields.only(&[&common[..], &own[..]].concat(), found);
    let words = [("http", Word::Http), ("grpc", Word::Grpc), ("tcp", Word::Tcp)];
    if !fields.has("type") {
        found.violations.push(fields.path("type"), "The type of check is required: 'http', 'grpc' or 'tcp'");
    }
    let word = values::choice(&fields, "type", &words, found)?;
    let belongs: &[&str] = match word {
        Word::Http => &["path", "host", "expectedStatuses"],
        Word::Grpc => &["service"],
        Word::Tcp => &[],
    };
    for name in own {
        if fields.has(name) && !belongs.contains(&name) {
            found.violations.push(fields.path(name), "Has no meaning with this type of check");
        }
    }
    let question = match word {
        Word::Http => HealthQuestion::Http {
            path: path(&fields, found),
            host: host(&fields, found),
            expected_statuses: expected_statuses(&fields, found),
        },
        Word::Grpc => {
            HealthQuestion::Grpc { service: short_text(&fields, "service", found).unwrap_or_default() }
        }
        Word::Tcp => HealthQuestion::Tcp,
    };
    let range = Duration::from_millis(100)..=Duration::from_secs(3600);
    let interval =
        values::duration(&fields, "interval", range.clone(), found).unwrap_or(Duration::from_secs(10));
    let timeout = values::duration(&fields, "timeout", range, found).unwrap_or(Duration::from_secs(2));
    if timeout > interval && !(fields.has("interval") && interval == timeout) {
        let message = format!("Must not be longer than interval ({interval:?})");
        found.violations.push(fields.path("timeout"), message);
    }
    Some(HealthCheck {
        question,
        interval,
        timeout,
        healthy_threshold: values::whole(&fields, "healthyThreshold", 1..=100, found).unwrap_or(2),
        unhealthy_threshold: values::whole(&fields, "unhealthyThreshold", 1..=100, found).unwrap_or(3),
    })
}

fn path(fields: &Fields<'_>, found: &mut Findings) -> String {
    let path = short_text(fields, "path", found).unwrap_or_else(|| "/".to_owned());
    if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic()) || path.contains('#') {
        found.violations.push(fields.path("path"), "Must be a path that starts with '/', of printable ASCII");
    }
    path
}

fn host(fields: &Fields<'_>, found: &mut Findings) -> Option<String> {
    let host = short_text(fields, "host", found)?;
    let fits = !host.is_empty()
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte));
    if !fits {
        found.violations.push(fields.path("host"), "Must be a host name, with a port if it has one");
    }
    Some(host)
}

fn short_text(fields: &Fields<'_>, name: &str, found: &mut Findings) -> Option<String> {
    let text = fields.text(name, found)?;
    if text.chars().count() > MAX_TEXT_CHARS || text.contains(char::is_control) {
        let message = format!("Must be at most {MAX_TEXT_CHARS} printable characters");
        found.violations.push(fields.path(name), message);
    }
    Some(text)
}

/// Each a status (`200`) or a range (`200-299`).
fn expected_statuses(fields: &Fields<'_>, found: &mut Findings) -> Vec<(u16, u16)> {
    if !fields.has("expectedStatuses") {
        return vec![(200, 299)];
    }
    let elements = fields.list("expectedStatuses", MAX_STATUS_RANGES, found);
    let ranges: Vec<(u16, u16)> =
        elements.iter().filter_map(|(path, value)| range(value, path, found)).collect();
    if elements.is_empty() {
        found.violations.push(fields.path("expectedStatuses"), "At least one status is required");
    }
    ranges
}

fn range(value: &Value, path: &str, found: &mut Findings) -> Option<(u16, u16)> {
    // A single status is a number, a range is text.
    let text = match value {
        Value::Number(number) => number.to_string(),
        other => text(other, path, found)?,
    };
    let (first, last) = text.split_once('-').unwrap_or((&text, &text));
    let status = |text: &str| text.parse().ok().filter(|status| (100..=599).contains(status));
    match (status(first), status(last)) {
        (Some(first), Some(last)) if first <= last => Some((first, last)),
        _ => {
            found.violations.push(path, "Must be a status such as 200, or a range such as '200-299'");
            None
        }
    }
}
