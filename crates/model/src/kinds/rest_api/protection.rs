// SPDX-License-Identifier: Apache-2.0
//! `upstreamDefinitions[].outlierDetection` and `.circuitBreaker`: when a target is left
//! alone for a while, and how much it is given at once. Extensions of the contract,
//! described with their defaults in `docs/upstreams.md`. A section that stands in the
//! document has every default filled in; one that does not protects nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{duration_ms, values};
use crate::fields::{Fields, Findings};

const MILLISECOND: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(24 * 3600);
const MAX_COUNT: u32 = 1_000_000;

/// When a target that fails is taken out of service, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutlierDetection {
    /// So many failures in a row; 0 does not look at rows.
    pub consecutive_failures: u32,
    /// Too large a part of the requests of an interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_rate: Option<FailureRate>,
    /// The first ejection lasts this long, the next in a row twice as long, and so on.
    #[serde(with = "duration_ms::value")]
    pub base_ejection_time: Duration,
    /// No ejection lasts longer.
    #[serde(with = "duration_ms::value")]
    pub max_ejection_time: Duration,
    /// No more targets than this are out at once; at least one may be, unless this is 0.
    pub max_ejected_percent: u8,
}

/// A part of the requests that may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailureRate {
    /// From this percentage on.
    pub percent: u8,
    /// Judged only with so many requests.
    pub minimum_requests: u32,
    /// Counted anew in each.
    #[serde(with = "duration_ms::value")]
    pub interval: Duration,
}

/// How much each target is given at once by one runtime; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CircuitBreaker {
    /// Open connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Requests that wait for a connection because of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_pending: Option<u32>,
    /// Requests under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
}

pub(super) fn outlier_detection(definition: &Fields<'_>, found: &mut Findings) -> Option<OutlierDetection> {
    if !definition.has("outlierDetection") {
        return None;
    }
    let fields = definition.fields("outlierDetection", found);
    fields.only(
        &["consecutiveFailures", "failureRate", "baseEjectionTime", "maxEjectionTime", "maxEjectedPercent"],
        found,
    );
    let time = |name: &str, default: u64, found: &mut Findings| {
        let given = values::duration(&fields, name, MILLISECOND..=DAY, found);
        given.unwrap_or(Duration::from_secs(default))
    };
    let outlier = OutlierDetection {
        consecutive_failures: values::whole(&fields, "consecutiveFailures", 0..=1000, found).unwrap_or(5),
        failure_rate: failure_rate(&fields, found),
        base_ejection_time: time("baseEjectionTime", 30, found),
        max_ejection_time: time("maxEjectionTime", 300, found),
        max_ejected_percent: values::whole(&fields, "maxEjectedPercent", 0..=100, found).unwrap_or(50),
    };
    if outlier.max_ejection_time < outlier.base_ejection_time {
        let message = format!("Must not be shorter than baseEjectionTime ({:?})", outlier.base_ejection_time);
        found.violations.push(fields.path("maxEjectionTime"), message);
    }
    if outlier.consecutive_failures == 0 && !fields.has("failureRate") {
        found.warn(fields.own_path(), "neither rows nor rates of failures are looked at; nothing is ejected");
    }
    Some(outlier)
}

fn failure_rate(outlier: &Fields<'_>, found: &mut Findings) -> Option<FailureRate> {
    if !outlier.has("failureRate") {
        return None;
    }
    let fields = outlier.fields("failureRate", found);
    fields.only(&["percent", "minimumRequests", "interval"], found);
    if !fields.has("percent") {
        found.violations.push(fields.path("percent"), "The percentage is required");
    }
    let percent = values::whole(&fields, "percent", 1..=100, found);
    // A window's counts share one word with its number, which bounds them.
    let minimum = values::whole(&fields, "minimumRequests", 1..=100_000, found);
    let interval = values::duration(&fields, "interval", Duration::from_millis(100)..=DAY, found);
    Some(FailureRate {
        percent: percent?,
        minimum_requests: minimum.unwrap_or(20),
        interval: interval.unwrap_or(Duration::from_secs(10)),
    })
}

pub(super) fn circuit_breaker(definition: &Fields<'_>, found: &mut Findings) -> Option<CircuitBreaker> {
    if !definition.has("circuitBreaker") {
        return None;
    }
    let fields = definition.fields("circuitBreaker", found);
    fields.only(&["maxConnections", "maxPending", "maxRequests"], found);
    let breaker = CircuitBreaker {
        max_connections: values::whole(&fields, "maxConnections", 1..=MAX_COUNT, found),
        max_pending: values::whole(&fields, "maxPending", 0..=MAX_COUNT, found),
        max_requests: values::whole(&fields, "maxRequests", 1..=MAX_COUNT, found),
    };
    if fields.has("maxPending") && !fields.has("maxConnections") {
        found.warn(fields.path("maxPending"), "nothing waits where maxConnections is not set");
    }
    Some(breaker)
}
