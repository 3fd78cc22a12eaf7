// SPDX-License-Identifier: Apache-2.0
//! `remove-headers`: removes every value of the named headers from the request, the
//! response or both (contract 6.9). A header that is not there is no error.

use ferrogate_policy::{
    Attachment, CompileError, Definition, Exchange, Hooks, Phases, Policy, PolicyError, RequestHead,
    ResponseHead, Services, Verdict,
};
use http::HeaderName;
use serde::Deserialize;
use serde_json::Value;

use crate::header_list::{self, NameOnly};

/// The name artifacts use.
pub const NAME: &str = "remove-headers";

/// The definition.
pub struct RemoveHeaders;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    request: Option<Listed>,
    response: Option<Listed>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    headers: Vec<NameOnly>,
}

struct Instance {
    request: Vec<HeaderName>,
    response: Vec<HeaderName>,
}

impl Definition for RemoveHeaders {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> &'static str {
        "v1.0.1"
    }

    fn description(&self) -> &'static str {
        "Removes headers from the request, the response or both."
    }

    fn schema(&self) -> &'static str {
        include_str!("schema.json")
    }

    fn is_made_of_parameters(&self) -> bool {
        true
    }

    fn compile(&self, params: &Value, _: &Attachment, _: &Services) -> Result<Policy, CompileError> {
        let params = Params::deserialize(params).map_err(|error| header_list::unreadable(&error))?;
        let names = |field, listed: Option<Listed>| {
            header_list::names(field, &listed.map(|listed| listed.headers).unwrap_or_default())
        };
        Ok(Box::new(Instance {
            request: names("request.headers", params.request)?,
            response: names("response.headers", params.response)?,
        }))
    }
}

impl Hooks for Instance {
    fn phases(&self) -> Phases {
        Phases { request: !self.request.is_empty(), response: !self.response.is_empty(), ..Phases::default() }
    }

    fn on_request(&self, head: &mut dyn RequestHead, _: &mut Exchange<'_>) -> Result<Verdict, PolicyError> {
        self.request.iter().for_each(|name| head.remove(name));
        Ok(Verdict::Continue)
    }

    fn on_response(
        &self,
        _request: &dyn RequestHead,
        head: &mut dyn ResponseHead,
        _: &mut Exchange<'_>,
    ) -> Result<Verdict, PolicyError> {
        self.response.iter().for_each(|name| head.remove(name));
        Ok(Verdict::Continue)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use ferrogate_policy::harness::{Request, Response, Route, exercise};
    use ferrogate_policy::{Definition, Level, Services};
    use serde_json::json;

    use super::RemoveHeaders;

    fn definition() -> Arc<dyn Definition> {
        Arc::new(RemoveHeaders)
    }

    #[test]
    fn every_value_goes_and_nothing_else() {
        let params = json!({
            "request": { "headers": [{"name": "X-Secret"}, {"name": "x-none"}] },
            "response": { "headers": [{"name": "server"}] },
        });
        let route = Route::with_policy(&definition(), &params, Level::Operation, &Services::in_memory())
            .expect("valid parameters");
        let request =
            Request::new("GET", "/").with("x-secret", "1").with("X-SECRET", "2").with("x-kept", "3");
        let response = Response::new(500).with("Server", "x").with("server", "y").with("date", "z");
        let outcome = route.run(request, Bytes::new(), response, Bytes::new());
        assert_eq!(outcome.request.values("x-secret"), Vec::<String>::new());
        assert_eq!(outcome.request.values("x-kept"), ["3"]);
        assert_eq!(outcome.response.values("server"), Vec::<String>::new());
        assert_eq!(outcome.response.values("date"), ["z"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for params in [
            json!({}),
            json!({"request": {}}),
            json!({"request": {"headers": []}}),
            json!({"request": {"headers": [{"name": ""}]}}),
            json!({"request": {"headers": [{"name": "a:b"}]}}),
            json!({"request": {"headers": [{"name": "x-a", "value": "1"}]}}),
            json!({"request": {"headers": [{"name": "Transfer-Encoding"}]}}),
            json!({"requestHeaders": [{"name": "x-a"}]}),
        ] {
            let refused = Route::with_policy(&definition(), &params, Level::Api, &Services::in_memory());
            assert!(refused.is_err(), "{params} was accepted");
        }
    }

    #[test]
    fn it_passes_the_trials() {
        let headers = json!([{"name": "cookie"}, {"name": "vary"}]);
        exercise(&definition(), &json!({"request": {"headers": headers}, "response": {"headers": headers}}));
    }
}
