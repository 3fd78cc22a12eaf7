// SPDX-License-Identifier: Apache-2.0
//! A request's head on the hot path: its view for policies, and the rules of arrival that
//! `request::inbound` has for hyper's heads, here over lines. Both must leave the same
//! headers behind; a test in this file holds them to it. `connection` makes it, the chain
//! works on it, `compose` writes what it became.

use std::borrow::Cow;

use ferrogate_policy::{Headers, RequestHead};
use http::{HeaderName, HeaderValue, Method};

use super::fields::{Fields, Lists, strip_listed};
use super::line::{Known, Present};
use crate::request::inbound::{MAX_REQUEST_ID_BYTES, X_FORWARDED_PROTO, X_REQUEST_ID};

/// What is taken out on arrival: the connection's own headers, and those that clients may
/// not set.
const NOT_FOR_UPSTREAMS: Present = Present::of(&[
    Known::Connection,
    Known::KeepAlive,
    Known::ProxyConnection,
    Known::TransferEncoding,
    Known::Te,
    Known::Upgrade,
    Known::OriginalPath,
    Known::ExpectedTimeout,
    Known::TargetUpstream,
    Known::Expect,
]);

/// A request's head.
pub struct RequestView<'b> {
    /// The headers.
    pub fields: Fields<'b>,
    method: &'b str,
    changed_method: Option<Method>,
    target: Cow<'b, str>,
    changed_target: Option<String>,
    authority: &'b str,
    upstream_authority: Option<HeaderValue>,
    https: bool,
}

/// `x-request-id`: the client's, or one made here.
#[derive(Clone, Copy)]
pub enum RequestId<'b> {
    /// The client's.
    Sent(&'b str),
    /// Made here.
    Made([u8; 36]),
}

impl<'b> RequestView<'b> {
    /// The head of a request whose target was normalised and whose authority is settled.
    #[must_use]
    pub fn new(
        fields: Fields<'b>,
        method: &'b str,
        target: Cow<'b, str>,
        authority: &'b str,
        https: bool,
    ) -> RequestView<'b> {
        RequestView {
            fields,
            method,
            changed_method: None,
            target,
            changed_target: None,
            authority,
            upstream_authority: None,
            https,
        }
    }

    /// The vectors, for the next request.
    #[must_use]
    pub fn into_lists(self) -> Lists {
        self.fields.into_lists()
    }

    /// What a policy made of path and query; `None` while they are the client's.
    #[must_use]
    pub fn changed_target(&self) -> Option<&str> {
        self.changed_target.as_deref()
    }

    /// What a policy wants the upstream to see as `Host`.
    #[must_use]
    pub fn upstream_authority(&self) -> Option<&HeaderValue> {
        self.upstream_authority.as_ref()
    }
}

/// Removes and completes headers before the first policy sees them (contract 4.5).
pub fn settle<'b>(fields: &mut Fields<'b>, https: bool) -> RequestId<'b> {
    if fields.present().any(NOT_FOR_UPSTREAMS) {
        if fields.present().has(Known::Connection) {
            strip_listed(fields);
        }
        fields.settle_out(|_, line| NOT_FOR_UPSTREAMS.has(line.known));
    }
    join_cookies(fields);
    if !fields.first(Known::ForwardedProto).is_some_and(|proto| proto == b"http" || proto == b"https") {
        fields.settle_out(|_, line| line.known == Known::ForwardedProto);
        let proto = HeaderValue::from_static(if https { "https" } else { "http" });
        fields.settle_in(X_FORWARDED_PROTO, proto);
    }
    request_id(fields)
}

fn request_id<'b>(fields: &mut Fields<'b>) -> RequestId<'b> {
    let sent = fields
        .first(Known::RequestId)
        .filter(|id| !id.is_empty() && id.len() <= MAX_REQUEST_ID_BYTES)
        .filter(|id| id.iter().all(|byte| *byte == b'\t' || (b' '..0x7f).contains(byte)))
        .and_then(|id| std::str::from_utf8(id).ok());
    if let Some(sent) = sent {
        return RequestId::Sent(sent);
    }
    fields.settle_out(|_, line| line.known == Known::RequestId);
    // It names a request and protects nothing, so a fast generator does.
    let made = uuid::Builder::from_random_bytes(fastrand::u128(..).to_be_bytes()).into_uuid();
    let mut text = [0; 36];
    made.hyphenated().encode_lower(&mut text);
    if let Ok(value) = HeaderValue::from_bytes(&text) {
        fields.settle_in(X_REQUEST_ID, value);
    }
    RequestId::Made(text)
}

/// One cookie header, as HTTP/1.1 has it (RFC 6265, 5.4).
fn join_cookies(fields: &mut Fields<'_>) {
    if !fields.present().has(Known::Cookie) || fields.known(Known::Cookie).nth(1).is_none() {
        return;
    }
    let all: Vec<&[u8]> = fields.known(Known::Cookie).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        fields.settle_out(|_, line| line.known == Known::Cookie);
        fields.settle_in(http::header::COOKIE, joined);
    }
}

impl RequestId<'_> {
    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            RequestId::Sent(text) => text,
            // Digits and hyphens.
            RequestId::Made(text) => std::str::from_utf8(text).unwrap_or_default(),
        }
    }
}

impl Headers for RequestView<'_> {
    fn get(&self, name: &HeaderName) -> Option<&[u8]> {
        self.fields.get(name)
    }

    fn each(&self, name: &HeaderName, visit: &mut dyn FnMut(&[u8])) {
        self.fields.each(name, visit);
    }

    fn all(&self, visit: &mut dyn FnMut(&str, &[u8])) {
        self.fields.all(visit);
    }

    fn set(&mut self, name: &HeaderName, value: HeaderValue) {
        self.fields.set(name, value);
    }

    fn append(&mut self, name: &HeaderName, value: HeaderValue) {
        self.fields.append(name, value);
    }

    fn remove(&mut self, name: &HeaderName) {
        self.fields.remove(name);
    }
}

impl RequestHead for RequestView<'_> {
    fn method(&self) -> &str {
        self.changed_method.as_ref().map_or(self.method, Method::as_str)
    }

    fn set_method(&mut self, method: Method) {
        self.changed_method = Some(method);
    }

    fn path_and_query(&self) -> &str {
        self.changed_target.as_deref().unwrap_or(&self.target)
    }

    fn set_path_and_query(&mut self, path_and_query: String) {
        self.changed_target = Some(path_and_query);
    }

    fn authority(&self) -> &str {
        self.authority
    }

    fn set_upstream_authority(&mut self, authority: HeaderValue) {
        self.upstream_authority = Some(authority);
    }

    fn scheme(&self) -> &str {
        if self.https { "https" } else { "http" }
    }

    fn original(&self, name: &HeaderName) -> Option<&[u8]> {
        self.fields.original(name)
    }

    fn original_method(&self) -> &str {
        self.method
    }

    fn original_path_and_query(&self) -> &str {
        &self.target
    }
}

#[cfg(test)]
mod tests {
    use ferrogate_policy::{Headers, RequestHead};
    use http::{HeaderMap, HeaderName, HeaderValue, Method};
    use proptest::{prop_assert_eq, proptest};

    use super::{RequestView, settle};
    use crate::h1::fields::{Fields, Lists};
    use crate::h1::parse::{self, HeadLimits};
    use crate::request::inbound;

    fn fields(text: &str) -> Fields<'_> {
        let mut lists = Lists::default();
        let head = parse::request(text.as_bytes(), HeadLimits { max_fields: 64 }, &mut lists.lines);
        let head = head.expect("a head").expect("all of it");
        Fields::new(text.as_bytes(), head.present, lists)
    }

    fn shown(headers: &dyn Headers) -> Vec<(String, String)> {
        let mut all = Vec::new();
        headers.all(&mut |name, value| {
            all.push((name.to_owned(), String::from_utf8_lossy(value).into_owned()));
        });
        all.sort();
        all
    }

    fn view(text: &str) -> RequestView<'_> {
        RequestView::new(fields(text), "GET", "/a?b=1".into(), "host", false)
    }

    #[test]
    fn the_original_survives_every_kind_of_change() {
        const NAME: HeaderName = HeaderName::from_static("x-tier");
        for change in ["set", "append", "remove", "set, set", "remove, set"] {
            for sent in [None, Some("gold")] {
                let line = sent.map(|value| format!("X-Tier: {value}\r\n")).unwrap_or_default();
                let text = format!("GET / HTTP/1.1\r\n{line}\r\n");
                let mut head = view(&text);
                for step in change.split(", ") {
                    match step {
                        "set" => head.set(&NAME, HeaderValue::from_static("lead")),
                        "append" => head.append(&NAME, HeaderValue::from_static("lead")),
                        _ => head.remove(&NAME),
                    }
                }
                assert_eq!(head.original(&NAME), sent.map(str::as_bytes), "{change} on {sent:?}");
                let expected = if change == "append" { sent } else { None }.or(Some("lead"));
                let expected = if change == "remove" { None } else { expected };
                assert_eq!(head.get(&NAME), expected.map(str::as_bytes), "{change} on {sent:?}");
            }
        }
    }

    #[test]
    fn method_and_path_keep_their_originals() {
        let mut head = view("GET / HTTP/1.1\r\n\r\n");
        head.set_method(Method::PUT);
        head.set_path_and_query("/x".into());
        assert_eq!((head.method(), head.original_method()), ("PUT", "GET"));
        assert_eq!((head.path_and_query(), head.original_path_and_query()), ("/x", "/a?b=1"));
    }

    proptest! {
        /// The rules of arrival are written twice, for hyper's maps and for lines.
        #[test]
        fn both_codecs_leave_the_same_headers(
            sent in proptest::collection::vec(
                (
                    "(Host|Connection|connection|Keep-Alive|TE|Upgrade|Expect|Cookie|cookie|X-A|x-b|\
                      X-Request-Id|X-Forwarded-Proto|X-Forwarded-For|Proxy-Connection|x-target-upstream|\
                      x-envoy-original-path|X-Envoy-Expected-Rq-Timeout-Ms|Content-Length|User-Agent)",
                    "(close|keep-alive, X-A|x-b,,te|host, content-length|http|https|gopher|a=1|7|\u{e9}|)",
                ),
                0..12,
            ),
            https: bool,
        ) {
            let lines: String = sent.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let text = format!("GET / HTTP/1.1\r\nX-Request-Id: fixed\r\n{lines}\r\n");
            let mut own = view(&text);
            let id = settle(&mut own.fields, https);
            let mut map = HeaderMap::new();
            map.append("x-request-id", HeaderValue::from_static("fixed"));
            for (name, value) in &sent {
                let name = HeaderName::try_from(name.as_str()).expect("a name");
                map.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
            }
            prop_assert_eq!(id.as_str(), inbound::settle_headers(&mut map, https));
            let mut theirs: Vec<(String, String)> = map
                .iter()
                .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
                .collect();
            theirs.sort();
            prop_assert_eq!(shown(&own), theirs);
        }
    }
}
