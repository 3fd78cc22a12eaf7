// SPDX-License-Identifier: Apache-2.0
//! A request's head on the hot path, as policies see and change it: the client's lines, settled
//! by `crate::settle`. `arrival` makes it, the chain works on it, `compose` writes what it became.

use std::borrow::Cow;

use ferrogate_policy::{Headers, RequestHead};
use http::{HeaderName, HeaderValue, Method};

use super::fields::{Fields, Lists};
use super::line::Known;
use crate::settle::MadeId;

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
    Made(MadeId),
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

    /// The vectors, for the next request; nobody reads this one's headers any more.
    #[must_use]
    pub fn take_lists(&mut self) -> Lists {
        self.fields.take_lists()
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

impl<'b> RequestId<'b> {
    /// The client's, which was found to be good.
    #[must_use]
    pub fn sent(fields: &Fields<'b>) -> RequestId<'b> {
        let text = fields.came(Known::RequestId).and_then(|id| std::str::from_utf8(id).ok());
        RequestId::Sent(text.unwrap_or_default())
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            RequestId::Sent(text) => text,
            RequestId::Made(id) => id.as_str(),
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
        self.fields.originals(name).next()
    }

    fn each_original(&self, name: &HeaderName, visit: &mut dyn FnMut(&[u8])) {
        self.fields.originals(name).for_each(visit);
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
    use http::{HeaderName, HeaderValue, Method};

    use super::RequestView;
    use crate::h1::fields::{Fields, Lists};
    use crate::h1::parse::{self, HeadLimits};

    fn fields(text: &str) -> Fields<'_> {
        let mut lists = Lists::default();
        let head = parse::request(text.as_bytes(), HeadLimits { max_fields: 64 }, &mut lists.lines);
        let head = head.expect("a head").expect("all of it");
        Fields::new(text.as_bytes(), head.present, lists)
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
}
