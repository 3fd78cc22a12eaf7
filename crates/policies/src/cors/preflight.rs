// SPDX-License-Identifier: Apache-2.0
//! Preflights: what a browser asks before a request that a form could not send. The
//! fixed parts of the answer are made once, when compiled.

use bytes::Bytes;
use ferrogate_policy::{Answer, CompileError, RequestHead};
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD,
};
use http::{HeaderName, HeaderValue, StatusCode};

use super::{has_star, joined};

/// What a preflight is checked against and answered with.
pub(super) struct Preflight {
    methods: Methods,
    headers: AllowedHeaders,
    /// Everything but the origin and echoed headers.
    fixed: Vec<(HeaderName, HeaderValue)>,
}

enum Methods {
    Any,
    Listed(Vec<String>),
}

enum AllowedHeaders {
    Any,
    Listed(Vec<String>),
}

impl Preflight {
    pub(super) fn compile(
        methods: &[String],
        headers: Vec<String>,
        max_age: Option<i64>,
        allow_credentials: bool,
    ) -> Result<Preflight, CompileError> {
        let mut fixed = Vec::new();
        fixed.extend(joined("allowedMethods", methods)?.map(|value| (ACCESS_CONTROL_ALLOW_METHODS, value)));
        if !has_star(&headers) {
            let value = joined("allowedHeaders", &headers)?;
            fixed.extend(value.map(|value| (ACCESS_CONTROL_ALLOW_HEADERS, value)));
        }
        fixed.extend(max_age.map(|seconds| (ACCESS_CONTROL_MAX_AGE, HeaderValue::from(seconds))));
        if allow_credentials {
            fixed.push((ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
        }
        Ok(Preflight {
            methods: if has_star(methods) { Methods::Any } else { Methods::Listed(methods.to_vec()) },
            headers: if has_star(&headers) { AllowedHeaders::Any } else { AllowedHeaders::Listed(headers) },
            fixed,
        })
    }

    /// The answer to a preflight of an allowed origin; `None` when it asks for too much.
    pub(super) fn allow(&self, head: &dyn RequestHead, origin: HeaderValue) -> Option<Answer> {
        let method = head.original(&ACCESS_CONTROL_REQUEST_METHOD)?;
        let allowed = match &self.methods {
            Methods::Any => true,
            Methods::Listed(listed) => listed.iter().any(|known| known.as_bytes() == method),
        };
        if !allowed {
            return None;
        }
        let asked = asked(head);
        let echoed = match &self.headers {
            AllowedHeaders::Any if asked.is_empty() => None,
            AllowedHeaders::Any => HeaderValue::from_bytes(&asked).ok(),
            AllowedHeaders::Listed(listed) if all_listed(&asked, listed) => None,
            AllowedHeaders::Listed(_) => return None,
        };
        let mut headers = Vec::with_capacity(self.fixed.len() + 2);
        headers.push((ACCESS_CONTROL_ALLOW_ORIGIN, origin));
        headers.extend(self.fixed.iter().cloned());
        headers.extend(echoed.map(|value| (ACCESS_CONTROL_ALLOW_HEADERS, value)));
        Some(Answer { status: StatusCode::NO_CONTENT, headers, body: Bytes::new() })
    }

    /// The answer to all others: a browser reads "no" from the absence of headers.
    pub(super) fn deny() -> Answer {
        Answer { status: StatusCode::NO_CONTENT, headers: Vec::new(), body: Bytes::new() }
    }
}

/// The headers asked for, as one list: they may come in several lines (RFC 9110, 5.3).
fn asked(head: &dyn RequestHead) -> Vec<u8> {
    let mut list = Vec::new();
    head.each_original(&ACCESS_CONTROL_REQUEST_HEADERS, &mut |value| {
        if !list.is_empty() {
            list.extend_from_slice(b", ");
        }
        list.extend_from_slice(value);
    });
    list
}

fn all_listed(asked: &[u8], listed: &[String]) -> bool {
    asked
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|name| !name.is_empty())
        .all(|name| listed.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(name)))
}
