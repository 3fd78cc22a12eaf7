// SPDX-License-Identifier: Apache-2.0
//! `upstream.main.split`, `.mirror` and `resilience.fault`: where requests go besides one
//! upstream, and what is done to them on purpose. Extensions of the contract, described in
//! `docs/upstreams.md`. Every definition named here is known to exist.

use std::collections::HashSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{HashKey, balancing, duration_ms, values};
use crate::fields::{Fields, Findings};

/// The most parts of one split.
const MAX_PARTS: usize = 20;
const MAX_SHARE: u16 = 1000;
const MAX_DELAY: Duration = Duration::from_secs(300);

/// Requests divided over definitions by weight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficSplit {
    /// The definitions with their shares; not all 0.
    pub parts: Vec<SplitPart>,
    /// Requests with the same key go to the same definition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<HashKey>,
}

/// One definition's share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SplitPart {
    /// The definition's name.
    pub definition: String,
    /// Its share against the others'.
    pub weight: u16,
}

/// Requests copied to a definition, whose answers nobody waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mirror {
    /// The definition's name.
    pub definition: String,
    /// So many of a hundred requests.
    pub percent: u8,
}

/// Faults made on purpose, to see how clients bear them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// Requests that wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<FaultDelay>,
    /// Requests that are answered without asking the upstream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<FaultAbort>,
}

/// A wait before the upstream is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultDelay {
    /// How long.
    #[serde(with = "duration_ms::value")]
    pub duration: Duration,
    /// So many of a hundred requests.
    pub percent: u8,
}

/// An answer instead of the upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultAbort {
    /// The status, 400 to 599.
    pub status: u16,
    /// So many of a hundred requests.
    pub percent: u8,
}

/// `split`, and beside it what makes it stick.
pub(super) fn split(
    upstream: &Fields<'_>,
    names: &HashSet<String>,
    found: &mut Findings,
) -> Option<TrafficSplit> {
    let mut parts = Vec::new();
    for (path, value) in upstream.list("split", MAX_PARTS, found) {
        let fields = Fields::of(value, path, found);
        fields.only(&["ref", "weight"], found);
        if !fields.has("weight") {
            found.violations.push(fields.path("weight"), "The weight is required");
        }
        let weight = values::whole(&fields, "weight", 0..=MAX_SHARE, found);
        let definition = defined(&fields, names, found);
        if let (Some(definition), Some(weight)) = (definition, weight) {
            parts.push(SplitPart { definition, weight });
        }
    }
    let whole = parts.len() == upstream.list("split", MAX_PARTS, found).len();
    if whole && parts.iter().all(|part| part.weight == 0) {
        found.violations.push(upstream.path("split"), "At least one part must have a weight above 0");
    }
    let sticky = upstream.has("hashOn").then(|| balancing::hash_key(upstream, found)).flatten();
    Some(TrafficSplit { parts, sticky })
}

pub(super) fn mirror(upstream: &Fields<'_>, names: &HashSet<String>, found: &mut Findings) -> Option<Mirror> {
    if !upstream.has("mirror") {
        return None;
    }
    let fields = upstream.fields("mirror", found);
    fields.only(&["ref", "percent"], found);
    let percent = values::whole(&fields, "percent", 0..=100, found).unwrap_or(100);
    Some(Mirror { definition: defined(&fields, names, found)?, percent })
}

pub(super) fn fault(resilience: &Fields<'_>, found: &mut Findings) -> Option<Fault> {
    if !resilience.has("fault") {
        return None;
    }
    let fields = resilience.fields("fault", found);
    fields.only(&["delay", "abort"], found);
    let required = |fields: &Fields<'_>, name: &str, found: &mut Findings| {
        if !fields.has(name) {
            found.violations.push(fields.path(name), "The field is required");
        }
    };
    let delay = fields.has("delay").then(|| {
        let delay = fields.fields("delay", found);
        delay.only(&["duration", "percent"], found);
        required(&delay, "duration", found);
        let duration = values::duration(&delay, "duration", Duration::from_millis(1)..=MAX_DELAY, found);
        let percent = values::whole(&delay, "percent", 0..=100, found).unwrap_or(100);
        duration.map(|duration| FaultDelay { duration, percent })
    });
    let abort = fields.has("abort").then(|| {
        let abort = fields.fields("abort", found);
        abort.only(&["status", "percent"], found);
        required(&abort, "status", found);
        let status = values::whole(&abort, "status", 400..=599, found);
        let percent = values::whole(&abort, "percent", 0..=100, found).unwrap_or(100);
        status.map(|status| FaultAbort { status, percent })
    });
    Some(Fault { delay: delay.flatten(), abort: abort.flatten() })
}

/// `ref`, the name of a definition.
fn defined(fields: &Fields<'_>, names: &HashSet<String>, found: &mut Findings) -> Option<String> {
    let name = fields.text("ref", found).unwrap_or_default();
    if names.contains(&name) {
        return Some(name);
    }
    let message = if name.is_empty() {
        "Upstream reference is required".to_owned()
    } else {
        format!("Referenced upstream definition '{name}' not found in upstreamDefinitions")
    };
    found.violations.push(fields.path("ref"), message);
    None
}
