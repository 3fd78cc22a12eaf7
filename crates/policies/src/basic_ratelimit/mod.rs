// SPDX-License-Identifier: Apache-2.0
//! `basic-ratelimit`: so many requests per window, for a whole API or one operation
//! (contract 6.10, headers and rejection as 6.11). Windows are fixed and aligned to the
//! epoch; counts live in the injected counters, so that they outlive a redeployment. The
//! clock is the exchange's.

use std::sync::Arc;

use bytes::Bytes;
use ferrogate_policy::{
    Answer, Attachment, CompileError, Counters, Definition, Exchange, Hooks, Level, Phases, Policy,
    PolicyError, RequestHead, ResponseHead, Services, Taken, Verdict,
};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use crate::header_list;

#[cfg(test)]
mod tests;

/// The name artifacts use.
pub const NAME: &str = "basic-ratelimit";

/// Every instance has this one quota.
const QUOTA: &str = "default";

const X_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const X_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const X_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
const X_QUOTA: HeaderName = HeaderName::from_static("x-ratelimit-quota");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

const REJECTION: &[u8] =
    br#"{"error": "Too Many Requests", "message": "Rate limit exceeded. Please try again later."}"#;

/// The definition.
pub struct BasicRatelimit;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    limits: Vec<LimitParams>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitParams {
    requests: u64,
    duration: String,
}

struct Instance {
    limits: Vec<Limit>,
    counters: Arc<dyn Counters>,
}

struct Limit {
    requests: u64,
    window_ms: u64,
    /// Names the counter: the same for every redeployment with an equal limit.
    key: String,
    /// `ratelimit-policy`, made once.
    policy: HeaderValue,
}

/// What a client is told: kept from request to response.
#[derive(Clone)]
struct Report {
    policy: HeaderValue,
    requests: u64,
    taken: Taken,
}

impl Definition for BasicRatelimit {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> &'static str {
        "v1.1.1"
    }

    fn description(&self) -> &'static str {
        "Limits how many requests an API or an operation serves per window."
    }

    fn schema(&self) -> &'static str {
        include_str!("schema.json")
    }

    fn compile(
        &self,
        params: &Value,
        attachment: &Attachment,
        services: &Services,
    ) -> Result<Policy, CompileError> {
        let params = Params::deserialize(params).map_err(|error| header_list::unreadable(&error))?;
        let scope = match attachment.level {
            Level::Api => format!("api:{}", attachment.api_handle),
            Level::Operation => format!("route:{}", attachment.route_name),
        };
        let compile = |(index, limit): (usize, &LimitParams)| {
            let window_ms = window_ms(&limit.duration).ok_or_else(|| CompileError {
                field: format!("limits.{index}.duration"),
                message: "must be longer than zero and at most 8760h".to_owned(),
            })?;
            let requests = limit.requests;
            let policy = format!("\"{QUOTA}\";q={requests};w={}", window_ms.div_ceil(1000));
            Ok(Limit {
                requests,
                window_ms,
                key: format!("{NAME}:{scope}#{index}:{requests}/{window_ms}"),
                policy: HeaderValue::try_from(policy).map_err(|_| CompileError {
                    field: String::new(),
                    message: "the limit cannot be written in a header".to_owned(),
                })?,
            })
        };
        let limits = params.limits.iter().enumerate().map(compile).collect::<Result<_, _>>()?;
        Ok(Box::new(Instance { limits, counters: Arc::clone(&services.counters) }))
    }
}

/// A duration in whole milliseconds, rounded up: the counters know no finer window.
fn window_ms(duration: &str) -> Option<u64> {
    /// A year: longer windows would hold a counter for what is no rate any more.
    const MAX_MS: u64 = 8_760 * 3_600_000;
    let digits = duration.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = duration.split_at(digits);
    let nanos_per_unit: u128 = match unit {
        "ns" => 1,
        "us" | "µs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60 * 1_000_000_000,
        "h" => 3_600 * 1_000_000_000,
        _ => return None,
    };
    let nanos = number.parse::<u128>().ok()?.checked_mul(nanos_per_unit)?;
    let millis = u64::try_from(nanos.div_ceil(1_000_000)).ok()?;
    (1..=MAX_MS).contains(&millis).then_some(millis)
}

impl Instance {
    /// Takes one request from every limit. With several, each is asked first, so that a
    /// request one of them denies is counted by none. The first denial is the one told;
    /// else the limit with the least left.
    fn take(&self, now_ms: u64) -> Option<Report> {
        if let [_, _, ..] = self.limits.as_slice() {
            for limit in &self.limits {
                let taken = self.counters.take(&limit.key, limit.window_ms, limit.requests, 0, now_ms);
                if taken.remaining == 0 {
                    return Some(limit.report(Taken { allowed: false, ..taken }));
                }
            }
        }
        let mut tightest: Option<(&Limit, Taken)> = None;
        for limit in &self.limits {
            let taken = self.counters.take(&limit.key, limit.window_ms, limit.requests, 1, now_ms);
            if !taken.allowed {
                return Some(limit.report(taken));
            }
            if tightest.is_none_or(|(_, least)| taken.remaining < least.remaining) {
                tightest = Some((limit, taken));
            }
        }
        tightest.map(|(limit, taken)| limit.report(taken))
    }
}

impl Limit {
    fn report(&self, taken: Taken) -> Report {
        Report { policy: self.policy.clone(), requests: self.requests, taken }
    }
}

impl Report {
    fn seconds_left(&self, now_ms: u64) -> u64 {
        self.taken.resets_at_ms.saturating_sub(now_ms).div_ceil(1000)
    }

    /// The headers on allowed responses and on the rejection alike.
    fn headers(&self, now_ms: u64) -> Result<[(HeaderName, HeaderValue); 5], PolicyError> {
        let Taken { remaining, resets_at_ms, .. } = self.taken;
        let left = self.seconds_left(now_ms);
        let ratelimit = HeaderValue::try_from(format!("\"{QUOTA}\";r={remaining};t={left}"))
            .map_err(|_| PolicyError("the rate limit's state cannot be written in a header".to_owned()))?;
        Ok([
            (X_LIMIT, HeaderValue::from(self.requests)),
            (X_REMAINING, HeaderValue::from(remaining)),
            (X_RESET, HeaderValue::from(resets_at_ms.div_ceil(1000))),
            (RATELIMIT_POLICY, self.policy.clone()),
            (RATELIMIT, ratelimit),
        ])
    }

    fn rejection(&self, now_ms: u64) -> Result<Answer, PolicyError> {
        let mut headers = Vec::with_capacity(8);
        headers.push((CONTENT_TYPE, HeaderValue::from_static("application/json")));
        headers.extend(self.headers(now_ms)?);
        headers.push((RETRY_AFTER, HeaderValue::from(self.seconds_left(now_ms).max(1))));
        headers.push((X_QUOTA, HeaderValue::from_static(QUOTA)));
        Ok(Answer { status: StatusCode::TOO_MANY_REQUESTS, headers, body: Bytes::from_static(REJECTION) })
    }
}

impl Hooks for Instance {
    fn phases(&self) -> Phases {
        Phases { request: true, response: true, ..Phases::default() }
    }

    fn on_request(
        &self,
        _: &mut dyn RequestHead,
        exchange: &mut Exchange<'_>,
    ) -> Result<Verdict, PolicyError> {
        let Some(report) = self.take(exchange.now_ms) else {
            return Err(PolicyError("there is no limit to take from".to_owned()));
        };
        if !report.taken.allowed {
            return Ok(Verdict::Answer(report.rejection(exchange.now_ms)?));
        }
        exchange.keep(report);
        Ok(Verdict::Continue)
    }

    fn on_response(
        &self,
        _request: &dyn RequestHead,
        head: &mut dyn ResponseHead,
        exchange: &mut Exchange<'_>,
    ) -> Result<Verdict, PolicyError> {
        // Nothing is kept when a condition skipped the request phase.
        if let Some(report) = exchange.kept::<Report>() {
            for (name, value) in report.headers(exchange.now_ms)? {
                head.set(&name, value);
            }
        }
        Ok(Verdict::Continue)
    }
}
