// SPDX-License-Identifier: Apache-2.0
//! The trials every policy must pass, whatever it does: parameters of the wrong shape
//! are refused and not compiled; no body, a huge body, hostile headers, an upstream's
//! error, a client that leaves half-way: none may panic, and none may disturb the next
//! request. What a policy is *for*, its own tests say.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use serde_json::{Value, json};

use super::{Outcome, Request, Response, Route, registry_of};
use crate::chain::ChainRun;
use crate::definition::{Definition, Level, Services};
use crate::exchange::Exchange;
use crate::hooks::Verdict;

/// Larger than any buffer a gateway has by default.
const HUGE_BODY_BYTES: usize = 8 << 20;

/// Puts a policy through every trial, attached at the API and at an operation.
///
/// # Panics
/// When a trial fails; tests call this.
pub fn exercise(definition: &Arc<dyn Definition>, valid_params: &Value) {
    exercise_with(definition, valid_params, &Services::in_memory);
}

/// As [`exercise`], for a policy that needs services of its own, fresh for every trial.
///
/// # Panics
/// As [`exercise`].
pub fn exercise_with(
    definition: &Arc<dyn Definition>,
    valid_params: &Value,
    services: &dyn Fn() -> Services,
) {
    bad_params_are_refused(definition, valid_params);
    let fresh = |level| {
        Route::with_policy(definition, valid_params, level, &services())
            .expect("the valid parameters are accepted")
    };
    for level in [Level::Api, Level::Operation] {
        assert_eq!(fresh(level).chain.len(), 1);
        for (request, body) in requests() {
            for (response, response_body) in responses() {
                // Each trial with counters of its own: a rate limit must not end them.
                let route = fresh(level);
                let outcome = route.run(request.clone(), body.clone(), response, response_body);
                must_not_fail(&outcome);
            }
        }
        a_client_that_leaves_disturbs_nobody(&fresh(level), &fresh(level));
    }
}

/// Outside its body limits a policy may answer, but it has nothing to fail at.
fn must_not_fail(outcome: &Outcome) {
    assert_eq!(outcome.failure, None, "the policy failed on {:?}", outcome.request);
}

fn bad_params_are_refused(definition: &Arc<dyn Definition>, valid_params: &Value) {
    let registry = registry_of(definition).expect("the definition can be registered");
    let registered = registry.resolve(definition.name(), None).expect("it was just registered");
    let check = |params: &Value| registered.check_params(params);
    assert!(check(valid_params).is_ok(), "the schema refuses the valid parameters");
    for wrong in [json!([]), json!("text"), json!(7), json!(true)] {
        assert!(check(&wrong).is_err(), "the schema accepts {wrong} for an object");
    }
    let mut extended = valid_params.clone();
    if let Some(fields) = extended.as_object_mut() {
        fields.insert("noSuchParameter".to_owned(), json!(1));
    }
    assert!(check(&extended).is_err(), "the schema accepts a parameter that does not exist");
    for (name, _) in valid_params.as_object().into_iter().flatten() {
        for wrong in [json!(null), json!({"unexpected": []}), json!([[]]), json!(-7.5)] {
            let mut params = valid_params.clone();
            if let Some(field) = params.get_mut(name) {
                *field = wrong.clone();
            }
            assert!(check(&params).is_err(), "the schema accepts {wrong} for '{name}'");
        }
    }
}

fn requests() -> Vec<(Request, Bytes)> {
    let huge = Bytes::from(vec![b'x'; HUGE_BODY_BYTES]);
    let plain = |method| Request::new(method, "/books/list?page=1");
    let hostile = plain("POST")
        .with("authorization", b"Basic \xff\xfe\x00")
        .with("authorization", "Basic")
        .with("origin", b"\xf0\x28\x8c\x28")
        .with("cookie", "=;=;;")
        .with("x-forwarded-for", ",,, ")
        .with("content-type", "")
        .with("x-long", vec![b'a'; 64 << 10]);
    let preflight = plain("OPTIONS")
        .with("origin", "https://example.com")
        .with("access-control-request-method", "PUT")
        .with("access-control-request-headers", ",x-a,, x-b ,");
    vec![
        (plain("GET"), Bytes::new()),
        (plain("POST"), Bytes::from_static(b"{\"a\":1}")),
        (plain("PUT"), huge),
        (plain("BREW"), Bytes::from_static(b"\0\xff")),
        (Request::new("GET", ""), Bytes::new()),
        (hostile, Bytes::from_static(b"not json")),
        (preflight, Bytes::new()),
    ]
}

fn responses() -> Vec<(Response, Bytes)> {
    let json = Response::new(200).with("content-type", "application/json").with("vary", b"\xff");
    vec![
        (json, Bytes::from_static(b"{}")),
        (Response::new(204), Bytes::new()),
        (Response::new(500).with("retry-after", "x"), Bytes::from_static(b"broken")),
        (Response::new(503), Bytes::new()),
    ]
}

/// A client may leave after any hook, and an outbound call be dropped at its first await.
fn a_client_that_leaves_disturbs_nobody(left: &Route, undisturbed: &Route) {
    {
        let mut request = Request::new("GET", "/books/list");
        let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
        // In a window of its own, since a request that has left was still a request.
        let mut exchange = Exchange::new(&left.attachment, "left", client, 0);
        let mut run = ChainRun::new();
        if left.chain.request(&mut request, &mut exchange, &mut run) == Ok(Verdict::Ask) {
            drop(left.chain.request_outbound(&mut request, &mut exchange, &mut run).now_or_never());
        }
    }
    let send = |route: &Route| route.send(Request::new("GET", "/books/list").with("origin", "https://a.b"));
    let (after, normal) = (send(left), send(undisturbed));
    assert_eq!(after.failure, normal.failure);
    assert_eq!(after.answer, normal.answer);
    assert_eq!(after.request, normal.request);
    assert_eq!(after.response, normal.response);
}
