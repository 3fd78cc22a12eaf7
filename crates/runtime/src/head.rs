// SPDX-License-Identifier: Apache-2.0
//! The policy views over hyper's heads: a request or response head as policies see and
//! change it. The request keeps a log of first overwrites, so that `original` answers with
//! what the client sent without a copy of every request's headers. It knows no policy;
//! `request` makes the heads, the chain works on them, `upstream` sends what they became.

use ferrogate_policy::{Headers, RequestHead, ResponseHead};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use smallvec::SmallVec;

/// A request's head on its way through the chain.
pub struct RequestParts {
    /// The headers as they stand.
    pub headers: HeaderMap,
    method: Method,
    original_method: Option<Method>,
    /// Normalised path and query as the client sent them.
    original_target: String,
    target: Option<String>,
    authority: String,
    upstream_authority: Option<HeaderValue>,
    https: bool,
    overwritten: SmallVec<[(HeaderName, Before); 4]>,
}

/// The values of a header before its first change; nearly always one, or none.
type Before = SmallVec<[HeaderValue; 1]>;

/// A response's head on its way through the chain.
pub struct ResponseParts {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
}

impl RequestParts {
    /// The head of a request that was normalised and whose authority is settled.
    #[must_use]
    pub fn new(
        headers: HeaderMap,
        method: Method,
        target: String,
        authority: String,
        https: bool,
    ) -> RequestParts {
        RequestParts {
            headers,
            method,
            original_method: None,
            original_target: target,
            target: None,
            authority,
            upstream_authority: None,
            https,
            overwritten: SmallVec::new(),
        }
    }

    /// The method to send.
    #[must_use]
    pub fn current_method(&self) -> &Method {
        &self.method
    }

    /// What a policy made of path and query; `None` while they are the client's.
    #[must_use]
    pub fn changed_target(&self) -> Option<&str> {
        self.target.as_deref()
    }

    /// What a policy wants the upstream to see as `Host`.
    #[must_use]
    pub fn upstream_authority(&self) -> Option<&HeaderValue> {
        self.upstream_authority.as_ref()
    }

    /// Remembers the values a header had before its first change.
    fn before_change(&mut self, name: &HeaderName) {
        if !self.overwritten.iter().any(|(known, _)| known == name) {
            let before = self.headers.get_all(name).iter().cloned().collect();
            self.overwritten.push((name.clone(), before));
        }
    }
}

impl Headers for RequestParts {
    fn get(&self, name: &HeaderName) -> Option<&[u8]> {
        self.headers.get(name).map(HeaderValue::as_bytes)
    }

    fn each(&self, name: &HeaderName, visit: &mut dyn FnMut(&[u8])) {
        self.headers.get_all(name).iter().for_each(|value| visit(value.as_bytes()));
    }

    fn all(&self, visit: &mut dyn FnMut(&str, &[u8])) {
        self.headers.iter().for_each(|(name, value)| visit(name.as_str(), value.as_bytes()));
    }

    fn set(&mut self, name: &HeaderName, value: HeaderValue) {
        self.before_change(name);
        self.headers.insert(name, value);
    }

    fn append(&mut self, name: &HeaderName, value: HeaderValue) {
        self.before_change(name);
        self.headers.append(name, value);
    }

    fn remove(&mut self, name: &HeaderName) {
        self.before_change(name);
        self.headers.remove(name);
    }
}

impl RequestHead for RequestParts {
    fn method(&self) -> &str {
        self.method.as_str()
    }

    fn set_method(&mut self, method: Method) {
        let before = std::mem::replace(&mut self.method, method);
        self.original_method.get_or_insert(before);
    }

    fn path_and_query(&self) -> &str {
        self.target.as_deref().unwrap_or(&self.original_target)
    }

    fn set_path_and_query(&mut self, path_and_query: String) {
        self.target = Some(path_and_query);
    }

    fn authority(&self) -> &str {
        &self.authority
    }

    fn set_upstream_authority(&mut self, authority: HeaderValue) {
        self.upstream_authority = Some(authority);
    }

    fn scheme(&self) -> &str {
        if self.https { "https" } else { "http" }
    }

    fn original(&self, name: &HeaderName) -> Option<&[u8]> {
        match self.overwritten.iter().find(|(known, _)| known == name) {
            Some((_, before)) => before.first().map(HeaderValue::as_bytes),
            None => self.headers.get(name).map(HeaderValue::as_bytes),
        }
    }

    fn each_original(&self, name: &HeaderName, visit: &mut dyn FnMut(&[u8])) {
        match self.overwritten.iter().find(|(known, _)| known == name) {
            Some((_, before)) => before.iter().for_each(|value| visit(value.as_bytes())),
            None => self.each(name, visit),
        }
    }

    fn original_method(&self) -> &str {
        self.original_method.as_ref().unwrap_or(&self.method).as_str()
    }

    fn original_path_and_query(&self) -> &str {
        &self.original_target
    }
}

impl Headers for ResponseParts {
    fn get(&self, name: &HeaderName) -> Option<&[u8]> {
        self.headers.get(name).map(HeaderValue::as_bytes)
    }

    fn each(&self, name: &HeaderName, visit: &mut dyn FnMut(&[u8])) {
        self.headers.get_all(name).iter().for_each(|value| visit(value.as_bytes()));
    }

    fn all(&self, visit: &mut dyn FnMut(&str, &[u8])) {
        self.headers.iter().for_each(|(name, value)| visit(name.as_str(), value.as_bytes()));
    }

    fn set(&mut self, name: &HeaderName, value: HeaderValue) {
        self.headers.insert(name, value);
    }

    fn append(&mut self, name: &HeaderName, value: HeaderValue) {
        self.headers.append(name, value);
    }

    fn remove(&mut self, name: &HeaderName) {
        self.headers.remove(name);
    }
}

impl ResponseHead for ResponseParts {
    fn status(&self) -> StatusCode {
        self.status
    }

    fn set_status(&mut self, status: StatusCode) {
        self.status = status;
    }
}

#[cfg(test)]
mod tests {
    use ferrogate_policy::{Headers, RequestHead};
    use http::{HeaderMap, HeaderName, HeaderValue, Method};

    use super::RequestParts;

    const NAME: HeaderName = HeaderName::from_static("x-tier");

    fn parts(value: Option<&'static str>) -> RequestParts {
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert(NAME, HeaderValue::from_static(value));
        }
        RequestParts::new(headers, Method::GET, "/a?b=1".into(), "host".into(), false)
    }

    #[test]
    fn the_original_survives_every_kind_of_change() {
        for change in ["set", "append", "remove", "set, set", "remove, set"] {
            for sent in [None, Some("gold")] {
                let mut head = parts(sent);
                for step in change.split(", ") {
                    match step {
                        "set" => head.set(&NAME, HeaderValue::from_static("lead")),
                        "append" => head.append(&NAME, HeaderValue::from_static("lead")),
                        _ => head.remove(&NAME),
                    }
                }
                assert_eq!(head.original(&NAME), sent.map(str::as_bytes), "{change} on {sent:?}");
            }
        }
    }

    #[test]
    fn method_and_path_keep_their_originals() {
        let mut head = parts(None);
        head.set_method(Method::PUT);
        head.set_method(Method::POST);
        head.set_path_and_query("/x".into());
        assert_eq!((head.method(), head.original_method()), ("POST", "GET"));
        assert_eq!((head.path_and_query(), head.original_path_and_query()), ("/x", "/a?b=1"));
    }
}
