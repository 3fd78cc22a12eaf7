// SPDX-License-Identifier: Apache-2.0
//! A policy that does what its parameters say, one thing at a time, in every phase there is.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ferrogate_policy::{
    Answer, Attachment, BodyNeed, CompileError, Definition, Exchange, Hooks, Phases, Policy, PolicyError,
    RequestHead, ResponseHead, Services, Verdict,
};
use futures::future::LocalBoxFuture;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use serde_json::Value;

pub struct Probe;

struct Doing {
    what: String,
    value: String,
}

impl Definition for Probe {
    fn name(&self) -> &'static str {
        "probe"
    }

    fn version(&self) -> &'static str {
        "v1.0.0"
    }

    fn description(&self) -> &'static str {
        "For tests."
    }

    fn schema(&self) -> &'static str {
        r#"{"type":"object"}"#
    }

    fn compile(&self, params: &Value, _: &Attachment, _: &Services) -> Result<Policy, CompileError> {
        let text = |key: &str| params[key].as_str().unwrap_or_default().to_owned();
        Ok(Box::new(Doing { what: text("do"), value: text("value") }))
    }
}

impl Hooks for Doing {
    fn phases(&self) -> Phases {
        let base = Phases { request: true, ..Phases::default() };
        match self.what.as_str() {
            "tag" | "framing" | "answer-late" | "fail-late" | "original" => Phases { response: true, ..base },
            "buffer-request" | "stop-whole" | "answer-whole" => {
                Phases { request_body: BodyNeed::Buffered, ..base }
            }
            "buffer-response" => Phases { response_body: BodyNeed::Buffered, ..base },
            "look" => Phases { request_body: BodyNeed::Buffered, response_body: BodyNeed::Buffered, ..base },
            "stream-request" | "stop-request" | "answer-body" => {
                Phases { request_body: BodyNeed::Streamed, ..base }
            }
            "stream-response" | "stop-response" => Phases { response_body: BodyNeed::Streamed, ..base },
            "stream-both" => {
                Phases { request_body: BodyNeed::Streamed, response_body: BodyNeed::Streamed, ..base }
            }
            _ => base,
        }
    }

    fn on_request(
        &self,
        head: &mut dyn RequestHead,
        exchange: &mut Exchange<'_>,
    ) -> Result<Verdict, PolicyError> {
        match self.what.as_str() {
            "tag" => head.set(&name("x-tag"), value(&self.value)),
            "answer" => return Ok(answer(&self.value)),
            "outbound" => return Ok(Verdict::Ask),
            "fail" => return Err(PolicyError("secret detail".to_owned())),
            // Keeps the worker busy.
            "block" => {
                let until = Instant::now() + Duration::from_millis(self.value.parse().expect("a number"));
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
            }
            "upstream" => exchange.upstream = Some(self.value.clone()),
            "path" => head.set_path_and_query(self.value.clone()),
            "host" => head.set_upstream_authority(value(&self.value)),
            "framing" => {
                head.set(&name("content-length"), value("3"));
                head.set(&name("transfer-encoding"), value("chunked"));
                head.set(&name("x-target-upstream"), value("blue"));
            }
            "method" => head.set_method(Method::from_bytes(self.value.as_bytes()).expect("a method")),
            "original" => head.set(&name("x-client"), value("overwritten")),
            "only" if head.only_original(&name("x-client")).is_none() => return Ok(answer("not one")),
            _ => {}
        }
        Ok(Verdict::Continue)
    }

    fn on_request_outbound<'f>(
        &'f self,
        head: &'f mut dyn RequestHead,
        _exchange: &'f mut Exchange<'_>,
    ) -> LocalBoxFuture<'f, Result<Verdict, PolicyError>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            if self.value == "never" {
                std::future::pending::<()>().await;
            }
            head.set(&name("x-outbound"), value("asked"));
            Ok(Verdict::Continue)
        })
    }

    fn on_request_body(
        &self,
        head: &mut dyn RequestHead,
        body: &mut Bytes,
        last: bool,
        _exchange: &mut Exchange<'_>,
    ) -> Result<Verdict, PolicyError> {
        match self.what.as_str() {
            "stop-request" | "stop-whole" if !body.is_empty() => {
                return Err(PolicyError("not this body".to_owned()));
            }
            "answer-body" | "answer-whole" if !body.is_empty() => return Ok(answer(&self.value)),
            _ => {}
        }
        if self.what == "buffer-request" {
            assert!(last, "a buffered body comes once");
            head.set(&name("x-body-bytes"), HeaderValue::from(body.len()));
        }
        if self.what != "look" {
            *body = changed(body, last);
        }
        Ok(Verdict::Continue)
    }

    fn on_response(
        &self,
        request: &dyn RequestHead,
        head: &mut dyn ResponseHead,
        _exchange: &mut Exchange<'_>,
    ) -> Result<Verdict, PolicyError> {
        match self.what.as_str() {
            "framing" => {
                head.set(&name("content-length"), value("3"));
                head.set(&name("transfer-encoding"), value("chunked"));
            }
            "answer-late" => return Ok(answer(&self.value)),
            "fail-late" => return Err(PolicyError("secret detail".to_owned())),
            "original" => {
                let sent = request.original(&name("x-client")).unwrap_or_default();
                head.set(&name("x-original"), HeaderValue::from_bytes(sent).expect("a value"));
                head.set(&name("x-original-path"), value(request.original_path_and_query()));
            }
            _ => head.set(&name("x-tag"), value(&self.value)),
        }
        Ok(Verdict::Continue)
    }

    fn on_response_body(
        &self,
        _request: &dyn RequestHead,
        head: &mut dyn ResponseHead,
        body: &mut Bytes,
        last: bool,
        _exchange: &mut Exchange<'_>,
    ) -> Result<Verdict, PolicyError> {
        if self.what == "stop-response" && last {
            return Err(PolicyError("not this body".to_owned()));
        }
        if self.what == "look" {
            head.set(&name("x-seen"), HeaderValue::from(body.len()));
            return Ok(Verdict::Continue);
        }
        head.set(&name("x-changed"), value("1"));
        *body = changed(body, last);
        Ok(Verdict::Continue)
    }
}

/// Upper case, and a mark at the end.
fn changed(body: &Bytes, last: bool) -> Bytes {
    let mut bytes = body.to_ascii_uppercase();
    if last {
        bytes.extend_from_slice(b"|END");
    }
    bytes.into()
}

fn answer(text: &str) -> Verdict {
    let headers = vec![(name("x-policy"), value("answered"))];
    Verdict::Answer(Answer {
        status: StatusCode::IM_A_TEAPOT,
        headers,
        body: Bytes::copy_from_slice(text.as_bytes()),
    })
}

fn name(text: &'static str) -> HeaderName {
    HeaderName::from_static(text)
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::try_from(text).expect("a value")
}
