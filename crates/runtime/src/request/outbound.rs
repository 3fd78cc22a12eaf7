// SPDX-License-Identifier: Apache-2.0
//! The request as the upstream receives it: where it goes, under which path, with which
//! `Host` and headers (contract 4.4, 4.5). It reads what the chain left behind and makes
//! one request of it; sending is `upstream`'s.

use std::sync::Arc;

use bytes::Bytes;
use ferrogate_model::kinds::rest_api::{HostRewrite, Scheme};
use ferrogate_policy::{Headers, RequestHead};
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Request, Uri};

use super::inbound::{X_ENVOY_EXPECTED_TIMEOUT, X_ENVOY_ORIGINAL_PATH};
use crate::error::{Failure, Reason};
use crate::h1::line::{Known, Present};
use crate::head::RequestParts;
use crate::router::{CompiledRoute, Endpoint, Target};
use crate::settle::Arriving as _;
use crate::upstream::body::OutgoingBody;

/// The target a policy chose, or the route's own.
///
/// # Errors
/// When the chosen definition does not exist.
pub fn choose<'r>(route: &'r CompiledRoute, chosen: Option<&str>) -> Result<&'r Arc<Target>, Failure> {
    match chosen.filter(|name| !name.is_empty()) {
        None => Ok(&route.target),
        Some(name) => route.definitions.get(name).ok_or_else(|| {
            Failure::with(Reason::UpstreamUnknown, format!("a policy chose '{name}', which is not defined"))
        }),
    }
}

/// What the client's path was, and how long the route may take: told to the upstream.
pub struct Notes<'a> {
    /// Path and query as the client sent them.
    pub original_path: &'a HeaderValue,
    /// `resilience.timeout` of the route, milliseconds.
    pub timeout_ms: Option<u128>,
}

/// Path and query as this target knows them.
///
/// # Errors
/// When a policy made a path that cannot be sent.
pub fn uri(head: &RequestParts, route: &CompiledRoute, target: &Target) -> Result<Uri, Failure> {
    checked(route.rewrite.upstream_path(head.path_and_query(), &target.base_path))
}

/// The request for this endpoint. `keep_head` leaves the head's headers in place for
/// response policies that want to see the request.
///
/// # Errors
/// When a policy made a path that cannot be sent.
pub fn request(
    head: &mut RequestParts,
    keep_head: bool,
    route: &CompiledRoute,
    target: &Target,
    endpoint: &Endpoint,
    notes: &Notes<'_>,
    body: OutgoingBody,
) -> Result<Request<OutgoingBody>, Failure> {
    let uri = uri(head, route, target)?;
    let host = match (head.upstream_authority(), route.host_rewrite) {
        (Some(chosen), _) => Some(chosen.clone()),
        (None, HostRewrite::Auto) => Some(host_of(endpoint)?),
        (None, HostRewrite::Manual) => {
            HeaderValue::try_from(head.authority()).ok().filter(|host| !host.is_empty())
        }
    };
    let method = head.current_method().clone();
    let mut headers = if keep_head { head.headers.clone() } else { std::mem::take(&mut head.headers) };
    match host {
        Some(host) => headers.insert(HOST, host),
        None => headers.insert(HOST, host_of(endpoint)?),
    };
    headers.insert(X_ENVOY_ORIGINAL_PATH, notes.original_path.clone());
    if let Some(timeout) = notes.timeout_ms {
        let mut digits = itoa::Buffer::new();
        if let Ok(value) = HeaderValue::from_str(digits.format(timeout)) {
            headers.insert(X_ENVOY_EXPECTED_TIMEOUT, value);
        }
    }
    // Never sent, whoever set it (contract 4.5).
    headers.take_out(Present::of(&[Known::TargetUpstream]));
    // Framing is ours: a policy that sets it must not make two requests of one.
    headers.remove(TRANSFER_ENCODING);
    settle_length(&mut headers, &body);
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
}

/// A path that can be sent.
///
/// # Errors
/// When a policy made one that cannot.
pub fn checked(path: String) -> Result<Uri, Failure> {
    let uri = Uri::from_maybe_shared(Bytes::from(path))
        .map_err(|error| Failure::with(Reason::BadUpstreamPath, error))?;
    // A policy's text such as `//host/x` or `http://…` must not turn into another authority.
    if uri.authority().is_some() || !uri.path().starts_with('/') {
        return Err(Failure::with(Reason::BadUpstreamPath, "not an absolute path"));
    }
    Ok(uri)
}

/// The framing is the body's business: a length that a policy or a changed body made wrong
/// must not reach the wire.
fn settle_length(headers: &mut HeaderMap, body: &OutgoingBody) {
    use hyper::body::Body;
    let Some(sent) = headers.get(CONTENT_LENGTH) else { return };
    match body.size_hint().exact() {
        Some(exact) => {
            let mut digits = itoa::Buffer::new();
            let digits = digits.format(exact);
            if sent.as_bytes() != digits.as_bytes()
                && let Ok(value) = HeaderValue::from_str(digits)
            {
                headers.insert(CONTENT_LENGTH, value);
            }
        }
        None => {
            headers.remove(CONTENT_LENGTH);
        }
    }
}

/// Host and, where it is not the scheme's own, port (RFC 9110, 7.2).
///
/// # Errors
/// When the host cannot stand in a header.
pub fn host_of(endpoint: &Endpoint) -> Result<HeaderValue, Failure> {
    let host = &endpoint.host;
    let usual = match endpoint.scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    };
    let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
    let port = if endpoint.port == usual { String::new() } else { format!(":{}", endpoint.port) };
    let text = [open, host, close, &port].concat();
    HeaderValue::try_from(text).map_err(|error| Failure::with(Reason::UpstreamUnresolved, error))
}

/// Whether the message is one that policies may see chunk by chunk (contract 5.1): of
/// unknown length, or a stream of events.
#[must_use]
pub fn is_stream(head: &dyn Headers, exact_length: Option<u64>) -> bool {
    exact_length.is_none()
        || head.get(&http::header::CONTENT_TYPE).is_some_and(|kind| kind.starts_with(b"text/event-stream"))
}
