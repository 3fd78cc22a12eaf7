// SPDX-License-Identifier: Apache-2.0
//! `basic-ratelimit`: so many requests per window, for a whole API or one operation
//! (contract 6.10, headers and rejection as 6.11). How it is counted and which headers tell
//! of it is the operator's to say (`ratelimit_v1`); counts live in the injected counters, so
//! that they outlive a redeployment. The clock is the exchange's.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrogate_policy::counters::{DEFAULT_CLEANUP_INTERVAL, DEFAULT_MAX_ENTRIES};
use ferrogate_policy::{
    Algorithm, Answer, Attachment, CompileError, Counters, Definition, Exchange, Hooks, Level,
    MemoryCounters, OperatorSection, ParamFault, Phases, Policy, PolicyError, Registry, RequestHead,
    ResponseHead, Rule, Services, Taken, Verdict,
};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use crate::{duration, header_list};

#[cfg(test)]
mod tests;

/// The name artifacts use.
pub const NAME: &str = "basic-ratelimit";

/// The operator's section (contract 6.11), shared by every policy that limits rates.
const SECTION: &str = "ratelimit_v1";

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

/// The artifact's parameters over the operator's section; what is allowed in each the two
/// schemas say.
#[derive(Deserialize)]
struct Params {
    limits: Vec<LimitParams>,
    #[serde(default)]
    algorithm: Counting,
    #[serde(default)]
    headers: Included,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Counting {
    #[default]
    FixedWindow,
    Gcra,
}

/// Which headers clients get.
#[derive(Clone, Copy, Deserialize)]
struct Included {
    include_x_rate_limit: bool,
    include_ietf: bool,
    include_retry_after: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitParams {
    requests: u64,
    duration: String,
}

struct Instance {
    limits: Vec<Limit>,
    headers: Included,
    counters: Arc<dyn Counters>,
}

struct Limit {
    rule: Rule,
    /// Names the counter: the same for every redeployment with an equal limit, wherever in the list.
    key: String,
    /// `ratelimit-policy`, made once.
    policy: HeaderValue,
}

/// What a client is told: kept from request to response.
#[derive(Clone)]
struct Report {
    policy: HeaderValue,
    requests: u64,
    headers: Included,
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

    fn operator_section(&self) -> Option<OperatorSection> {
        Some(OperatorSection { name: SECTION, schema: include_str!("operator.json"), check: check_section })
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
        let mut limits: Vec<Limit> = Vec::with_capacity(params.limits.len());
        for (index, limit) in params.limits.iter().enumerate() {
            let window_ms = window_ms(&limit.duration).ok_or_else(|| CompileError {
                field: format!("limits.{index}.duration"),
                message: "must be longer than zero and at most 8760h".to_owned(),
            })?;
            let requests = limit.requests;
            // Without a parameter for it, everything may be taken at once.
            let rule =
                Rule { algorithm: params.algorithm.into(), limit: requests, window_ms, burst: requests };
            // Written twice it limits no more than once, and would count every request twice.
            if limits.iter().all(|known| known.rule != rule) {
                limits.push(Limit::new(rule, &scope)?);
            }
        }
        let counters = Arc::clone(&services.counters);
        Ok(Box::new(Instance { limits, headers: params.headers, counters }))
    }
}

impl Default for Included {
    fn default() -> Included {
        Included { include_x_rate_limit: true, include_ietf: true, include_retry_after: true }
    }
}

impl From<Counting> for Algorithm {
    fn from(counting: Counting) -> Algorithm {
        match counting {
            Counting::FixedWindow => Algorithm::FixedWindow,
            Counting::Gcra => Algorithm::Gcra,
        }
    }
}

/// What the section's schema cannot say.
fn check_section(values: &Value) -> Result<(), ParamFault> {
    let fault =
        |field: &str, message: &str| ParamFault { field: field.to_owned(), message: message.to_owned() };
    if values["backend"] != "memory" {
        let message = "only \"memory\" is supported: each runtime counts for itself, there is no shared \
                       backend such as Redis";
        return Err(fault("backend", message));
    }
    match values["memory"]["cleanup_interval"].as_str().and_then(window_ms) {
        Some(_) => Ok(()),
        None => Err(fault("memory.cleanup_interval", "must be longer than zero and at most 8760h")),
    }
}

/// The counters that the operator's section asks for.
#[must_use]
pub fn counters(registry: &Registry) -> MemoryCounters {
    let section =
        registry.resolve(NAME, None).map_or(&Value::Null, |registered| registered.operator_values());
    let memory = &section["memory"];
    let max = memory["max_entries"].as_u64().and_then(|max| usize::try_from(max).ok());
    let interval = memory["cleanup_interval"].as_str().and_then(window_ms).map(Duration::from_millis);
    MemoryCounters::with_cleanup(
        max.unwrap_or(DEFAULT_MAX_ENTRIES),
        interval.unwrap_or(DEFAULT_CLEANUP_INTERVAL),
    )
}

/// A window's length; the counters know none below a millisecond.
fn window_ms(duration: &str) -> Option<u64> {
    duration::millis(duration).filter(|millis| *millis > 0)
}

impl Instance {
    /// Takes one request from every limit. With several, each is asked first, so that a
    /// request one of them denies is counted by none. The first denial is the one told;
    /// else the limit with the least left.
    fn take(&self, now_ms: u64) -> Option<Report> {
        if let [_, _, ..] = self.limits.as_slice() {
            for limit in &self.limits {
                let taken = self.counters.take(&limit.key, limit.rule, 0, now_ms);
                if taken.remaining == 0 {
                    // A look costs nothing and so says nothing of when to come back.
                    let denied = self.counters.take(&limit.key, limit.rule, 1, now_ms);
                    return Some(limit.report(denied, self.headers));
                }
            }
        }
        let mut tightest: Option<(&Limit, Taken)> = None;
        for limit in &self.limits {
            let taken = self.counters.take(&limit.key, limit.rule, 1, now_ms);
            if !taken.allowed {
                return Some(limit.report(taken, self.headers));
            }
            if tightest.is_none_or(|(_, least)| taken.remaining < least.remaining) {
                tightest = Some((limit, taken));
            }
        }
        tightest.map(|(limit, taken)| limit.report(taken, self.headers))
    }
}

impl Limit {
    fn new(rule: Rule, scope: &str) -> Result<Limit, CompileError> {
        let Rule { limit, window_ms, .. } = rule;
        let policy = format!("\"{QUOTA}\";q={limit};w={}", window_ms.div_ceil(1000));
        Ok(Limit {
            rule,
            key: format!("{NAME}:{scope}:{limit}/{window_ms}"),
            policy: HeaderValue::try_from(policy).map_err(|_| CompileError {
                field: String::new(),
                message: "the limit cannot be written in a header".to_owned(),
            })?,
        })
    }

    fn report(&self, taken: Taken, headers: Included) -> Report {
        Report { policy: self.policy.clone(), requests: self.rule.limit, headers, taken }
    }
}

impl Report {
    /// The headers on allowed responses and on the rejection alike.
    fn each_header(
        &self,
        now_ms: u64,
        mut put: impl FnMut(HeaderName, HeaderValue),
    ) -> Result<(), PolicyError> {
        let Taken { remaining, resets_at_ms, .. } = self.taken;
        if self.headers.include_x_rate_limit {
            put(X_LIMIT, HeaderValue::from(self.requests));
            put(X_REMAINING, HeaderValue::from(remaining));
            put(X_RESET, HeaderValue::from(resets_at_ms.div_ceil(1000)));
        }
        if self.headers.include_ietf {
            let left = seconds_until(resets_at_ms, now_ms);
            let state =
                HeaderValue::try_from(format!("\"{QUOTA}\";r={remaining};t={left}")).map_err(|_| {
                    PolicyError("the rate limit's state cannot be written in a header".to_owned())
                })?;
            put(RATELIMIT_POLICY, self.policy.clone());
            put(RATELIMIT, state);
        }
        Ok(())
    }

    fn rejection(&self, now_ms: u64) -> Result<Answer, PolicyError> {
        let mut headers = Vec::with_capacity(8);
        headers.push((CONTENT_TYPE, HeaderValue::from_static("application/json")));
        self.each_header(now_ms, |name, value| headers.push((name, value)))?;
        if self.headers.include_retry_after {
            let seconds = seconds_until(self.taken.retry_at_ms, now_ms).max(1);
            headers.push((RETRY_AFTER, HeaderValue::from(seconds)));
        }
        headers.push((X_QUOTA, HeaderValue::from_static(QUOTA)));
        Ok(Answer { status: StatusCode::TOO_MANY_REQUESTS, headers, body: Bytes::from_static(REJECTION) })
    }
}

fn seconds_until(at_ms: u64, now_ms: u64) -> u64 {
    at_ms.saturating_sub(now_ms).div_ceil(1000)
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
            report.each_header(exchange.now_ms, |name, value| head.set(&name, value))?;
        }
        Ok(Verdict::Continue)
    }
}
