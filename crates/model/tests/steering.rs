// SPDX-License-Identifier: Apache-2.0
//! What `resilience.retry`, `.fault` and an upstream's `split` and `mirror` may say.

use std::time::Duration;

use ferrogate_model::Refusal;
use ferrogate_model::document::Defaults;
use ferrogate_model::kinds::RestApi;
use ferrogate_model::kinds::rest_api::{
    Fault, FaultAbort, FaultDelay, HashKey, Mirror, RetryOn, RetryPolicy, SplitPart, TrafficSplit,
    UpstreamTarget,
};
use serde_json::{Value, json};

fn document(main: &Value, resilience: &Value) -> Value {
    let definition = |name: &str| json!({"name": name, "upstreams": [{"url": "http://a:1"}]});
    json!({
        "apiVersion": "gateway.api-platform.wso2.com/v1",
        "kind": "RestApi",
        "metadata": {"name": "books"},
        "spec": {
            "displayName": "Books",
            "version": "v1.0",
            "context": "/books",
            "upstreamDefinitions": [definition("a"), definition("b")],
            "upstream": {"main": main},
            "resilience": resilience,
            "operations": [{"method": "GET", "path": "/{id}"}],
        },
    })
}

#[track_caller]
fn reads(main: &Value, resilience: &Value) -> RestApi {
    let parsed = RestApi::parse(&document(main, resilience), &Defaults::default()).expect("a sound document");
    assert!(parsed.warnings.0.is_empty(), "{}", parsed.warnings);
    parsed.api
}

#[track_caller]
fn refuses(main: &Value, resilience: &Value, want: &[(&str, &str)]) {
    let got = match RestApi::parse(&document(main, resilience), &Defaults::default()) {
        Err(Refusal::Invalid(violations)) => violations.0,
        other => unreachable!("wanted violations, got {other:?}"),
    };
    let fits = got.len() == want.len()
        && got.iter().zip(want).all(|(got, (field, message))| {
            got.field.strip_prefix("spec.") == Some(field) && got.message.starts_with(message)
        });
    assert!(fits, "got {got:#?}, want {want:#?}");
}

fn plain() -> Value {
    json!({"ref": "a"})
}

#[test]
fn a_retry_section_has_every_default() {
    let api = reads(&plain(), &json!({"retry": {}}));
    let expected = RetryPolicy {
        max_retries: 1,
        on: vec![RetryOn::ConnectFailure, RetryOn::RefusedStream, RetryOn::Reset],
        status_codes: Vec::new(),
        per_try_timeout: None,
        backoff_base: Duration::from_millis(25),
        backoff_max: Duration::from_millis(250),
        budget_percent: 20,
        budget_minimum: 3,
        max_body_bytes: 65_536,
    };
    assert_eq!(api.resilience.retry, Some(expected));
    let retry = json!({"retry": {
        "on": ["reset"], "statusCodes": [503, 502, 503], "perTryTimeout": "2s",
        "backoff": {"base": "10ms", "max": "1s"}, "budget": {"percent": 5, "minimum": 0},
    }});
    let retry = reads(&plain(), &retry).resilience.retry.expect("one");
    assert_eq!((retry.on, retry.status_codes), (vec![RetryOn::Reset], vec![502, 503]));
    assert_eq!((retry.budget_percent, retry.budget_minimum), (5, 0));
}

#[test]
fn what_a_retry_section_may_not_say() {
    refuses(
        &plain(),
        &json!({"retry": {
            "maxRetries": 11, "on": ["5xx"], "statusCodes": [200], "perTryTimeout": "0s",
            "backoff": {"base": "1s", "max": "1ms"},
        }}),
        &[
            ("resilience.retry.backoff.max", "Must not be shorter than base"),
            ("resilience.retry.maxRetries", "Must be a whole number between 1 and 10"),
            ("resilience.retry.on[0]", "Must be one of 'connect-failure', 'refused-stream', 'reset'"),
            ("resilience.retry.statusCodes[0]", "Must be a whole number between 400 and 599"),
            ("resilience.retry.perTryTimeout", "Must be between 1ms and"),
        ],
    );
}

#[test]
fn faults() {
    let resilience = json!({"fault": {
        "delay": {"duration": "2s", "percent": 10}, "abort": {"status": 503},
    }});
    let expected = Fault {
        delay: Some(FaultDelay { duration: Duration::from_secs(2), percent: 10 }),
        abort: Some(FaultAbort { status: 503, percent: 100 }),
    };
    assert_eq!(reads(&plain(), &resilience).resilience.fault, Some(expected));
    refuses(
        &plain(),
        &json!({"fault": {"delay": {"percent": 101}, "abort": {"status": 200}}}),
        &[
            ("resilience.fault.delay.duration", "The field is required"),
            ("resilience.fault.delay.percent", "Must be a whole number between 0 and 100"),
            ("resilience.fault.abort.status", "Must be a whole number between 400 and 599"),
        ],
    );
}

#[test]
fn splits_and_mirrors() {
    let main = json!({
        "split": [{"ref": "a", "weight": 95}, {"ref": "b", "weight": 5}],
        "hashOn": "cookie", "name": "sid", "mirror": {"ref": "b", "percent": 1},
    });
    let api = reads(&main, &json!({}));
    let part = |name: &str, weight| SplitPart { definition: name.to_owned(), weight };
    let split = TrafficSplit {
        parts: vec![part("a", 95), part("b", 5)],
        sticky: Some(HashKey::Cookie("sid".to_owned())),
    };
    assert_eq!(api.main.target, UpstreamTarget::Split(split));
    assert_eq!(api.main.mirror, Some(Mirror { definition: "b".to_owned(), percent: 1 }));
    let none = json!({});
    let part = json!({"ref": "a", "weight": 1});
    refuses(
        &json!({"split": [part], "ref": "a"}),
        &none,
        &[("upstream.main", "Specify exactly one of 'url', 'ref' or 'split'")],
    );
    refuses(
        &json!({"split": [{"ref": "a", "weight": 0}], "mirror": {"ref": "c"}}),
        &none,
        &[
            ("upstream.main.split", "At least one part must have a weight above 0"),
            ("upstream.main.mirror.ref", "Referenced upstream definition 'c' not found"),
        ],
    );
    refuses(
        &json!({"split": [{"ref": "c"}], "hashOn": "header"}),
        &none,
        &[
            ("upstream.main.split[0].weight", "The weight is required"),
            ("upstream.main.split[0].ref", "Referenced upstream definition 'c' not found"),
            ("upstream.main.name", "The name of the header or cookie is required"),
        ],
    );
    refuses(
        &json!({"ref": "a", "hashOn": "client-address"}),
        &none,
        &[("upstream.main.hashOn", "Has no meaning without 'split'")],
    );
}
