// SPDX-License-Identifier: Apache-2.0
//! A request as it arrives: what must be true of its framing and target before anything
//! else looks at it, its normalised path, its one authority, and the headers that clients
//! may not set. hyper has refused malformed syntax by now; what it leaves to its user is
//! decided here. `request` calls it first.

use std::borrow::Cow;

use http::header::{COOKIE, EXPECT, HOST};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

use crate::config::PathRules;
use crate::error::{Failure, Reason};
use crate::hop;
use crate::router::{Normalised, normalise, normalise_with};

/// The path as the client sent it, for the upstream; never taken from the client.
pub const X_ENVOY_ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
/// The route's timeout, for the upstream; never taken from the client.
pub const X_ENVOY_EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
/// Names the upstream in systems where policies live in another process; ours do not, but a
/// client that sets it means mischief.
const X_TARGET_UPSTREAM: HeaderName = HeaderName::from_static("x-target-upstream");
/// How the client spoke to the first proxy.
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Names one request across systems.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A longer request id is replaced: it stands in every log line on the way.
pub const MAX_REQUEST_ID_BYTES: usize = 256;

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
    // The router compares text; controls and raw high bytes mean different things to
    // different upstreams and are not allowed in a URI (RFC 3986, 2).
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(bad("the path has characters that must be escaped"));
    }
    let query = parts.uri.query();
    if query.is_some_and(|query| !query.bytes().all(|byte| byte.is_ascii_graphic())) {
        return Err(bad("the query has characters that must be escaped"));
    }
    let (text, path_bytes) = match normalised(path, query, rules)? {
        (Cow::Borrowed(path), _) => (with_query(path, query), path.len()),
        (Cow::Owned(text), path_bytes) => (text, path_bytes),
    };
    Ok(Target { text, path_bytes, authority })
}

/// Whether a target is short enough.
///
/// # Errors
/// When it is not.
pub fn within(bytes: usize, most: usize) -> Result<(), Failure> {
    if bytes <= most { Ok(()) } else { Err(Failure::with(Reason::UriTooLong, format!("{bytes} bytes"))) }
}

/// Whether a body that tells its length is short enough.
///
/// # Errors
/// When it is not.
pub fn announced(bytes: u64, most: u64) -> Result<(), Failure> {
    if bytes <= most {
        return Ok(());
    }
    Err(Failure::with(Reason::RequestBodyTooLarge, format!("{bytes} bytes are announced")))
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
    if rules.disable_normalisation {
        return Ok((path.into(), path.len()));
    }
    match normalise_with(path, rules.escaped_slashes) {
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

/// Removes and completes headers before the first policy sees them (contract 4.5).
pub fn settle_headers(headers: &mut HeaderMap, https: bool) -> String {
    hop::strip(headers);
    for name in [X_ENVOY_ORIGINAL_PATH, X_ENVOY_EXPECTED_TIMEOUT, X_TARGET_UPSTREAM, EXPECT] {
        headers.remove(name);
    }
    // HTTP/2 may split cookies to compress them; HTTP/1.1 upstreams expect one header
    // (RFC 9113, 8.2.3).
    join_cookies(headers);
    let known = headers.get(&X_FORWARDED_PROTO).is_some_and(|proto| proto == "http" || proto == "https");
    if !known {
        let proto = HeaderValue::from_static(if https { "https" } else { "http" });
        headers.insert(X_FORWARDED_PROTO, proto);
    }
    request_id(headers)
}

fn request_id(headers: &mut HeaderMap) -> String {
    let sent = headers.get(&X_REQUEST_ID).and_then(|value| value.to_str().ok());
    if let Some(sent) = sent.filter(|id| !id.is_empty() && id.len() <= MAX_REQUEST_ID_BYTES) {
        return sent.to_owned();
    }
    // It names a request and protects nothing, so a fast generator does.
    let id = uuid::Builder::from_random_bytes(fastrand::u128(..).to_be_bytes()).into_uuid().to_string();
    if let Ok(value) = HeaderValue::try_from(id.as_str()) {
        headers.insert(X_REQUEST_ID, value);
    }
    id
}

fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// The one authority: of an absolute target or HTTP/2 before `Host` (RFC 9112, 3.2.2).
fn authority(parts: &mut Parts) -> Result<String, Failure> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(bad("more than one host"));
    }
    let text = match (parts.uri.authority(), host) {
        (Some(authority), _) => authority.as_str().to_owned(),
        (None, Some(host)) => match host.to_str() {
            Ok(host) => host.to_owned(),
            Err(_) => return Err(bad("the host is not text")),
        },
        // HTTP/1.0 knows no Host; it can reach routes of the `*` host.
        (None, None) if parts.version == Version::HTTP_10 => String::new(),
        (None, None) => return Err(bad("no host")),
    };
    if text.is_empty() {
        return if parts.version == Version::HTTP_2 { Err(bad("no host")) } else { Ok(text) };
    }
    if !is_authority(&text) {
        return Err(bad("the host is not a host"));
    }
    if host.is_none_or(|host| host.as_bytes() != text.as_bytes())
        && let Ok(value) = HeaderValue::try_from(text.as_str())
    {
        parts.headers.insert(HOST, value);
    }
    Ok(text)
}

/// Whether this names a host, with or without a port.
#[must_use]
pub fn is_authority(text: &str) -> bool {
    // Nearly every host is of these characters; the rest is for a parser to say.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let (host, port) = text.split_once(':').unwrap_or((text, "0"));
    if !host.is_empty()
        && host.bytes().all(plain)
        && port.parse::<u16>().is_ok_and(|_| !port.starts_with('+'))
    {
        return true;
    }
    !text.contains('@') && text.parse::<Authority>().is_ok()
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
    // The cheap test first: it runs for every request.
    if !path.starts_with("/_gateway-health/") && !path.starts_with("/_gateway-health%") {
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

    use super::{settle_headers, target};
    use crate::config::PathRules;
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
        check("/a", &[], None);
        check("/a", &["a", "b"], None);
        check("/a", &["u@h"], None);
        check("/a", &["a/b"], None);
        check("/a", &["a b"], None);
        check("/caf\u{e9}", &["h"], None);
    }

    #[test]
    fn an_absolute_target_replaces_the_host_header() {
        let mut parts = parts("http://other:81/a", &["h"]);
        target(&mut parts, RULES).expect("a good request");
        assert_eq!(parts.headers["host"], "other:81");
    }

    #[test]
    fn clients_cannot_set_what_the_gateway_tells_upstreams() {
        let mut headers = HeaderMap::new();
        for name in ["x-envoy-original-path", "x-envoy-expected-rq-timeout-ms", "x-target-upstream", "expect"]
        {
            headers.insert(name, HeaderValue::from_static("1"));
        }
        headers.append("cookie", HeaderValue::from_static("a=1"));
        headers.append("cookie", HeaderValue::from_static("b=2"));
        headers.insert("x-forwarded-proto", HeaderValue::from_static("gopher"));
        let id = settle_headers(&mut headers, true);
        assert_eq!(id.len(), 36);
        assert_eq!(headers["x-request-id"], id.as_str());
        assert_eq!(headers["cookie"], "a=1; b=2");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers.len(), 3, "{headers:?}");

        headers.insert("x-request-id", HeaderValue::from_static("mine"));
        assert_eq!(settle_headers(&mut headers, true), "mine");
    }
}
