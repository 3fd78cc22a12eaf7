// SPDX-License-Identifier: Apache-2.0
//! What a request finds: a compiled route with everything the request walk needs, ready
//! made. Nothing here is parsed, resolved or allocated per request except the upstream
//! path. [`crate::prepare`] makes it; [`super::Table`] finds it; it is never changed.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_model::kinds::rest_api::{
    HostRewrite, Method, Operation, Scheme, UpstreamProtocol, UpstreamTls,
};
use ferrogate_model::route::same_escapes;
use ferrogate_model::{ResourceName, Revision};
use ferrogate_policy::{Attachment, Chain};
use smallvec::SmallVec;
use smol_str::SmolStr;

use crate::upstream::group::Group;
use crate::upstream::steering::Steering;

/// One operation on one virtual host, ready to serve.
pub struct CompiledRoute {
    /// `METHOD|FULLPATH|VHOST` (contract 4.1), for logs and rate-limit keys.
    pub name: Arc<str>,
    /// The virtual host pattern the route stands on.
    pub vhost: Arc<str>,
    /// Whether the route belongs to the sandbox upstream.
    pub sandbox: bool,
    /// What policies see of the route.
    pub attachment: Attachment,
    /// The artifact the route came from.
    pub artifact: ResourceName,
    /// The revision that gave the artifact its content.
    pub version: Revision,
    /// The policies, or why this route can only answer a fixed 500 (invariant 7).
    pub chain: Result<Arc<Chain>, Poison>,
    /// How the path sent upstream is made.
    pub rewrite: Rewrite,
    /// Where requests go unless a policy chooses a definition. Without endpoints only when poisoned
    /// or when the author gave every endpoint the weight 0.
    pub target: Arc<Target>,
    /// The API's upstream definitions, for a policy's choice; shared by all routes of the artifact.
    pub definitions: Arc<BTreeMap<String, Arc<Target>>>,
    /// What is done to requests beyond sending them once to the target; `None` for most routes.
    pub steering: Option<Box<Steering>>,
    /// What the upstream sees as `Host`, unless a policy says otherwise.
    pub host_rewrite: HostRewrite,
    /// The route's own limits in time.
    pub timeouts: Timeouts,
    /// The protocols a client may switch to.
    pub upgrades: Upgrades,
    /// Whether the hot path may serve it: no policy wants to see a body, and a request is sent once
    /// to a plain target, which nobody guards. Worked out beforehand, since to find out is to
    /// look at every target of the API.
    pub is_plain: bool,
}

/// The protocols a client may switch its connection to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upgrades {
    /// What GET allows unless its author says otherwise; it costs a route nothing.
    WebSocket,
    /// These, lower case; none when empty.
    Listed(Box<[String]>),
}

/// The endpoints of a target. One alone, as nearly all are, stands in the target itself.
pub type Endpoints = SmallVec<[Endpoint; 1]>;

/// A set of endpoints that can serve the same requests.
#[derive(Clone, Debug)]
pub struct Target {
    /// The definition's name; `main` or `sandbox` for a URL that is no definition's.
    pub name: String,
    /// Every endpoint that takes traffic.
    pub endpoints: Endpoints,
    /// Prepended to the path; empty for the root, never with a trailing slash.
    pub base_path: String,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How an endpoint is taken and guarded, where that is more than a weighted turn.
    pub group: Option<Arc<Group>>,
}

/// One endpoint of a target.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Plain or TLS.
    pub scheme: Scheme,
    /// Which version of HTTP it is spoken to.
    pub protocol: UpstreamProtocol,
    /// How it must prove itself and what it is shown, where that is not as for all.
    pub tls: Option<Arc<UpstreamTls>>,
    /// Host name or IP address, IPv6 without brackets.
    pub host: SmolStr,
    /// The port.
    pub port: u16,
    /// The one address of the name that it is, where each is an endpoint of its own.
    pub address: Option<IpAddr>,
    /// Its share of the target's requests, 1 to 100.
    pub weight: u8,
    /// Where its connections are counted, whose they are: no other endpoint of the same address
    /// uses them, and it uses no other's.
    pub owner: Option<u64>,
}

/// Limits in time; `None` is no limit (`0s` in the artifact or the configuration).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// The whole request, from its first byte to the response's last.
    pub request: Option<Duration>,
    /// The longest silence on the request's stream.
    pub idle: Option<Duration>,
    /// The making of an upstream connection, where the target says nothing else.
    pub connect: Duration,
}

/// Why a route can only answer a fixed 500: it must never fail open and never fail its siblings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poison {
    /// The kind of fault, stable for machines.
    pub reason: PoisonReason,
    /// What exactly, for the log and the status; never for the client.
    pub detail: String,
}

/// The kinds of fault that poison a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoisonReason {
    /// The upstream reference names no definition.
    DanglingUpstream,
    /// A policy that this runtime does not have.
    UnknownPolicy,
    /// The policies do not compile.
    BrokenChain,
}

/// How a request's path becomes the upstream's (contract 4.4): strip the context, keep the rest,
/// prepend the target's base path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    context: SmolStr,
    operation_is_root: bool,
}

impl Rewrite {
    /// The rewrite of an operation below a context (`/` is the root context).
    #[must_use]
    pub fn new(context: &str, operation_path: &str) -> Rewrite {
        let context = if context == "/" { SmolStr::default() } else { SmolStr::new(same_escapes(context)) };
        Rewrite { context, operation_is_root: operation_path == "/" }
    }

    /// The path and query to send upstream for this path and query, which is the client's,
    /// normalised, or what a policy made of it. A path outside the context (a policy's
    /// doing) is kept whole: there is nothing to strip.
    #[must_use]
    pub fn upstream_path(&self, path_and_query: &str, base_path: &str) -> String {
        self.upstream_parts(path_and_query, base_path).concat()
    }

    /// The same in parts that follow one another: base path, slash, the rest with its query.
    #[must_use]
    pub fn upstream_parts<'a>(&self, path_and_query: &'a str, base_path: &'a str) -> [&'a str; 3] {
        let path_bytes = memchr::memchr(b'?', path_and_query.as_bytes()).unwrap_or(path_and_query.len());
        let (path, query) = path_and_query.split_at_checked(path_bytes).unwrap_or((path_and_query, ""));
        let inside = path
            .split_at_checked(self.context.len())
            .filter(|(context, rest)| {
                *same_escapes(context) == self.context && (rest.is_empty() || rest.starts_with('/'))
            })
            .map(|(_, rest)| rest.len() + query.len());
        let rest = inside
            .and_then(|bytes| path_and_query.get(path_and_query.len() - bytes..))
            .unwrap_or(path_and_query);
        // A request target is never empty; and operation `/` always ends in its slash,
        // whether or not the client sent it.
        let needs_slash = if rest.len() == query.len() {
            self.operation_is_root || base_path.is_empty()
        } else {
            !rest.starts_with('/')
        };
        [base_path, if needs_slash { "/" } else { "" }, rest]
    }
}

impl Upgrades {
    /// What the author says, and where nothing is said WebSocket on GET, the only method it
    /// begins with (RFC 6455, 4.1).
    #[must_use]
    pub fn of(operation: &Operation) -> Upgrades {
        match &operation.upgrades {
            None if operation.method == Method::Get => Upgrades::WebSocket,
            None => Upgrades::Listed(Box::default()),
            Some(listed) => Upgrades::Listed(listed.as_slice().into()),
        }
    }

    /// Whether a client may switch to this protocol.
    #[must_use]
    pub fn allow(&self, protocol: &str) -> bool {
        match self {
            Upgrades::WebSocket => protocol.eq_ignore_ascii_case("websocket"),
            Upgrades::Listed(listed) => listed.iter().any(|one| protocol.eq_ignore_ascii_case(one)),
        }
    }
}

impl Target {
    /// Whether a request is sent to one of its endpoints in turn, over HTTP/1.1, and nobody guards them.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let http1 = |endpoint: &Endpoint| endpoint.protocol == UpstreamProtocol::Http1;
        self.group.is_none() && self.endpoints.iter().all(http1)
    }
}

impl CompiledRoute {
    /// Whether the route can only answer the fixed 500.
    #[must_use]
    pub fn poison(&self) -> Option<&Poison> {
        self.chain.as_ref().err()
    }
}

impl PoisonReason {
    /// The stable, machine-readable reason.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            PoisonReason::DanglingUpstream => "dangling_upstream",
            PoisonReason::UnknownPolicy => "unknown_policy",
            PoisonReason::BrokenChain => "broken_policy_chain",
        }
    }
}

impl fmt::Display for Poison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.as_str(), self.detail)
    }
}

impl fmt::Debug for CompiledRoute {
    /// The chain holds compiled secrets (passwords' hashes, keys): only the route's name is shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompiledRoute")
            .field("name", &self.name)
            .field("artifact", &self.artifact)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::Rewrite;

    fn check(context: &str, operation: &str, base: &str, request: &str, upstream: &str) {
        assert_eq!(
            Rewrite::new(context, operation).upstream_path(request, base),
            upstream,
            "context {context:?}, operation {operation:?}, base {base:?}, request {request:?}"
        );
    }

    #[test]
    fn the_context_is_stripped_and_the_base_prepended() {
        check("/w/v1.0", "/us/{city}", "/api/v2", "/w/v1.0/us/x", "/api/v2/us/x");
        check("/w/v1.0", "/us/{city}", "", "/w/v1.0/us/x", "/us/x");
        check("/w", "/us", "/b", "/w/us/", "/b/us/");
        check("/w", "/us", "/b", "/w/us?a=1&b=/w/", "/b/us?a=1&b=/w/");
        check("/w", "/us", "/b", "/w/us?", "/b/us?");
        check("/", "/us", "/b", "/us", "/b/us");
        check("/", "/us", "", "/us", "/us");
    }

    #[test]
    fn a_context_is_the_same_however_its_escapes_are_spelt() {
        for context in ["/w%2f", "/w%2F"] {
            check(context, "/us/*", "/b", "/w%2F/us/x%2f", "/b/us/x%2f");
            check(context, "/us/*", "/b", "/w%2f/us", "/b/us");
            check(context, "/us/*", "/b", "/wé", "/b/wé");
        }
    }

    #[test]
    fn a_wildcard_keeps_its_literal_prefix() {
        check("/w", "/foo/*", "/b", "/w/foo/x/y", "/b/foo/x/y");
        check("/w", "/foo/*", "/b", "/w/foo", "/b/foo");
        check("/w", "/*", "", "/w", "/");
        check("/w", "/*", "", "/w/", "/");
        check("/w", "/*", "", "/w?q", "/?q");
        check("/w", "/*", "/b", "/w", "/b");
        check("/w", "/*", "/b", "/w/", "/b/");
        check("/", "/*", "", "/", "/");
    }

    #[test]
    fn the_root_operation_always_ends_in_a_slash() {
        check("/w", "/", "/b", "/w", "/b/");
        check("/w", "/", "/b", "/w/", "/b/");
        check("/w", "/", "", "/w", "/");
        check("/w", "/", "", "/w/", "/");
        check("/", "/", "/b", "/", "/b/");
    }

    #[test]
    fn a_path_that_a_policy_changed_is_rewritten_like_the_clients() {
        check("/w", "/us", "/b", "/w/other?x=1", "/b/other?x=1");
        check("/w", "/us", "/b", "/elsewhere", "/b/elsewhere");
        check("/w", "/us", "/b", "/wide/us", "/b/wide/us");
        check("/w", "/us", "/b", "bare", "/b/bare");
    }
}
