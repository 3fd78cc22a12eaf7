// SPDX-License-Identifier: Apache-2.0
//! A policy that does what its parameters say, and leaves a mark in each phase: with it,
//! the tests of the chain and of the runtime see order, buffering, answers and failures
//! without a concrete policy.

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::Value;

use crate::definition::{Attachment, CompileError, Definition, Level, Services};
use crate::exchange::Exchange;
use crate::head::{RequestHead, ResponseHead};
use crate::hooks::{Answer, BodyNeed, Hooks, Phases, Policy, PolicyError, Verdict};

/// Where marks are left: one value per hook that ran, in order.
const MARK: HeaderName = HeaderName::from_static("x-probe");

const SCHEMA: &str = r##"{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "label": { "type": "string", "pattern": "^[a-z0-9-]*$" },
    "phases": { "type": "array", "items": { "$ref": "#/definitions/phase" } },
    "streamed": { "type": "boolean" },
    "answer": { "$ref": "#/definitions/phase" },
    "fail": { "$ref": "#/definitions/phase" },
    "hang": { "type": "boolean" },
    "refuse": { "type": "boolean" }
  },
  "definitions": {
    "phase": { "enum": ["request", "outbound", "request_body", "response", "response_body"] }
  }
}"##;

/// The definition. Parameters: `label` (what marks say), `phases` (which hooks it has; all but
/// `outbound` when absent), `streamed` (bodies chunk by chunk), `answer` and `fail` (the hook
/// in which it answers 418 or fails), `hang` (its outbound call never ends), `refuse` (it does
/// not compile). Marks are values of `x-probe` on the message of the phase: `hook:label`.
pub struct Probe {
    name: &'static str,
    version: &'static str,
    schema: &'static str,
    made_of_parameters: bool,
}

struct Instance {
    label: String,
    phases: Phases,
    answer: Option<String>,
    fail: Option<String>,
    hang: bool,
    /// It has a hook that asks; `marks` that it has one of its own before that.
    asks: bool,
    marks: bool,
}

impl Probe {
    /// A probe with this name and version.
    #[must_use]
    pub const fn named(name: &'static str, version: &'static str) -> Probe {
        Probe { name, version, schema: SCHEMA, made_of_parameters: false }
    }

    /// The same with another schema.
    #[must_use]
    pub const fn with_schema(self, schema: &'static str) -> Probe {
        Probe { schema, ..self }
    }

    /// The same with instances that may be shared: they must have labels, or would say where they stand.
    #[must_use]
    pub const fn made_of_parameters(self) -> Probe {
        Probe { made_of_parameters: true, ..self }
    }
}

impl Definition for Probe {
    fn name(&self) -> &'static str {
        self.name
    }

    fn version(&self) -> &'static str {
        self.version
    }

    fn description(&self) -> &'static str {
        "Leaves marks, answers, fails or hangs as its parameters say."
    }

    fn schema(&self) -> &'static str {
        self.schema
    }

    fn is_made_of_parameters(&self) -> bool {
        self.made_of_parameters
    }

    fn compile(
        &self,
        params: &Value,
        attachment: &Attachment,
        _services: &Services,
    ) -> Result<Policy, CompileError> {
        let text = |key: &str| params.get(key).and_then(Value::as_str).map(str::to_owned);
        let flag = |key: &str| params.get(key).and_then(Value::as_bool).unwrap_or(false);
        if flag("refuse") {
            return Err(CompileError { field: "refuse".to_owned(), message: "refused as asked".to_owned() });
        }
        let listed = params.get("phases").and_then(Value::as_array);
        let has = |phase: &str| match listed {
            Some(listed) => listed.iter().any(|one| one == phase),
            None => phase != "outbound",
        };
        let body = if flag("streamed") { BodyNeed::Streamed } else { BodyNeed::Buffered };
        let body_in = |phase: &str| if has(phase) { body } else { BodyNeed::None };
        let level = match attachment.level {
            Level::Api => "api",
            Level::Operation => "operation",
        };
        Ok(Box::new(Instance {
            label: text("label").unwrap_or_else(|| level.to_owned()),
            phases: Phases {
                request: has("request") || has("outbound"),
                request_body: body_in("request_body"),
                response: has("response"),
                response_body: body_in("response_body"),
            },
            answer: text("answer"),
            fail: text("fail"),
            hang: flag("hang"),
            asks: has("outbound"),
            marks: has("request"),
        }))
    }
}

impl Instance {
    fn mark(&self, hook: &str) -> HeaderValue {
        // The schema keeps the label to characters that a header value may have.
        HeaderValue::try_from(format!("{hook}:{}", self.label)).unwrap_or(HeaderValue::from_static("?"))
    }

    fn act(&self, hook: &str) -> Result<Verdict, PolicyError> {
        if self.fail.as_deref() == Some(hook) {
            return Err(PolicyError(format!("{} failed in {hook}", self.label)));
        }
        if self.answer.as_deref() == Some(hook) {
            return Ok(Verdict::Answer(Answer {
                status: StatusCode::IM_A_TEAPOT,
                headers: vec![(MARK, self.mark(hook))],
                body: Bytes::from(self.label.clone()),
            }));
        }
        Ok(Verdict::Continue)
    }

    /// A body hook marks the body, which it can change in every mode.
    fn mark_body(&self, hook: &str, body: &mut Bytes) {
        let mark = format!("[{hook}:{}]", self.label);
        *body = [body.as_ref(), mark.as_bytes()].concat().into();
    }
}

impl Hooks for Instance {
    fn phases(&self) -> Phases {
        self.phases
    }

    fn on_request(
        &self,
        head: &mut dyn RequestHead,
        exchange: &mut Exchange<'_>,
    ) -> Result<Verdict, PolicyError> {
        if self.marks {
            head.append(&MARK, self.mark("request"));
            exchange.keep(self.label.clone());
            match self.act("request")? {
                Verdict::Continue => {}
                ended => return Ok(ended),
            }
        }
        Ok(if self.asks { Verdict::Ask } else { Verdict::Continue })
    }

    fn on_request_outbound<'f>(
        &'f self,
        head: &'f mut dyn RequestHead,
        _exchange: &'f mut Exchange<'_>,
    ) -> LocalBoxFuture<'f, Result<Verdict, PolicyError>> {
        Box::pin(async move {
            if self.hang {
                futures::future::pending::<()>().await;
            }
            head.append(&MARK, self.mark("outbound"));
            self.act("outbound")
        })
    }

    fn on_request_body(
        &self,
        _head: &mut dyn RequestHead,
        body: &mut Bytes,
        _last: bool,
        _exchange: &mut Exchange<'_>,
    ) -> Result<Verdict, PolicyError> {
        self.mark_body("request_body", body);
        self.act("request_body")
    }

    fn on_response(
        &self,
        _request: &dyn RequestHead,
        head: &mut dyn ResponseHead,
        exchange: &mut Exchange<'_>,
    ) -> Result<Verdict, PolicyError> {
        // What this instance kept in the request must be its own again, whatever others kept.
        if self.phases.request && exchange.kept::<String>().is_some_and(|kept| *kept != self.label) {
            return Err(PolicyError("another instance's state was found".to_owned()));
        }
        head.append(&MARK, self.mark("response"));
        self.act("response")
    }

    fn on_response_body(
        &self,
        _request: &dyn RequestHead,
        _head: &mut dyn ResponseHead,
        body: &mut Bytes,
        _last: bool,
        _exchange: &mut Exchange<'_>,
    ) -> Result<Verdict, PolicyError> {
        self.mark_body("response_body", body);
        self.act("response_body")
    }
}
