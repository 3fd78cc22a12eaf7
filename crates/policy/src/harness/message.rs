// SPDX-License-Identifier: Apache-2.0
//! Message heads in memory, over a plain list of headers: the simplest thing that is a
//! head view. They take any bytes as header values, as a codec does, so that tests can
//! send policies what clients send.

use http::{HeaderName, HeaderValue, Method, StatusCode};

use crate::head::{Headers, RequestHead, ResponseHead};
use crate::hooks::Answer;

/// A request's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    method: String,
    path_and_query: String,
    authority: String,
    headers: List,
    upstream_authority: Option<HeaderValue>,
    original: Original,
}

/// A response's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    status: StatusCode,
    headers: List,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Original {
    method: String,
    path_and_query: String,
    headers: List,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct List(Vec<(String, Vec<u8>)>);

impl Request {
    /// A request without headers.
    #[must_use]
    pub fn new(method: &str, path_and_query: &str) -> Request {
        let (method, path_and_query) = (method.to_owned(), path_and_query.to_owned());
        Request {
            method: method.clone(),
            path_and_query: path_and_query.clone(),
            authority: "api.example.com".to_owned(),
            headers: List::default(),
            upstream_authority: None,
            original: Original { method, path_and_query, headers: List::default() },
        }
    }

    /// With a header more, as the client sent it.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Request {
        self.headers.push(name, value.as_ref());
        self.original.headers.push(name, value.as_ref());
        self
    }

    /// The values of this header as text; bytes that are no UTF-8 are replaced.
    #[must_use]
    pub fn values(&self, name: &str) -> Vec<String> {
        self.headers.values(name)
    }

    /// What the upstream is to see as `Host`, if a policy said so.
    #[must_use]
    pub fn upstream_authority(&self) -> Option<&HeaderValue> {
        self.upstream_authority.as_ref()
    }
}

impl Response {
    /// A response without headers; a status that does not exist becomes 500.
    #[must_use]
    pub fn new(status: u16) -> Response {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Response { status, headers: List::default() }
    }

    /// With a header more.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Response {
        self.headers.push(name, value.as_ref());
        self
    }

    /// The head of a policy's answer.
    #[must_use]
    pub fn of_answer(answer: &Answer) -> Response {
        let mut response = Response { status: answer.status, headers: List::default() };
        for (name, value) in &answer.headers {
            response.headers.push(name.as_str(), value.as_bytes());
        }
        response
    }

    /// The values of this header as text; bytes that are no UTF-8 are replaced.
    #[must_use]
    pub fn values(&self, name: &str) -> Vec<String> {
        self.headers.values(name)
    }
}

impl List {
    fn push(&mut self, name: &str, value: &[u8]) {
        self.0.push((name.to_ascii_lowercase(), value.to_vec()));
    }

    fn named(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_slice())
    }

    fn values(&self, name: &str) -> Vec<String> {
        self.named(name).map(|value| String::from_utf8_lossy(value).into_owned()).collect()
    }

    fn set(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.remove(name);
        self.push(name.as_str(), value.as_bytes());
    }

    fn remove(&mut self, name: &HeaderName) {
        self.0.retain(|(known, _)| known != name.as_str());
    }
}

/// Both heads keep their headers alike.
macro_rules! headers_of_list {
    ($head:ty) => {
        impl Headers for $head {
            fn get(&self, name: &HeaderName) -> Option<&[u8]> {
                self.headers.named(name.as_str()).next()
            }

            fn each(&self, name: &HeaderName, visit: &mut dyn FnMut(&[u8])) {
                self.headers.named(name.as_str()).for_each(visit);
            }

            fn all(&self, visit: &mut dyn FnMut(&str, &[u8])) {
                self.headers.0.iter().for_each(|(name, value)| visit(name, value));
            }

            fn set(&mut self, name: &HeaderName, value: HeaderValue) {
                self.headers.set(name, &value);
            }

            fn append(&mut self, name: &HeaderName, value: HeaderValue) {
                self.headers.push(name.as_str(), value.as_bytes());
            }

            fn remove(&mut self, name: &HeaderName) {
                self.headers.remove(name);
            }
        }
    };
}

headers_of_list!(Request);
headers_of_list!(Response);

impl RequestHead for Request {
    fn method(&self) -> &str {
        &self.method
    }

    fn set_method(&mut self, method: Method) {
        method.as_str().clone_into(&mut self.method);
    }

    fn path_and_query(&self) -> &str {
        &self.path_and_query
    }

    fn set_path_and_query(&mut self, path_and_query: String) {
        self.path_and_query = path_and_query;
    }

    fn authority(&self) -> &str {
        &self.authority
    }

    fn set_upstream_authority(&mut self, authority: HeaderValue) {
        self.upstream_authority = Some(authority);
    }

    fn scheme(&self) -> &str {
        "http"
    }

    fn original(&self, name: &HeaderName) -> Option<&[u8]> {
        self.original.headers.named(name.as_str()).next()
    }

    fn each_original(&self, name: &HeaderName, visit: &mut dyn FnMut(&[u8])) {
        self.original.headers.named(name.as_str()).for_each(visit);
    }

    fn original_method(&self) -> &str {
        &self.original.method
    }

    fn original_path_and_query(&self) -> &str {
        &self.original.path_and_query
    }
}

impl ResponseHead for Response {
    fn status(&self) -> StatusCode {
        self.status
    }

    fn set_status(&mut self, status: StatusCode) {
        self.status = status;
    }
}
