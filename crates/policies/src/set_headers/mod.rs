// SPDX-License-Identifier: Apache-2.0
//! `set-headers`: sets or appends headers on the request, the response or both
//! (contract 6.8). Names and values are checked once, when compiled; a hook only hands
//! out copies, which for header values are reference counts.

use bytes::Bytes;
use ferrogate_policy::head::Headers;
use ferrogate_policy::{
    Attachment, BodyNeed, CompileError, Definition, Exchange, Hooks, Phases, Policy, PolicyError,
    RequestHead, ResponseHead, Services, Verdict,
};
use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::Value;

use crate::header_list::{self, NameValue};

/// The name artifacts use.
pub const NAME: &str = "set-headers";

/// The definition.
pub struct SetHeaders;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    #[serde(default)]
    mode: Mode,
    request: Option<RequestParams>,
    response: Option<ResponseParams>,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    #[default]
    Set,
    Append,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestParams {
    headers: Vec<NameValue>,
    #[serde(default)]
    phase: RequestPhase,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RequestPhase {
    #[default]
    Header,
    Body,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResponseParams {
    headers: Vec<NameValue>,
}

struct Instance {
    mode: Mode,
    phase: RequestPhase,
    request: Vec<(HeaderName, HeaderValue)>,
    response: Vec<(HeaderName, HeaderValue)>,
}

impl Definition for SetHeaders {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> &'static str {
        "v1.1.0"
    }

    fn description(&self) -> &'static str {
        "Sets or appends headers on the request, the response or both."
    }

    fn schema(&self) -> &'static str {
        include_str!("schema.json")
    }

    fn is_made_of_parameters(&self) -> bool {
        true
    }

    fn compile(&self, params: &Value, _: &Attachment, _: &Services) -> Result<Policy, CompileError> {
        let params = Params::deserialize(params).map_err(|error| header_list::unreadable(&error))?;
        let phase = params.request.as_ref().map(|request| request.phase).unwrap_or_default();
        let request = params.request.map(|request| request.headers).unwrap_or_default();
        let response = params.response.map(|response| response.headers).unwrap_or_default();
        let compiled = |field, list: &[NameValue]| {
            let headers = header_list::pairs(field, list)?;
            Ok(if params.mode == Mode::Set { last_of_each(headers) } else { headers })
        };
        Ok(Box::new(Instance {
            mode: params.mode,
            phase,
            request: compiled("request.headers", &request)?,
            response: compiled("response.headers", &response)?,
        }))
    }
}

/// Setting a header twice is setting it to the last value.
fn last_of_each(headers: Vec<(HeaderName, HeaderValue)>) -> Vec<(HeaderName, HeaderValue)> {
    let mut kept: Vec<(HeaderName, HeaderValue)> = Vec::with_capacity(headers.len());
    for (name, value) in headers {
        match kept.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => kept.push((name, value)),
        }
    }
    kept
}

impl Instance {
    fn apply<H: Headers + ?Sized>(&self, head: &mut H, headers: &[(HeaderName, HeaderValue)]) {
        for (name, value) in headers {
            match self.mode {
                Mode::Set => head.set(name, value.clone()),
                Mode::Append => head.append(name, value.clone()),
            }
        }
    }
}

impl Hooks for Instance {
    fn phases(&self) -> Phases {
        let on_request = !self.request.is_empty();
        let in_body = on_request && self.phase == RequestPhase::Body;
        Phases {
            request: on_request && !in_body,
            // The head can only wait for the body when the body is buffered.
            request_body: if in_body { BodyNeed::Buffered } else { BodyNeed::None },
            response: !self.response.is_empty(),
            ..Phases::default()
        }
    }

    fn on_request(&self, head: &mut dyn RequestHead, _: &mut Exchange<'_>) -> Result<Verdict, PolicyError> {
        self.apply(head, &self.request);
        Ok(Verdict::Continue)
    }

    fn on_request_body(
        &self,
        head: &mut dyn RequestHead,
        _body: &mut Bytes,
        _last: bool,
        _: &mut Exchange<'_>,
    ) -> Result<Verdict, PolicyError> {
        self.apply(head, &self.request);
        Ok(Verdict::Continue)
    }

    fn on_response(
        &self,
        _request: &dyn RequestHead,
        head: &mut dyn ResponseHead,
        _: &mut Exchange<'_>,
    ) -> Result<Verdict, PolicyError> {
        self.apply(head, &self.response);
        Ok(Verdict::Continue)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use ferrogate_policy::harness::{Outcome, Request, Response, Route, exercise};
    use ferrogate_policy::{BodyNeed, Definition, Level, Services};
    use serde_json::{Value, json};

    use super::SetHeaders;

    fn definition() -> Arc<dyn Definition> {
        Arc::new(SetHeaders)
    }

    fn route(params: &Value) -> Result<Route, String> {
        Route::with_policy(&definition(), params, Level::Api, &Services::in_memory())
            .map_err(|violations| violations.to_string())
    }

    fn run(params: &Value) -> Outcome {
        let request = Request::new("GET", "/").with("x-a", "client");
        let response = Response::new(200).with("x-a", "upstream");
        route(params).expect("valid parameters").run(request, Bytes::new(), response, Bytes::new())
    }

    #[test]
    fn set_replaces_and_the_last_entry_wins() {
        let outcome = run(&json!({
            "request": { "headers": [{"name": "X-A", "value": "1"}, {"name": "x-a", "value": "2"}] },
            "response": { "headers": [{"name": "x-a", "value": "3"}, {"name": "x-b", "value": ""}] },
        }));
        assert_eq!(outcome.request.values("x-a"), ["2"]);
        assert_eq!(outcome.response.values("x-a"), ["3"]);
        assert_eq!(outcome.response.values("x-b"), [""]);
    }

    #[test]
    fn append_keeps_and_adds_in_order() {
        let outcome = run(&json!({
            "mode": "append",
            "request": { "headers": [{"name": "x-a", "value": "1"}, {"name": "X-A", "value": "2"}] },
            "response": { "headers": [{"name": "x-a", "value": "3"}] },
        }));
        assert_eq!(outcome.request.values("x-a"), ["client", "1", "2"]);
        assert_eq!(outcome.response.values("x-a"), ["upstream", "3"]);
    }

    #[test]
    fn only_what_is_asked_for_costs_a_phase() {
        let header = json!([{"name": "x-a", "value": "1"}]);
        let chain = route(&json!({ "response": { "headers": header } })).expect("valid").chain;
        assert!(chain.has_response() && !chain.has_request());
        assert_eq!(chain.request_body_need(), BodyNeed::None);

        let in_body = json!({ "request": { "phase": "body", "headers": header } });
        let chain = route(&in_body).expect("valid").chain;
        assert!(!chain.has_request() && !chain.has_response());
        assert_eq!(chain.request_body_need(), BodyNeed::Buffered);
        assert_eq!(run(&in_body).request.values("x-a"), ["1"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let entry =
            |name: &str, value: &str| json!({ "request": { "headers": [{"name": name, "value": value}] } });
        for (params, expected) in [
            (json!({}), "spec.policies[0].params: at least one of 'request', 'response' is required"),
            (json!({"request": {}}), "spec.policies[0].params.request: headers is required"),
            (
                json!({"request": {"headers": []}}),
                "spec.policies[0].params.request.headers: must have at least 1 item",
            ),
            (
                entry("x a", "1"),
                "spec.policies[0].params.request.headers.0.name: does not match pattern '^[a-zA-Z0-9_-]+$'",
            ),
            (
                entry("x-a", &"v".repeat(8193)),
                "spec.policies[0].params.request.headers.0.value: length must be less than or equal to 8192",
            ),
            (
                entry("x-a", "1\r\nx-b: 2"),
                "spec.policies[0].params.request.headers.0.value: a header value must not contain control \
                 characters",
            ),
            (
                entry("Content-Length", "1"),
                "spec.policies[0].params.request.headers.0.name: 'content-length' is written by the gateway \
                 and cannot be changed by a policy",
            ),
        ] {
            assert_eq!(route(&params).err(), Some(expected.to_owned()), "{params}");
        }
    }

    #[test]
    fn it_passes_the_trials() {
        let headers = json!([{"name": "x-a", "value": "1"}]);
        exercise(
            &definition(),
            &json!({"mode": "append", "request": {"headers": headers}, "response": {"headers": headers}}),
        );
        exercise(&definition(), &json!({"request": {"headers": headers, "phase": "body"}}));
    }
}
