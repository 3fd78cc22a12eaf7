// SPDX-License-Identifier: Apache-2.0
//! `respond`: answers in the gateway, without an upstream (contract 6.13). The answer is
//! made once, when compiled; each request gets a copy whose body and values are shared.

use bytes::Bytes;
use ferrogate_policy::{
    Answer, Attachment, CompileError, Definition, Exchange, Hooks, Phases, Policy, PolicyError, RequestHead,
    Services, Verdict,
};
use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use crate::header_list::{self, NameValue};

/// The name artifacts use.
pub const NAME: &str = "respond";

/// The definition.
pub struct Respond;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Params {
    #[serde(default = "ok")]
    status_code: u16,
    #[serde(default)]
    body: String,
    #[serde(default)]
    headers: Vec<NameValue>,
}

const fn ok() -> u16 {
    200
}

struct Instance {
    answer: Answer,
}

impl Definition for Respond {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> &'static str {
        "v1.0.1"
    }

    fn description(&self) -> &'static str {
        "Answers in the gateway with a fixed status, headers and body."
    }

    fn schema(&self) -> &'static str {
        include_str!("schema.json")
    }

    fn is_made_of_parameters(&self) -> bool {
        true
    }

    fn compile(&self, params: &Value, _: &Attachment, _: &Services) -> Result<Policy, CompileError> {
        let params = Params::deserialize(params).map_err(|error| header_list::unreadable(&error))?;
        let status = StatusCode::from_u16(params.status_code)
            .ok()
            .filter(|status| !status.is_informational())
            .ok_or_else(|| CompileError {
                field: "statusCode".to_owned(),
                message: "an informational status (1xx) cannot end a request; use 200 to 599".to_owned(),
            })?;
        let headers = header_list::pairs("headers", &params.headers)?;
        // RFC 9110, 15.3.5, 15.3.6 and 15.4.5.
        let bodiless =
            matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED);
        let body = if bodiless { Bytes::new() } else { Bytes::from(params.body) };
        Ok(Box::new(Instance { answer: Answer { status, headers, body } }))
    }
}

impl Hooks for Instance {
    fn phases(&self) -> Phases {
        Phases { request: true, ..Phases::default() }
    }

    fn on_request(&self, _: &mut dyn RequestHead, _: &mut Exchange<'_>) -> Result<Verdict, PolicyError> {
        Ok(Verdict::Answer(self.answer.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ferrogate_policy::harness::{Request, Route, exercise};
    use ferrogate_policy::{Definition, Level, ResponseHead as _, Services};
    use serde_json::{Value, json};

    use super::Respond;

    fn definition() -> Arc<dyn Definition> {
        Arc::new(Respond)
    }

    fn answer(params: &Value) -> Result<(u16, Vec<String>, String), String> {
        let route = Route::with_policy(&definition(), params, Level::Api, &Services::in_memory())
            .map_err(|violations| violations.to_string())?;
        let outcome = route.send(Request::new("GET", "/"));
        let body = String::from_utf8_lossy(&outcome.response_body).into_owned();
        Ok((outcome.response.status().as_u16(), outcome.response.values("x-a"), body))
    }

    #[test]
    fn it_answers_as_told() {
        let header = |value: &str| json!({"name": "X-A", "value": value});
        for (params, status, headers, body) in [
            (json!({}), 200, vec![], ""),
            (json!(null), 200, vec![], ""),
            (
                json!({"statusCode": 418, "body": "tea", "headers": [header("1"), header("2")]}),
                418,
                vec!["1", "2"],
                "tea",
            ),
            (json!({"statusCode": "503"}), 503, vec![], ""),
            (json!({"statusCode": 204, "body": "lost"}), 204, vec![], ""),
            (json!({"statusCode": 205, "body": "lost"}), 205, vec![], ""),
            (json!({"statusCode": 599}), 599, vec![], ""),
        ] {
            let headers = headers.into_iter().map(str::to_owned).collect();
            assert_eq!(answer(&params), Ok((status, headers, body.to_owned())), "{params}");
        }
    }

    #[test]
    fn what_cannot_be_answered_is_refused() {
        for params in [
            json!({"statusCode": 99}),
            json!({"statusCode": 101}),
            json!({"statusCode": 600}),
            json!({"statusCode": 200.5}),
            json!({"body": "x".repeat(1_048_577)}),
            json!({"headers": [{"name": "x-a"}]}),
            json!({"headers": [{"name": "content-length", "value": "9"}]}),
            json!({"headers": [{"name": "x-a", "value": "1\n2"}]}),
        ] {
            assert!(answer(&params).is_err(), "{params} was accepted");
        }
    }

    #[test]
    fn it_passes_the_trials() {
        let headers = json!([{"name": "content-type", "value": "text/plain"}]);
        exercise(&definition(), &json!({"statusCode": 503, "body": "closed", "headers": headers}));
    }
}
