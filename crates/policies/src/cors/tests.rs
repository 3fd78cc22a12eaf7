// SPDX-License-Identifier: Apache-2.0
//! Preflights, marked responses, and what is refused at deployment.

use std::sync::Arc;

use bytes::Bytes;
use ferrogate_policy::harness::{Outcome, Request, Response, Route, exercise};
use ferrogate_policy::{Definition, Level, ResponseHead as _, Services};
use serde_json::{Value, json};

use super::Cors;

fn definition() -> Arc<dyn Definition> {
    Arc::new(Cors)
}

fn route(params: &Value) -> Result<Route, String> {
    Route::with_policy(&definition(), params, Level::Api, &Services::in_memory())
        .map_err(|violations| violations.to_string())
}

fn preflight(params: &Value, origin: &str, method: &str, headers: &str) -> Outcome {
    let mut request = Request::new("OPTIONS", "/").with("origin", origin);
    if !method.is_empty() {
        request = request.with("access-control-request-method", method);
    }
    if !headers.is_empty() {
        request = request.with("access-control-request-headers", headers);
    }
    route(params).expect("valid parameters").send(request)
}

fn call(params: &Value, origin: Option<&str>, response: Response) -> Response {
    let mut request = Request::new("GET", "/");
    if let Some(origin) = origin {
        request = request.with("origin", origin);
    }
    let outcome = route(params).expect("valid parameters").run(request, Bytes::new(), response, Bytes::new());
    assert!(outcome.answer.is_none() && outcome.failure.is_none());
    outcome.response
}

fn header(response: &Response, name: &str) -> Option<String> {
    let values = response.values(&format!("access-control-{name}"));
    assert!(values.len() <= 1, "{name}: {values:?}");
    values.into_iter().next()
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn a_preflight_within_bounds_is_answered() {
    let params = json!({
        "allowedOrigins": ["^https://(www\\.)?example\\.com$"],
        "allowedMethods": ["GET", "PATCH"],
        "allowedHeaders": ["X-One", "x-two"],
        "exposedHeaders": ["x-three"],
        "maxAge": 600,
        "allowCredentials": true,
    });
    let outcome = preflight(&params, "https://www.example.com", "PATCH", "x-ONE,, X-Two ");
    assert_eq!(outcome.response.status(), 204);
    assert!(outcome.answer.is_some() && outcome.response_body.is_empty());
    let response = &outcome.response;
    assert_eq!(header(response, "allow-origin"), some("https://www.example.com"));
    assert_eq!(header(response, "allow-methods"), some("GET, PATCH"));
    assert_eq!(header(response, "allow-headers"), some("X-One, x-two"));
    assert_eq!(header(response, "max-age"), some("600"));
    assert_eq!(header(response, "allow-credentials"), some("true"));
    assert_eq!(header(response, "expose-headers"), None);
}

#[test]
fn the_defaults_allow_every_origin() {
    let outcome = preflight(&json!({}), "https://any.where", "DELETE", "");
    assert_eq!(header(&outcome.response, "allow-origin"), some("*"));
    assert_eq!(header(&outcome.response, "allow-methods"), some("GET, POST, PUT, DELETE, OPTIONS"));
    for absent in ["allow-headers", "max-age", "allow-credentials"] {
        assert_eq!(header(&outcome.response, absent), None, "{absent}");
    }
}

#[test]
fn a_star_for_headers_echoes_what_was_asked() {
    let params = json!({"allowedHeaders": ["*"], "allowedMethods": ["*"]});
    let outcome = preflight(&params, "https://a.b", "LOCK", "X-Any, x-thing");
    assert_eq!(header(&outcome.response, "allow-headers"), some("X-Any, x-thing"));
    assert_eq!(header(&outcome.response, "allow-methods"), some("*"));
    assert_eq!(header(&preflight(&params, "https://a.b", "GET", "").response, "allow-headers"), None);
}

#[test]
fn a_preflight_out_of_bounds_gets_nothing_or_goes_on() {
    let bounds = json!({"allowedOrigins": ["^https://a$"], "allowedHeaders": ["x-a"]});
    let mut forwarding = bounds.clone();
    forwarding["forwardPreflight"] = json!(true);
    for (origin, method, headers) in [
        ("https://b", "GET", ""),
        ("https://a", "PATCH", ""),
        ("https://a", "get", ""),
        ("https://a", "", ""),
        ("https://a", "GET", "x-a, x-b"),
    ] {
        let denied = preflight(&bounds, origin, method, headers);
        assert_eq!(denied.answer.as_ref().map(|answer| answer.headers.len()), Some(0), "{origin} {method}");
        assert_eq!(denied.response.status(), 204);
        let forwarded = preflight(&forwarding, origin, method, headers);
        assert!(forwarded.answer.is_none(), "{origin} {method}");
        assert_eq!(header(&forwarded.response, "allow-origin"), None);
    }
    // Allowed ones are answered here all the same, and one without an origin is none.
    assert!(preflight(&forwarding, "https://a", "GET", "X-A").answer.is_some());
    let no_origin = Request::new("OPTIONS", "/").with("access-control-request-method", "GET");
    let outcome = route(&json!({})).expect("valid").send(no_origin);
    assert_eq!(outcome.answer.map(|answer| answer.headers.len()), Some(0));
}

#[test]
fn responses_to_allowed_origins_are_marked() {
    let params = json!({
        "allowedOrigins": ["^https://a$"], "exposedHeaders": ["x-one", "x-two"], "allowCredentials": true,
    });
    let upstream = || Response::new(200).with("access-control-allow-origin", "https://upstream");
    let response = call(&params, Some("https://a"), upstream().with("vary", "accept"));
    assert_eq!(header(&response, "allow-origin"), some("https://a"));
    assert_eq!(header(&response, "expose-headers"), some("x-one, x-two"));
    assert_eq!(header(&response, "allow-credentials"), some("true"));
    assert_eq!(response.values("vary"), ["accept", "Origin"]);
    let response = call(&params, Some("https://a"), upstream().with("vary", "accept, ORIGIN"));
    assert_eq!(response.values("vary"), ["accept, ORIGIN"]);

    let response = call(&json!({}), Some("https://a"), upstream());
    assert_eq!(header(&response, "allow-origin"), some("*"));
    assert_eq!(response.values("vary"), Vec::<String>::new());
}

#[test]
fn nothing_is_granted_that_only_the_upstream_grants() {
    let params = json!({"allowedOrigins": ["^https://a$"]});
    let names = ["allow-credentials", "allow-methods", "allow-headers", "max-age", "expose-headers"];
    for origin in ["https://a", "https://b"] {
        let upstream = names.iter().fold(Response::new(200), |response, name| {
            response.with(&format!("access-control-{name}"), "true")
        });
        let response = call(&params, Some(origin), upstream);
        for name in names {
            assert_eq!(header(&response, name), None, "{origin} {name}");
        }
        assert_eq!(header(&response, "allow-origin").is_some(), origin == "https://a");
    }
}

#[test]
fn every_line_of_asked_headers_counts() {
    let ask = |allowed: &str, second: &str| {
        let request = Request::new("OPTIONS", "/")
            .with("origin", "https://a")
            .with("access-control-request-method", "GET")
            .with("access-control-request-headers", "x-a")
            .with("access-control-request-headers", second);
        let route = route(&json!({"allowedHeaders": [allowed]})).expect("valid parameters");
        route.send(request).response
    };
    assert_eq!(header(&ask("x-a", "X-A"), "allow-origin"), some("*"));
    assert_eq!(header(&ask("x-a", "x-b"), "allow-origin"), None);
    assert_eq!(header(&ask("*", "x-b"), "allow-headers"), some("x-a, x-b"));
}

#[test]
fn responses_to_other_origins_lose_the_upstream_s_marks() {
    let params = json!({"allowedOrigins": ["^https://a$"]});
    let upstream = || {
        Response::new(200)
            .with("access-control-allow-origin", "*")
            .with("access-control-allow-credentials", "true")
            .with("access-control-expose-headers", "x")
            .with("x-kept", "1")
    };
    let response = call(&params, Some("https://b"), upstream());
    for name in ["allow-origin", "allow-credentials", "expose-headers"] {
        assert_eq!(header(&response, name), None, "{name}");
    }
    assert_eq!(response.values("x-kept"), ["1"]);
    // Without an origin it is no matter of ours.
    assert_eq!(call(&params, None, upstream()), upstream());
}

#[test]
fn expressions_are_found_anywhere_unless_anchored() {
    let marked = |pattern: &str, origin: &str| {
        let response = call(&json!({"allowedOrigins": [pattern]}), Some(origin), Response::new(200));
        header(&response, "allow-origin").is_some()
    };
    assert!(marked("example", "https://www.example.com"));
    assert!(!marked("^https://example\\.com$", "https://example.com.evil.org"));
    assert!(!marked("nothing", "https://www.example.com"));
}

#[test]
fn what_browsers_refuse_is_refused_at_deployment() {
    for (params, field) in [
        (json!({"allowCredentials": true}), "allowedOrigins"),
        (json!({"allowCredentials": true, "allowedOrigins": ["a", "*"]}), "allowedOrigins"),
        (
            json!({"allowCredentials": true, "allowedOrigins": ["a"], "allowedMethods": ["*"]}),
            "allowedMethods",
        ),
        (
            json!({"allowCredentials": true, "allowedOrigins": ["a"], "allowedHeaders": ["*"]}),
            "allowedHeaders",
        ),
        (
            json!({"allowCredentials": true, "allowedOrigins": ["a"], "exposedHeaders": ["*"]}),
            "exposedHeaders",
        ),
        (json!({"allowedOrigins": ["a", "("]}), "allowedOrigins.1"),
        (json!({"allowedOrigins": ["(a{1000}){1000}"]}), "allowedOrigins.0"),
        (json!({"allowedHeaders": ["x a"]}), "allowedHeaders.0"),
        (json!({"maxAge": -2}), "maxAge"),
    ] {
        let refused = route(&params).err().expect("the parameters make no sense");
        let expected = format!("spec.policies[0].params.{field}: ");
        assert!(refused.starts_with(&expected), "{refused}");
    }
    assert!(route(&json!({"allowCredentials": false})).is_ok());
}

#[test]
fn it_passes_the_trials() {
    exercise(
        &definition(),
        &json!({"allowedOrigins": ["^https://[a-z.]+$"], "allowedHeaders": ["*"], "maxAge": 5}),
    );
}
