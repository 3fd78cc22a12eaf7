// SPDX-License-Identifier: Apache-2.0
//! The RestApi artifact (contract chapter 3) as inner code sees it: every field
//! parsed, every default filled in, nothing left to check. It is made by
//! [`RestApi::parse`] at the edge (`parse` and the files beside it, one per part of
//! the document) and, in the runtime, from a resource's payload.

mod balancing;
mod duration_ms;
mod headers;
mod health;
pub(crate) mod hosts;
mod operations;
mod parse;
mod policies;
mod protection;
mod retry;
mod steering;
mod upgrades;
mod upstream_tls;
mod upstreams;
mod url;
mod values;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use balancing::{BalancingPolicy, DEFAULT_COOKIE, HashKey, LoadBalancing, StickyCookie};
pub use headers::{MAX_REGEX_BYTES, header_regex};
pub use health::{HealthCheck, HealthQuestion};
pub use hosts::is_host_pattern;
pub use operations::{MAX_HEADER_MATCHES, MAX_OPERATIONS, MAX_ROUTES};
pub use parse::{MAX_PLANS, Parsed};
pub use policies::MAX_POLICIES;
pub use protection::{CircuitBreaker, FailureRate, OutlierDetection};
pub use retry::{RetryOn, RetryPolicy};
pub use steering::{Fault, FaultAbort, FaultDelay, Mirror, SplitPart, TrafficSplit};
pub use upgrades::MAX_UPGRADES;
pub use upstream_tls::{MAX_SUBJECT_ALT_NAMES, UpstreamTls};
pub use upstreams::{MAX_TARGETS, MAX_UPSTREAM_DEFINITIONS};

use crate::Handle;

/// A REST API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestApi {
    /// `metadata.name`.
    pub handle: Handle,
    /// `metadata.labels`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// `spec.displayName`.
    pub display_name: String,
    /// `spec.version`, as written.
    pub version: String,
    /// `spec.context` with `$version` substituted; `/` for the root context.
    pub context: String,
    /// `spec.vhosts.main`, split at `;`, trimmed and deduplicated; never empty.
    pub main_hosts: Vec<String>,
    /// `spec.vhosts.sandbox`; the gateway's default may be a `;`-separated list.
    pub sandbox_host: String,
    /// `spec.upstream.main`.
    pub main: Upstream,
    /// `spec.upstream.sandbox`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Upstream>,
    /// `spec.upstreamDefinitions`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upstream_definitions: Vec<UpstreamDefinition>,
    /// `spec.subscriptionPlans`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subscription_plans: Vec<String>,
    /// `spec.policies`: run before the operation's own, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicySpec>,
    /// `spec.resilience`.
    #[serde(default, skip_serializing_if = "Resilience::is_unset")]
    pub resilience: Resilience,
    /// `spec.operations`; never empty.
    pub operations: Vec<Operation>,
    /// `spec.deploymentState`.
    #[serde(default)]
    pub state: DeploymentState,
}

/// Whether the artifact's routes are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeploymentState {
    /// Routes are served.
    #[default]
    Deployed,
    /// Kept, but not served.
    Undeployed,
}

/// Where an API's requests go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Upstream {
    /// The target itself, or the name of a definition.
    #[serde(flatten)]
    pub target: UpstreamTarget,
    /// What the upstream sees as `Host`.
    #[serde(default)]
    pub host_rewrite: HostRewrite,
    /// `mirror`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Mirror>,
    /// Of a direct target; a definition has its own.
    #[serde(default, skip_serializing_if = "UpstreamProtocol::is_http1")]
    pub protocol: UpstreamProtocol,
}

/// Which version of HTTP an upstream is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: by prior knowledge in the clear, required by ALPN over TLS.
    Http2,
    /// What TLS agrees on by ALPN; in the clear HTTP/1.1.
    Auto,
}

/// A direct target or references; a reference is known to resolve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum UpstreamTarget {
    /// `url`.
    Url(TargetUrl),
    /// `ref`, the name of an entry of `upstreamDefinitions`.
    Ref(String),
    /// `split`, several definitions by weight.
    Split(TrafficSplit),
}

/// What the upstream sees as `Host`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostRewrite {
    /// The upstream's own host name.
    #[default]
    Auto,
    /// The client's `Host`.
    Manual,
}

/// An upstream URL in its parts; userinfo and fragment are dropped (contract 4.4).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetUrl {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// Host name or IP address (IPv6 without brackets).
    pub host: String,
    /// The port, the scheme's default when the URL names none.
    pub port: u16,
    /// The path part without a trailing slash; empty for the root.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub base_path: String,
}

/// How a target is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

/// `spec.upstreamDefinitions[]`: a named, reusable target set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamDefinition {
    /// Unique within the API.
    pub name: String,
    /// Prepended to the path sent upstream; empty for the root.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub base_path: String,
    /// `timeout.connect`.
    #[serde(default, with = "duration_ms", skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<Duration>,
    /// The targets; never empty, one scheme.
    pub targets: Vec<WeightedTarget>,
    /// `endpoints`.
    #[serde(default, skip_serializing_if = "Endpoints::is_per_target")]
    pub endpoints: Endpoints,
    /// `loadBalancing`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancing: Option<LoadBalancing>,
    /// `outlierDetection`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetection>,
    /// `circuitBreaker`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// `healthCheck`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Which version of HTTP they are spoken to.
    #[serde(default, skip_serializing_if = "UpstreamProtocol::is_http1")]
    pub protocol: UpstreamProtocol,
    /// `tls`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<UpstreamTls>,
}

/// `spec.upstreamDefinitions[].endpoints`: what of its targets is an endpoint, which is chosen, checked
/// and ejected as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Endpoints {
    /// Each target, whatever its name resolves to.
    #[default]
    PerTarget,
    /// Each address of each target's name.
    PerAddress,
}

/// `spec.upstreamDefinitions[].upstreams[]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WeightedTarget {
    /// Host and port; its base path is empty.
    pub url: TargetUrl,
    /// 0 to 100; `None` when the author gave none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u8>,
    /// Where it runs; runtimes of that zone prefer it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// `resilience`: `None` inherits, zero disables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resilience {
    /// The whole request, from its first byte to the response's last.
    #[serde(default, with = "duration_ms", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// The longest silence on the request's stream.
    #[serde(default, with = "duration_ms", skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Duration>,
    /// When requests are sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,
    /// Faults made on purpose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// One policy attached to an API or an operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicySpec {
    /// The policy's name.
    pub name: String,
    /// `vN`, or `None` for the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// A CEL condition; the policy is skipped in a phase where it is false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution_condition: Option<String>,
    /// The parameters, as data: their schema belongs to the policy.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub params: serde_json::Value,
}

/// `spec.operations[]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    /// The method, upper case.
    pub method: Method,
    /// The path below the context, as written; a `PathPrefix` match always ends with `/*`.
    pub path: String,
    /// The path came from the `match` form with type `Exact`: no trailing-slash tolerance.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exact: bool,
    /// All must match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
    /// Run after the API's own, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicySpec>,
    /// Overrides the API's per field.
    #[serde(default, skip_serializing_if = "Resilience::is_unset")]
    pub resilience: Resilience,
    /// The protocols a client may switch to, lower case; `None` leaves it to the runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrades: Option<Vec<String>>,
}

/// The methods an operation can serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "the variants are their own documentation")]
pub enum Method {
    Get,
    Post,
    Put,
    Delete,
    Patch,
    Head,
    Options,
}

/// One header condition of an operation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderMatch {
    /// Lower case.
    pub name: String,
    /// What the value must be.
    #[serde(flatten)]
    pub value: HeaderValueMatch,
}

/// How a header's value is compared; a regular expression is known to compile.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HeaderValueMatch {
    /// Equal to this text.
    Exact(String),
    /// Matched, whole, by this expression.
    Regex(String),
}

impl Endpoints {
    /// Whether it is what is meant where nothing is said.
    #[must_use]
    pub fn is_per_target(&self) -> bool {
        *self == Endpoints::PerTarget
    }
}

impl UpstreamProtocol {
    /// Whether it is the one that is meant where nothing is said.
    #[must_use]
    pub fn is_http1(&self) -> bool {
        *self == UpstreamProtocol::Http1
    }
}

impl Resilience {
    /// Nothing is set: everything is inherited.
    #[must_use]
    pub fn is_unset(&self) -> bool {
        *self == Resilience::default()
    }

    /// This, with unset fields taken from `outer`.
    #[must_use]
    pub fn or(&self, outer: &Resilience) -> Resilience {
        Resilience {
            timeout: self.timeout.or(outer.timeout),
            idle_timeout: self.idle_timeout.or(outer.idle_timeout),
            retry: self.retry.clone().or_else(|| outer.retry.clone()),
            fault: self.fault.or(outer.fault),
        }
    }
}

impl Method {
    /// Every method, in the order used by messages.
    pub const ALL: [Method; 7] = [
        Method::Get,
        Method::Post,
        Method::Put,
        Method::Delete,
        Method::Patch,
        Method::Head,
        Method::Options,
    ];

    /// The token on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Patch => "PATCH",
            Method::Head => "HEAD",
            Method::Options => "OPTIONS",
        }
    }

    /// The method with exactly this token.
    #[must_use]
    pub fn from_token(token: &str) -> Option<Method> {
        Method::ALL.into_iter().find(|method| method.as_str() == token)
    }
}
