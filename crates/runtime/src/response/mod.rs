// SPDX-License-Identifier: Apache-2.0
//! The response as the client receives it: the upstream's, a policy's or the gateway's own,
//! with the headers of contract 4.5. It buffers a body only for policies that need it whole.
//! `request` calls it last; the body then travels on its own.

pub mod body;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ferrogate_policy::Answer;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, SERVER, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use hyper::body::Frame;

use self::body::{Source, UpstreamBody};
use crate::access_log::Record;
use crate::config::ServerHeaderMode;
use crate::error::{Failure, OwnAnswer, Reason};
use crate::grpc;
use crate::head::ResponseParts;
use crate::request::inbound::Health;
use crate::worker::Worker;

/// How long the upstream took, told to the client.
pub const X_ENVOY_UPSTREAM_SERVICE_TIME: HeaderName =
    HeaderName::from_static("x-envoy-upstream-service-time");

/// A response whose body is not yet tied to its request's end.
pub struct Draft {
    /// Status and headers.
    pub head: ResponseParts,
    /// The body.
    pub source: Source,
}

impl Draft {
    /// A policy's answer.
    #[must_use]
    pub fn of_answer(answer: Answer) -> Draft {
        let mut headers = HeaderMap::with_capacity(answer.headers.len() + 2);
        for (name, value) in answer.headers {
            headers.append(name, value);
        }
        // The codec writes the length of what is really sent.
        headers.remove(CONTENT_LENGTH);
        Draft {
            head: ResponseParts { status: answer.status, headers },
            source: Source::Whole(Some(answer.body)),
        }
    }

    /// The same in the words of the request, if it is a gRPC call: a policy's refusal is a status in
    /// the place of trailers. What a policy answers in earnest stays as it is.
    #[must_use]
    pub fn in_words_of(mut self, record: &Record) -> Draft {
        let status = self.head.status;
        if record.grpc.is_some() && (status.is_client_error() || status.is_server_error()) {
            let message = status.canonical_reason().unwrap_or_default();
            self.head.status = grpc::trailers_only(status, message, &mut self.head.headers);
            self.source = Source::Whole(None);
        }
        self
    }

    /// The gateway's own answer to a failure; the record learns of it.
    #[must_use]
    pub fn of_failure(failure: &Failure, record: &mut Record) -> Draft {
        let (answer, error_id) = failure.answer();
        record.fail(failure, error_id);
        let mut headers = HeaderMap::with_capacity(answer.headers.len() + 2);
        for (name, value) in answer.headers {
            headers.append(name, value);
        }
        let (status, body) = match record.grpc {
            None => (answer.status, Some(answer.body)),
            Some(_) => (grpc::trailers_only(answer.status, failure.reason.name(), &mut headers), None),
        };
        Draft { head: ResponseParts { status, headers }, source: Source::Whole(body) }
    }

    /// The answer of the health namespace (contract 1.7).
    #[must_use]
    pub fn of_health(health: Health, ready: bool) -> Draft {
        let (status, body) = match (health, ready) {
            (Health::Healthy, _) => (StatusCode::OK, &b"{\"status\":\"healthy\"}"[..]),
            (Health::Ready, true) => (StatusCode::OK, &b"{\"status\":\"ready\"}"[..]),
            // A load balancer must not send traffic to a gateway without routes.
            (Health::Ready, false) => (StatusCode::SERVICE_UNAVAILABLE, &b"{\"status\":\"not ready\"}"[..]),
        };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Draft {
            head: ResponseParts { status, headers },
            source: Source::Whole(Some(Bytes::from_static(body))),
        }
    }

    /// The same as a plain answer, of what is in memory.
    #[must_use]
    pub fn into_own(self) -> OwnAnswer {
        let headers = self.head.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let body = match self.source {
            Source::Whole(body) => body.unwrap_or_default(),
            Source::Upstream(_) | Source::Walk(_) | Source::Switched(_) => Bytes::new(),
        };
        OwnAnswer { status: self.head.status, headers, body }
    }

    /// Whether the response has a body by its status and the request's method (RFC 9110, 6.4.1).
    #[must_use]
    pub fn may_have_body(&self, method: &Method) -> bool {
        *method != Method::HEAD && self.status_has_body()
    }

    fn status_has_body(&self) -> bool {
        let status = self.head.status;
        !status.is_informational() && status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED
    }

    /// Puts the body that policies made in place of the one that came, where there may be one.
    pub fn replace_body(&mut self, method: &Method, bytes: Bytes) {
        if self.may_have_body(method) {
            // The codec writes the length of what is really sent.
            self.head.headers.remove(CONTENT_LENGTH);
            self.source = Source::Whole(Some(bytes));
        }
    }

    /// The finished response.
    #[must_use]
    pub fn finish<B>(
        mut self,
        worker: &Worker,
        record: &mut Record,
        wrap: impl FnOnce(Source) -> B,
    ) -> Response<B> {
        if let Some(value) = &worker.server_header {
            let keep = worker.shared.config.server_header.mode == ServerHeaderMode::AppendIfAbsent
                && self.head.headers.contains_key(SERVER);
            if !keep {
                self.head.headers.insert(SERVER, value.clone());
            }
        }
        if (record.ends_connection || worker.shared.drain.is_cancelled()) && record.is_http1() {
            self.head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        self.settle_framing(record.method());
        record.status = Some(self.head.status);
        record.note_response(|name| self.head.headers.get(name).map(HeaderValue::as_bytes));
        let mut response = Response::new(wrap(self.source));
        *response.status_mut() = self.head.status;
        *response.headers_mut() = self.head.headers;
        response
    }

    /// What frames the body is ours: a length that a policy set must not cut a response short
    /// or make the next one part of it.
    fn settle_framing(&mut self, method: &Method) {
        self.head.headers.remove(TRANSFER_ENCODING);
        if !self.may_have_body(method) {
            self.drop_body();
            return;
        }
        if !self.head.headers.contains_key(CONTENT_LENGTH) {
            return;
        }
        match self.source.size() {
            Some(size) => self.head.headers.insert(CONTENT_LENGTH, HeaderValue::from(size)),
            None => self.head.headers.remove(CONTENT_LENGTH),
        };
    }

    /// Leaves the head as it is and drops the body, which the codec would never ask for: the
    /// request would look as if its client had left before the end.
    fn drop_body(&mut self) {
        let status_has_body = self.status_has_body();
        let headers = &mut self.head.headers;
        if self.head.status.is_informational() || self.head.status == StatusCode::NO_CONTENT {
            headers.remove(CONTENT_LENGTH);
        }
        match &self.source {
            Source::Whole(Some(bytes)) => {
                // To HEAD the length is what a GET would have had (RFC 9110, 8.6).
                if status_has_body && !headers.contains_key(CONTENT_LENGTH) {
                    headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
                }
                self.source = Source::Whole(None);
            }
            // A policy made another method of HEAD, and the upstream sends what nobody may get.
            Source::Upstream(body) if !body.is_end() => self.source = Source::Whole(None),
            Source::Upstream(_) | Source::Whole(None) | Source::Walk(_) | Source::Switched(_) => {}
        }
    }
}

/// Notes how long the upstream took, for the client.
pub fn note_service_time(headers: &mut HeaderMap, took: Duration) {
    let mut digits = itoa::Buffer::new();
    if let Ok(value) = HeaderValue::from_str(digits.format(took.as_millis())) {
        headers.insert(X_ENVOY_UPSTREAM_SERVICE_TIME, value);
    }
}

/// Reads a body whole, up to the limit.
///
/// # Errors
/// When it is longer, breaks off or takes too long.
pub async fn gather(body: &mut UpstreamBody, record: &mut Record, limit: usize) -> Result<Bytes, Failure> {
    let mut gathered = BytesMut::new();
    while let Some(frame) = next_frame(body, record).await? {
        if let Ok(data) = frame.into_data() {
            if gathered.len().saturating_add(data.len()) > limit {
                return Err(Failure::with(Reason::ResponseBodyTooLarge, format!("more than {limit} bytes")));
            }
            gathered.extend_from_slice(&data);
        }
    }
    Ok(gathered.freeze())
}

/// The next frame of an upstream's body.
///
/// # Errors
/// When it breaks off or takes too long.
pub async fn next_frame(
    body: &mut UpstreamBody,
    record: &mut Record,
) -> Result<Option<Frame<Bytes>>, Failure> {
    match std::future::poll_fn(|cx| body.poll_next(record, cx)).await {
        None => Ok(None),
        Some(Ok(frame)) => Ok(Some(frame)),
        Some(Err(error)) => Err(Failure::with(record.reason.take().unwrap_or(Reason::UpstreamReset), error)),
    }
}
