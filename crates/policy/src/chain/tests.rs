// SPDX-License-Identifier: Apache-2.0
//! The chain's order, its endings and its refusals, with probes for policies.

use std::sync::Arc;

use bytes::Bytes;
use ferrogate_model::kinds::rest_api::PolicySpec;
use ferrogate_model::{Violation, Violations};
use futures::FutureExt as _;
use http::StatusCode;
use proptest::prelude::{any, proptest};
use serde_json::{Value, json};

use super::{Chain, Decision, MAX_POLICIES, Outcome, Phase, operation_prefix};
use crate::definition::{Attachment, Definition, Services};
use crate::harness::{self, Probe, Request, Response, Route};
use crate::hooks::BodyNeed;
use crate::registry::Registry;

fn registry() -> Registry {
    let probe: Arc<dyn Definition> = Arc::new(Probe::named("probe", "v1.0.0"));
    Registry::new(vec![probe]).expect("the probe is well formed")
}

fn probe(params: Value) -> PolicySpec {
    harness::spec("probe", params)
}

fn when(condition: &str, params: Value) -> PolicySpec {
    PolicySpec { execution_condition: Some(condition.to_owned()), ..probe(params) }
}

fn route(api: &[PolicySpec], operation: &[PolicySpec]) -> Route {
    Route::with_policies(&registry(), api, operation, &Services::in_memory()).expect("a valid chain")
}

fn get() -> Request {
    Request::new("GET", "/books/list")
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Chains are part of a snapshot, which all workers read.
const _: fn() = || {
    fn shared_by_workers<T: Send + Sync>() {}
    shared_by_workers::<Chain>();
    shared_by_workers::<Registry>();
};

#[test]
fn requests_run_forth_and_responses_back() {
    let route = route(
        &[probe(json!({"label": "a"})), probe(json!({"label": "b"}))],
        &[probe(json!({"label": "c", "phases": ["request", "outbound", "request_body", "response"]}))],
    );
    let outcome = route.run(get(), Bytes::from_static(b"q"), Response::new(200), Bytes::from_static(b"s"));
    assert_eq!(outcome.request.values("x-probe"), ["request:a", "request:b", "request:c", "outbound:c"]);
    assert_eq!(text(&outcome.request_body), "q[request_body:a][request_body:b][request_body:c]");
    assert_eq!(outcome.response.values("x-probe"), ["response:c", "response:b", "response:a"]);
    assert_eq!(text(&outcome.response_body), "s[response_body:b][response_body:a]");
    assert_eq!(outcome.run.decision(), None);
    assert_eq!(outcome.failure, None);
}

#[test]
fn both_levels_are_attached_as_declared() {
    let outcome = route(&[probe(json!({}))], &[probe(json!({}))]).send(get());
    assert_eq!(outcome.request.values("x-probe"), ["request:api", "request:operation"]);
}

#[test]
fn an_answer_ends_the_chain() {
    for (phase, requests, responses) in [
        ("request", vec!["request:a", "request:b"], vec!["request:b"]),
        ("outbound", vec!["request:a", "request:b", "outbound:b"], vec!["outbound:b"]),
        ("request_body", vec!["request:a", "request:b", "outbound:b", "request:c"], vec!["request_body:b"]),
        ("response", vec!["request:a", "request:b", "outbound:b", "request:c"], vec!["response:b"]),
        ("response_body", vec!["request:a", "request:b", "outbound:b", "request:c"], vec!["response_body:b"]),
    ] {
        let all = ["request", "outbound", "request_body", "response", "response_body"];
        let outcome = route(
            &[probe(json!({"label": "a"})), probe(json!({"label": "b", "answer": phase, "phases": all}))],
            &[probe(json!({"label": "c"}))],
        )
        .send(get());
        assert_eq!(outcome.request.values("x-probe"), requests, "{phase}");
        assert_eq!(outcome.response.values("x-probe"), responses, "{phase}");
        assert_eq!(text(&outcome.response_body), "b", "{phase}");
        let decision = outcome.run.decision().expect("a policy answered");
        assert_eq!(decision.policy, "probe");
        assert_eq!(decision.outcome, Outcome::Answered(StatusCode::IM_A_TEAPOT));
    }
}

#[test]
fn a_failure_ends_the_chain_and_names_the_policy() {
    let outcome = route(&[probe(json!({"label": "a", "fail": "response"}))], &[]).send(get());
    let failure = outcome.failure.expect("the policy failed");
    assert_eq!(failure.to_string(), "policy 'probe' failed: a failed in response");
    assert_eq!(
        outcome.run.decision(),
        Some(Decision { policy: "probe", phase: Phase::ResponseHeaders, outcome: Outcome::Failed })
    );
}

#[test]
fn a_chain_knows_what_it_needs() {
    let empty = route(&[], &[]).chain;
    assert!(empty.is_empty() && !empty.has_request() && !empty.has_response());
    assert_eq!((empty.request_body_need(), empty.response_body_need()), (BodyNeed::None, BodyNeed::None));

    let streamed = probe(json!({"phases": ["request_body", "response_body"], "streamed": true}));
    let buffered = probe(json!({"phases": ["request_body"]}));
    let chain = route(&[streamed, buffered], &[probe(json!({"phases": ["outbound"]}))]).chain;
    assert!(chain.has_request() && !chain.has_response());
    assert_eq!(chain.request_body_need(), BodyNeed::Buffered);
    assert_eq!(chain.response_body_need(), BodyNeed::Streamed);
    assert_eq!(format!("{chain:?}"), r#"["probe", "probe", "probe"]"#);
}

#[test]
fn a_streamed_body_passes_chunk_by_chunk() {
    let streamed = probe(json!({"label": "a", "phases": ["request_body", "response"], "streamed": true}));
    let late = when("response.RequestBody == null", json!({"label": "b", "phases": ["response"]}));
    let route = route(&[streamed, late], &[]);
    assert_eq!(route.chain.request_body_need(), BodyNeed::Streamed);
    let client = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    let mut exchange = crate::Exchange::new(&route.attachment, "id", client, 0);
    let (mut request, mut run) = (get(), super::ChainRun::new());
    for (chunk, last) in [("one", false), ("two", true)] {
        let mut body = Bytes::from(chunk);
        let verdict = route.chain.request_body(&mut request, &mut body, last, &mut exchange, &mut run);
        assert_eq!(verdict, Ok(crate::Verdict::Continue));
        assert_eq!(text(&body), format!("{chunk}[request_body:a]"));
    }
    // Nobody gathers a streamed body, so later conditions see none, not its last chunk.
    let mut response = Response::new(200);
    let verdict = route.chain.response(&request, &mut response, &mut exchange, &mut run);
    assert_eq!(verdict, Ok(crate::Verdict::Continue));
    assert_eq!(response.values("x-probe"), ["response:b", "response:a"]);
}

#[test]
fn nothing_runs_after_an_answer() {
    let route = route(&[probe(json!({"label": "a", "answer": "request"}))], &[]);
    let client = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    let mut exchange = crate::Exchange::new(&route.attachment, "id", client, 0);
    let (mut request, mut response, mut run) = (get(), Response::new(200), super::ChainRun::new());
    let mut body = Bytes::from_static(b"q");
    let answered = route.chain.request(&mut request, &mut exchange, &mut run);
    assert!(matches!(answered, Ok(crate::Verdict::Answer(_))));
    for verdict in [
        route.chain.request_body(&mut request, &mut body, true, &mut exchange, &mut run),
        route.chain.response(&request, &mut response, &mut exchange, &mut run),
        route.chain.response_body(&request, &mut response, &mut body, true, &mut exchange, &mut run),
    ] {
        assert_eq!(verdict, Ok(crate::Verdict::Continue));
    }
    assert_eq!((text(&body).as_str(), response.values("x-probe").len()), ("q", 0));
}

#[test]
fn a_chain_stops_where_a_policy_asks_and_goes_on_from_there() {
    let asking = probe(json!({"label": "b", "phases": ["outbound"]}));
    let labelled = |label: &str| probe(json!({"label": label}));
    let route = route(&[labelled("a"), asking.clone(), labelled("c"), asking], &[]);
    let client = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    let mut exchange = crate::Exchange::new(&route.attachment, "id", client, 0);
    let (mut request, mut run) = (get(), super::ChainRun::new());
    let stopped = route.chain.request(&mut request, &mut exchange, &mut run);
    assert_eq!(stopped, Ok(crate::Verdict::Ask));
    assert_eq!(request.values("x-probe"), ["request:a"]);
    let asked = route.chain.request_outbound(&mut request, &mut exchange, &mut run).now_or_never();
    assert_eq!(asked, Some(Ok(crate::Verdict::Continue)));
    assert_eq!(request.values("x-probe"), ["request:a", "outbound:b", "request:c", "outbound:b"]);
}

#[test]
fn conditions_are_asked_phase_by_phase() {
    let outcome = route(
        &[
            when("request.Method == 'POST'", json!({"label": "never"})),
            when("response.ResponseStatus >= 500", json!({"label": "late"})),
            when("processing.phase.endsWith('body')", json!({"label": "body"})),
            when("  ", json!({"label": "blank"})),
        ],
        &[],
    )
    .run(get(), Bytes::from_static(b"q"), Response::new(503), Bytes::new());
    assert_eq!(outcome.request.values("x-probe"), ["request:blank"]);
    assert_eq!(text(&outcome.request_body), "q[request_body:body][request_body:blank]");
    assert_eq!(outcome.response.values("x-probe"), ["response:blank", "response:late"]);
}

#[test]
fn a_condition_on_the_request_body_holds_in_the_response_too() {
    let outcome = route(
        &[
            when(
                "response.RequestBody != null && response.RequestBody.Content == b'q'",
                json!({"label": "a"}),
            ),
            probe(json!({"label": "b", "phases": ["request_body"]})),
        ],
        &[],
    )
    .run(get(), Bytes::from_static(b"q"), Response::new(200), Bytes::new());
    // The condition sees the body as it went on, and that has a mark.
    assert_eq!(text(&outcome.request_body), "q[request_body:a][request_body:b]");
    assert_eq!(outcome.response.values("x-probe"), Vec::<String>::new());
}

#[test]
fn a_condition_that_fails_never_lets_the_request_pass() {
    for condition in ["request.Headers['x'][0] == 'y'", "request.Body.Content == b''"] {
        let outcome = route(&[when(condition, json!({"label": "a"}))], &[]).send(get());
        let failure = outcome.failure.expect("the condition failed");
        assert!(failure.error.0.starts_with("execution condition failed"), "{failure}");
        assert_eq!(outcome.request.values("x-probe"), Vec::<String>::new());
    }
}

#[test]
fn every_violation_is_told_at_its_field() {
    let named = |name: &str, version: &str, params: Value| PolicySpec {
        version: Some(version.to_owned()),
        ..harness::spec(name, params)
    };
    let refused = Chain::compile(
        &[named("nothing", "v1", json!({})), named("probe", "v1.0.0", json!({}))],
        &[
            named("probe", "v1", json!({"label": 7, "unknown": 1, "phases": ["later"]})),
            named("probe", "v1", json!({"refuse": "true"})),
            when("request.Nothing", json!([])),
        ],
        &Attachment::default(),
        &registry(),
        &Services::in_memory(),
        &operation_prefix(2),
    );
    let violation =
        |field: &str, message: &str| Violation { field: field.to_owned(), message: message.to_owned() };
    let mut violations = refused.expect_err("nothing of this is valid");
    violations.0.sort_by(|a, b| a.field.cmp(&b.field));
    assert_eq!(
        violations,
        Violations(vec![
            violation("spec.operations[2].policies[0].params", "Additional property unknown is not allowed"),
            violation(
                "spec.operations[2].policies[0].params.label",
                "Invalid type. Expected: string, given: integer"
            ),
            violation(
                "spec.operations[2].policies[0].params.phases.0",
                "must be one of the following: \"request\", \"outbound\", \"request_body\", \"response\", \
                 \"response_body\""
            ),
            violation("spec.operations[2].policies[1].params.refuse", "refused as asked"),
            violation(
                "spec.operations[2].policies[2].executionCondition",
                "'request.Nothing' does not exist in conditions"
            ),
            violation(
                "spec.operations[2].policies[2].params",
                "Invalid type. Expected: object, given: array"
            ),
            violation(
                "spec.policies[0].version",
                "policy 'nothing' major version 'v1' not found in loaded policy definitions"
            ),
            violation(
                "spec.policies[1].version",
                "policy 'probe' version must be major-only (e.g., v1); full semantic version (e.g., v1.0.0) \
                 is not allowed"
            ),
        ])
    );
}

#[test]
fn equal_policies_of_different_apis_are_one() {
    let shared: Arc<dyn Definition> = Arc::new(Probe::named("shared", "v1.0.0").made_of_parameters());
    let own: Arc<dyn Definition> = Arc::new(Probe::named("own", "v1.0.0"));
    let registry = Registry::new(vec![shared, own]).expect("the probes are well formed");
    let services = Services::in_memory();
    let step = |name: &str, condition: Option<&str>, label: &str| {
        let execution_condition = condition.map(str::to_owned);
        let spec = PolicySpec { execution_condition, ..harness::spec(name, json!({ "label": label })) };
        let chain = Chain::of_api(&[spec], &Attachment::default(), &registry, &services);
        chain.expect("a valid chain").steps.swap_remove(0)
    };
    let condition = Some("request.Method == 'GET'");
    let first = step("shared", None, "a");
    assert!(Arc::ptr_eq(&first, &step("shared", None, "a")));
    assert!(Arc::ptr_eq(&first, &step("shared", Some(" "), "a")), "an empty condition is none");
    assert!(!Arc::ptr_eq(&first, &step("shared", None, "b")));
    let conditional = step("shared", condition, "a");
    assert!(!Arc::ptr_eq(&first, &conditional) && conditional.condition.is_some());
    assert!(Arc::ptr_eq(&conditional, &step("shared", condition, "a")));
    assert!(!Arc::ptr_eq(&step("own", None, "a"), &step("own", None, "a")));

    // What no chain has any more is let go, however many there have been.
    for label in 0..1000 {
        step("shared", None, &label.to_string());
    }
    let left = services.instances.len();
    assert!(left < 200, "{left}");
    assert_eq!(Arc::strong_count(&first), 1);
}

#[test]
fn a_list_without_end_is_refused() {
    let specs = vec![probe(json!({})); MAX_POLICIES + 1];
    let refused = Chain::compile(
        &specs,
        &[],
        &Attachment::default(),
        &registry(),
        &Services::in_memory(),
        &operation_prefix(0),
    );
    assert_eq!(refused.expect_err("too many").0.len(), 1);
}

#[test]
fn a_fault_at_the_api_is_told_once_for_all_operations() {
    let api: ferrogate_model::kinds::RestApi = serde_json::from_value(json!({
        "handle": "books", "displayName": "Books", "version": "v1.0", "context": "/books",
        "mainHosts": ["*"], "sandboxHost": "sandbox-*",
        "main": { "url": { "scheme": "http", "host": "localhost", "port": 80 } },
        "policies": [{ "name": "nothing" }],
        "operations": [
            { "method": "GET", "path": "/a" },
            { "method": "GET", "path": "/b", "policies": [{ "name": "probe", "params": { "label": 7 } }] },
        ],
    }))
    .expect("a valid artifact");
    let violations = super::admit(&api, &registry(), &Services::in_memory()).expect_err("two faults");
    let fields: Vec<_> = violations.0.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["spec.policies[0].version", "spec.operations[1].policies[0].params.label"]);
}

#[test]
fn the_probe_passes_the_trials_itself() {
    let definition: Arc<dyn Definition> = Arc::new(Probe::named("probe", "v1.0.0"));
    let phases = json!(["request", "outbound", "request_body", "response", "response_body"]);
    harness::exercise(&definition, &json!({"label": "a", "phases": phases}));
    harness::exercise(&definition, &json!({"phases": ["request", "outbound"], "hang": true}));
}

proptest! {
    #[test]
    fn no_header_makes_a_chain_panic(
        headers in proptest::collection::vec(("[!-~]{1,12}", any::<Vec<u8>>()), 0..12),
        method in "[A-Z]{0,8}",
        path in any::<String>(),
    ) {
        let request = headers.iter().fold(Request::new(&method, &path), |request, (name, value)| {
            request.with(name, value)
        });
        let response = headers.iter().fold(Response::new(200), |response, (name, value)| {
            response.with(name, value)
        });
        let route = route(
            &[when("size(request.Headers) + size(response.ResponseHeaders) >= 4", json!({"label": "a"}))],
            &[when("request.Headers[':path'] == [request.Path]", json!({"label": "b"}))],
        );
        let outcome = route.run(request, Bytes::new(), response, Bytes::new());
        proptest::prop_assert!(outcome.failure.is_none(), "{:?}", outcome.failure);
        let marks = outcome.request.values("x-probe");
        proptest::prop_assert!(marks.ends_with(&["request:a".to_owned(), "request:b".to_owned()]));
    }
}
