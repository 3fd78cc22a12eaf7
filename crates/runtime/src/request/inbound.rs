// SPDX-License-Identifier: Apache-2.0
//! What a request is refused for on arrival, whichever codec read it: too much of it, no one
//! host, a target that is no path of this gateway, no route. Each codec has refused what is
//! malformed by its own syntax before; its headers are settled by `crate::settle`. `request` and
//! `h1::arrival` call the same functions in the same order.

use std::borrow::Cow;
use std::sync::Arc;

use ferrogate_model::Position;
use http::header::HOST;
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

use crate::config::PathRules;
use crate::error::{Failure, Reason};
use crate::hop;
use crate::router::{CompiledRoute, Normalised, normalise, normalise_with};
use crate::worker::Worker;

/// The path as the client sent it, for the upstream; never taken from the client.
pub const X_ENVOY_ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
/// The route's timeout, for the upstream; never taken from the client.
pub const X_ENVOY_EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");

/// The parts of the request target that routing needs.
pub struct Target {
    /// Normalised path, and the query as it came.
    pub text: String,
    /// Where the path ends in it.
    path_bytes: usize,
    /// Host and port as the client wrote them.
    pub authority: String,
}

impl Target {
    /// The normalised path.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text.get(..self.path_bytes).unwrap_or(&self.text)
    }
}

/// Checks the request's target and settles its host: afterwards there is exactly one `Host`.
///
/// # Errors
/// When the request is ambiguous or not a path of this gateway.
pub fn target(parts: &mut Parts, rules: PathRules) -> Result<Target, Failure> {
    // Who asks for a tunnel may have sent bytes into it already: the connection ends.
    if parts.method == Method::CONNECT {
        return Err(bad("tunnels to anywhere are not made"));
    }
    let authority = authority(parts)?;
    if !hop::plainly_framed(&parts.headers) {
        return Err(bad("a transfer coding other than chunked"));
    }
    let path = parts.uri.path();
    // Only `CONNECT` has an authority alone as its target (RFC 9112, 3.2.3).
    if path.is_empty() {
        return Err(bad("the target is no path"));
    }
    // The router compares text; controls and raw high bytes mean different things to
    // different upstreams and are not allowed in a URI (RFC 3986, 2). In a query nothing is
    // compared: it goes on as it came, but for what could end it.
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(bad("the path has characters that must be escaped"));
    }
    let query = parts.uri.query();
    if query.is_some_and(|query| query.bytes().any(|byte| byte <= b' ' || byte == 0x7f)) {
        return Err(bad("the query has characters that must be escaped"));
    }
    let (text, path_bytes) = match normalised(path, query, rules)? {
        (Cow::Borrowed(path), _) => (with_query(path, query), path.len()),
        (Cow::Owned(text), path_bytes) => (text, path_bytes),
    };
    Ok(Target { text, path_bytes, authority })
}

/// What can be refused before anything is done for the request, of which `counted` is already in
/// the count of those in flight.
///
/// # Errors
/// When it is shed, or its target or what it announces of its body is too long.
pub fn admit(worker: &Worker, counted: u64, target_bytes: usize, body_bytes: u64) -> Result<(), Failure> {
    worker.admit(counted)?;
    if target_bytes > worker.h1.max_target {
        return Err(Failure::with(Reason::UriTooLong, format!("{target_bytes} bytes")));
    }
    if body_bytes > worker.h1.max_body {
        return Err(Failure::with(Reason::RequestBodyTooLarge, format!("{body_bytes} bytes are announced")));
    }
    Ok(())
}

/// What HTTP/1 codecs refuse while they read a head, and HTTP/2's does not.
///
/// # Errors
/// When there are more fields than allowed, or a value has white space around it, which is
/// malformed (RFC 9113, 8.2.1): over HTTP/1 it would be another value.
pub fn h2_fields(headers: &HeaderMap, max_headers: usize) -> Result<(), Failure> {
    if headers.len() > max_headers {
        return Err(Failure::with(Reason::RequestHeadTooLarge, format!("{} header fields", headers.len())));
    }
    let padded = |value: &HeaderValue| {
        let ends = [value.as_bytes().first(), value.as_bytes().last()];
        ends.into_iter().flatten().any(|byte| matches!(byte, b' ' | b'\t'))
    };
    if headers.values().any(padded) {
        return Err(bad("white space around a header value"));
    }
    Ok(())
}

/// The one host: that of an absolute target or of HTTP/2 before `Host` (RFC 9112, 3.2.2).
///
/// # Errors
/// When there is none, or more than one, or it is no host.
pub fn host<'h>(
    of_target: Option<&'h str>,
    mut hosts: impl Iterator<Item = &'h [u8]>,
    version: Version,
) -> Result<&'h str, Failure> {
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(bad("more than one host"));
    }
    let host = match (of_target, first) {
        (Some(host), _) => host,
        (None, Some(host)) => std::str::from_utf8(host).map_err(|_| bad("the host is not text"))?,
        // HTTP/1.0 knows no Host; it can reach routes of the `*` host.
        (None, None) if version == Version::HTTP_10 => return Ok(""),
        (None, None) => return Err(bad("no host")),
    };
    if host.is_empty() && version == Version::HTTP_2 {
        return Err(bad("no host"));
    }
    if !host.is_empty() && !is_authority(host) {
        return Err(bad("the host is not a host"));
    }
    Ok(host)
}

/// One look into one snapshot (invariant 5), whose position is noted whatever is found.
///
/// # Errors
/// When no route matches, or there can be none yet.
pub fn route<'b>(
    worker: &Worker,
    (authority, method, path): (&str, &str, &str),
    header: &dyn Fn(&str) -> Option<&'b [u8]>,
    position: &mut Position,
) -> Result<Arc<CompiledRoute>, Failure> {
    let snapshot = worker.shared.state.load();
    *position = snapshot.position;
    snapshot.table.find(authority, method, path, header).cloned().ok_or_else(|| {
        // Before the first configuration a 404 would be a lie that clients may cache.
        let nothing_yet = snapshot.position == Position::default();
        Failure::new(if nothing_yet { Reason::NotReady } else { Reason::RouteNotFound })
    })
}

/// A path as it is matched, and its length: borrowed, and then without its query, when it is
/// the client's own; owned with the query when it had to change.
///
/// # Errors
/// When the path is refused, or its client sent elsewhere, for its escaped slashes.
pub fn normalised<'p>(
    path: &'p str,
    query: Option<&str>,
    rules: PathRules,
) -> Result<(Cow<'p, str>, usize), Failure> {
    match normalise_with(path, rules.escaped_slashes, rules.disable_normalisation) {
        Normalised::Path(Cow::Borrowed(path)) => Ok((path.into(), path.len())),
        Normalised::Path(Cow::Owned(path)) => Ok((with_query(&path, query).into(), path.len())),
        Normalised::Redirect(path) => Err(redirect(&path, query)),
        Normalised::Rejected => Err(Failure::new(Reason::EscapedSlash)),
    }
}

fn with_query(path: &str, query: Option<&str>) -> String {
    match query {
        Some(query) => [path, "?", query].concat(),
        None => path.to_owned(),
    }
}

/// The one host, which the one `Host` then says as well.
fn authority(parts: &mut Parts) -> Result<String, Failure> {
    let hosts = parts.headers.get_all(HOST).into_iter().map(HeaderValue::as_bytes);
    let of_target = parts.uri.authority().map(Authority::as_str);
    let text = host(of_target, hosts, parts.version)?.to_owned();
    let said = parts.headers.get(HOST).is_some_and(|host| host.as_bytes() == text.as_bytes());
    if !text.is_empty()
        && !said
        && let Ok(value) = HeaderValue::try_from(text.as_str())
    {
        parts.headers.insert(HOST, value);
    }
    Ok(text)
}

/// Whether this names a host, with or without a port.
fn is_authority(text: &str) -> bool {
    // Nearly every host is of these characters; the rest is for a parser to say.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let (host, port) = text.split_once(':').unwrap_or((text, "0"));
    if !host.is_empty()
        && host.bytes().all(plain)
        && port.parse::<u16>().is_ok_and(|_| !port.starts_with('+'))
    {
        return true;
    }
    let Ok(authority) = text.parse::<Authority>() else { return false };
    // The parser takes any text for a port; it is digits, or nothing (RFC 3986, 3.2.3).
    let port = text.strip_prefix(authority.host()).unwrap_or(text);
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    port.is_empty() || port.strip_prefix(':').is_some_and(is_port)
}

fn redirect(path: &str, query: Option<&str>) -> Failure {
    let location = HeaderValue::try_from(with_query(path, query)).ok();
    Failure { location, ..Failure::new(Reason::EscapedSlashRedirect) }
}

fn bad(detail: &str) -> Failure {
    Failure::with(Reason::BadRequest, detail)
}

/// Whether a path belongs to the gateway's own health namespace, and which answer it gets.
#[must_use]
pub fn health(path: &str) -> Option<Health> {
    // The cheap test first: it runs for every request. Whatever is merged or resolved before it,
    // the last letter of the two names stays the last byte of the path, as it is or escaped. An
    // escape within the namespace's own name is not undone: such a path is nobody's.
    if !path.ends_with(['y', '9']) || !path.contains("_gateway-health") {
        return None;
    }
    match normalise(path).as_ref() {
        "/_gateway-health/ready" => Some(Health::Ready),
        "/_gateway-health/healthy" => Some(Health::Healthy),
        _ => None,
    }
}

/// The two answers of the health namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// May traffic be sent here?
    Ready,
    /// Does the process live?
    Healthy,
}

#[cfg(test)]
mod tests {
    use http::request::Parts;
    use http::{HeaderMap, HeaderValue, Request};

    use super::{Health, h2_fields, health, target};
    use crate::config::PathRules;
    use crate::error::Reason;
    use crate::router::EscapedSlashes;

    const RULES: PathRules =
        PathRules { disable_normalisation: false, escaped_slashes: EscapedSlashes::KeepUnchanged };

    fn parts(uri: &str, hosts: &[&str]) -> Parts {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header("host", *host);
        }
        request.body(()).expect("a request").into_parts().0
    }

    fn check(uri: &str, hosts: &[&str], expected: Option<(&str, &str, &str)>) {
        let mut parts = parts(uri, hosts);
        let found = target(&mut parts, RULES).ok();
        let found = found.as_ref().map(|t| (t.path(), t.text.as_str(), t.authority.as_str()));
        assert_eq!(found, expected, "{uri} {hosts:?}");
    }

    #[test]
    fn a_request_has_one_host_and_a_clean_path() {
        check("/a//b/../c?x=/../", &["h"], Some(("/a/c", "/a/c?x=/../", "h")));
        check("http://other/a", &["h"], Some(("/a", "/a", "other")));
        check("/a", &["h:8080"], Some(("/a", "/a", "h:8080")));
        check("/a", &["[::1]:80"], Some(("/a", "/a", "[::1]:80")));
        check("/a", &["h:"], Some(("/a", "/a", "h:")));
        check("/a", &["h_1:80"], Some(("/a", "/a", "h_1:80")));
        check("/a", &["h:x"], None);
        check("/a", &["h:8x"], None);
        check("/a", &["[::1]:x"], None);
        check("/a", &["[::1]x"], None);
        check("http://h:x/a", &["h"], None);
        check("h:80", &["h"], None);
        check("/a", &[], None);
        check("/a", &["a", "b"], None);
        check("/a", &["u@h"], None);
        check("/a", &["a/b"], None);
        check("/a", &["a b"], None);
        check("/caf\u{e9}", &["h"], None);
        check("/a?caf\u{e9}", &["h"], Some(("/a", "/a?caf\u{e9}", "h")));
    }

    #[test]
    fn the_health_namespace_is_matched_after_normalisation() {
        for (path, answer) in [
            ("/_gateway-health/ready", Some(Health::Ready)),
            ("//_gateway-health//ready", Some(Health::Ready)),
            ("/./_gateway-health/x/../ready", Some(Health::Ready)),
            ("/x/..//_gateway-health/read%79", Some(Health::Ready)),
            ("/_gateway-health/healthy", Some(Health::Healthy)),
            ("\\_gateway-health\\healthy", Some(Health::Healthy)),
            ("/_gateway-health/ready/", None),
            ("/%5Fgateway-health/ready", None),
            ("/_gateway-health/already", None),
            ("/x/_gateway-health/ready", None),
            ("/_gateway-healthy", None),
            ("/copy", None),
            ("", None),
        ] {
            assert_eq!(health(path), answer, "{path}");
        }
    }

    #[test]
    fn fields_of_http2_are_counted_and_not_padded() {
        let headers = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("x-a", HeaderValue::from_static(value));
            }
            headers
        };
        let refused =
            |values: &[&'static str]| h2_fields(&headers(values), 2).err().map(|failure| failure.reason);
        assert_eq!(refused(&["a b", ""]), None);
        assert_eq!(refused(&["1", "2", "3"]), Some(Reason::RequestHeadTooLarge));
        assert_eq!(refused(&["a", " b"]), Some(Reason::BadRequest));
        assert_eq!(refused(&["a\t"]), Some(Reason::BadRequest));
    }

    #[test]
    fn an_absolute_target_replaces_the_host_header() {
        let mut parts = parts("http://other:81/a", &["h"]);
        target(&mut parts, RULES).expect("a good request");
        assert_eq!(parts.headers["host"], "other:81");
    }
}
