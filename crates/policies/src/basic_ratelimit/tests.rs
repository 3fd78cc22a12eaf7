// SPDX-License-Identifier: Apache-2.0
//! Windows, several limits, whose counter is whose, headers and the rejection.

use std::sync::Arc;

use bytes::Bytes;
use ferrogate_policy::harness::{NOW_MS, Outcome, Request, Response, Route, exercise, spec};
use ferrogate_policy::{
    Algorithm, Counters as _, Definition, Level, Registry, ResponseHead as _, Rule, Services,
};
use proptest::prelude::proptest;
use serde_json::{Value, json};

use super::{BasicRatelimit, window_ms};

fn definition() -> Arc<dyn Definition> {
    Arc::new(BasicRatelimit)
}

fn route(params: &Value, level: Level, services: &Services) -> Route {
    Route::with_policy(&definition(), params, level, services).expect("valid parameters")
}

fn limits(list: &[(u64, &str)]) -> Value {
    let limits: Vec<Value> =
        list.iter().map(|(requests, duration)| json!({"requests": requests, "duration": duration})).collect();
    json!({ "limits": limits })
}

fn send(route: &mut Route, now_ms: u64) -> Outcome {
    route.now_ms = now_ms;
    let response = Response::new(200).with("x-ratelimit-limit", "upstream");
    route.run(Request::new("GET", "/"), Bytes::new(), response, Bytes::new())
}

/// The statuses of requests at these times, relative to a whole second.
fn statuses(route: &mut Route, times: &[u64]) -> Vec<u16> {
    times.iter().map(|at| send(route, NOW_MS + at).response.status().as_u16()).collect()
}

fn all_headers(response: &Response, names: &[&str]) -> Vec<Vec<String>> {
    names.iter().map(|name| response.values(name)).collect()
}

#[test]
fn a_window_allows_so_many_and_the_next_as_many_again() {
    let mut route = route(&limits(&[(2, "1s")]), Level::Api, &Services::in_memory());
    assert_eq!(
        statuses(&mut route, &[0, 999, 999, 1_000, 1_500, 1_999, 2_000]),
        [200, 200, 429, 200, 200, 429, 200]
    );
}

#[test]
fn headers_tell_the_state_on_both_answers() {
    let mut route = route(&limits(&[(2, "1m")]), Level::Api, &Services::in_memory());
    let names =
        ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "ratelimit-policy", "ratelimit"];
    // NOW_MS is 20 seconds into its minute.
    let reset = (NOW_MS / 1000 + 40).to_string();
    let told = |remaining: &str, seconds: u64| -> Vec<Vec<String>> {
        let state = format!(r#""default";r={remaining};t={seconds}"#);
        let texts = ["2", remaining, &reset, r#""default";q=2;w=60"#, &state];
        texts.iter().map(|text| vec![(*text).to_owned()]).collect()
    };
    let first = send(&mut route, NOW_MS);
    assert_eq!(all_headers(&first.response, &names), told("1", 40));
    assert_eq!(all_headers(&first.response, &["retry-after", "x-ratelimit-quota"]), [vec![""; 0], vec![]]);
    let second = send(&mut route, NOW_MS + 1_500);
    assert_eq!(all_headers(&second.response, &names), told("0", 39));

    let rejected = send(&mut route, NOW_MS + 39_999).response;
    assert_eq!(rejected.status(), 429);
    assert_eq!(all_headers(&rejected, &names), told("0", 1));
    assert_eq!(
        all_headers(&rejected, &["retry-after", "x-ratelimit-quota", "content-type"]),
        [["1"], ["default"], ["application/json"]]
    );
}

#[test]
fn the_rejection_has_the_contract_s_body() {
    let mut route = route(&limits(&[(1, "1h")]), Level::Operation, &Services::in_memory());
    assert!(send(&mut route, NOW_MS).answer.is_none());
    assert_eq!(
        send(&mut route, NOW_MS).response_body.as_ref(),
        br#"{"error": "Too Many Requests", "message": "Rate limit exceeded. Please try again later."}"#
    );
}

#[test]
fn of_several_limits_the_tightest_is_told_and_a_denied_request_counts_nowhere() {
    let mut route = route(&limits(&[(5, "10s"), (2, "1s")]), Level::Api, &Services::in_memory());
    let told = |outcome: &Outcome| outcome.response.values("ratelimit").concat();
    assert_eq!(told(&send(&mut route, NOW_MS)), r#""default";r=1;t=1"#);
    assert_eq!(statuses(&mut route, &[0, 0, 0, 0, 0]), [200, 429, 429, 429, 429]);
    // Two were counted in the ten seconds: three are left, whatever was denied.
    assert_eq!(statuses(&mut route, &[1_000, 1_000, 2_000, 3_000]), [200, 200, 200, 429]);
    assert_eq!(told(&send(&mut route, NOW_MS + 4_000)), r#""default";r=0;t=6"#);
}

#[test]
fn an_api_has_one_counter_and_each_route_its_own() {
    let services = Services::in_memory();
    let params = limits(&[(1, "1h")]);
    let compile = |level: Level, handle: &str, route_name: &str| {
        let attachment = ferrogate_policy::Attachment {
            api_handle: handle.into(),
            route_name: route_name.into(),
            level,
            ..ferrogate_policy::harness::attachment(level)
        };
        BasicRatelimit.compile(&params, &attachment, &services).expect("valid parameters")
    };
    let allows = |policy: &ferrogate_policy::Policy| {
        let attachment = ferrogate_policy::Attachment::default();
        let client = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
        let mut exchange = ferrogate_policy::Exchange::new(&attachment, "id", client, NOW_MS);
        let verdict = policy.on_request(&mut Request::new("GET", "/"), &mut exchange);
        matches!(verdict, Ok(ferrogate_policy::Verdict::Continue))
    };
    assert!(allows(&compile(Level::Api, "books", "one")));
    assert!(!allows(&compile(Level::Api, "books", "two")));
    assert!(allows(&compile(Level::Api, "films", "one")));
    assert!(allows(&compile(Level::Operation, "books", "one")));
    assert!(allows(&compile(Level::Operation, "books", "two")));
    assert!(!allows(&compile(Level::Operation, "books", "two")));
}

#[test]
fn a_redeployment_keeps_counts_until_the_limit_changes() {
    let services = Services::in_memory();
    let mut first = route(&limits(&[(1, "1h")]), Level::Api, &services);
    assert_eq!(statuses(&mut first, &[0, 0]), [200, 429]);
    assert_eq!(statuses(&mut route(&limits(&[(1, "1h")]), Level::Api, &services), &[0]), [429]);
    assert_eq!(statuses(&mut route(&limits(&[(2, "1h")]), Level::Api, &services), &[0]), [200]);
}

#[test]
fn a_limit_keeps_its_count_wherever_it_stands() {
    let services = Services::in_memory();
    let mut first = route(&limits(&[(3, "1h")]), Level::Api, &services);
    assert_eq!(statuses(&mut first, &[0, 0, 0, 0]), [200, 200, 200, 429]);
    for list in [
        &[(100, "1m"), (3, "1h")][..],
        &[(3, "1h"), (100, "1m")],
        &[(3, "60m")],
        // Twice the same is once.
        &[(3, "1h"), (3, "1h")],
    ] {
        assert_eq!(statuses(&mut route(&limits(list), Level::Api, &services), &[0]), [429], "{list:?}");
    }
    let mut twice = route(&limits(&[(2, "1h"), (2, "60m")]), Level::Api, &Services::in_memory());
    assert_eq!(statuses(&mut twice, &[0, 0, 0]), [200, 200, 429]);
}

#[test]
fn durations_are_read_in_every_unit_and_rounded_up() {
    for (text, expected) in [
        ("1ns", Some(1)),
        ("999us", Some(1)),
        ("1001µs", Some(2)),
        ("250ms", Some(250)),
        ("1s", Some(1_000)),
        ("2m", Some(120_000)),
        ("1h", Some(3_600_000)),
        ("8760h", Some(31_536_000_000)),
        ("8761h", None),
        ("0s", None),
        ("99999999999999999999999999999h", None),
        ("340282366920938463463374607431768211456ns", None),
        ("1d", None),
        ("s", None),
        ("1", None),
    ] {
        assert_eq!(window_ms(text), expected, "{text}");
    }
}

#[test]
fn what_is_no_limit_is_refused() {
    for params in [
        json!({}),
        json!({"limits": []}),
        limits(&[(1, "1s"); 11]),
        limits(&[(0, "1s")]),
        limits(&[(1_000_000_001, "1s")]),
        limits(&[(1, "1.5s")]),
        limits(&[(1, "-1s")]),
        limits(&[(1, "0ms")]),
        json!({"limits": [{"limit": 1, "duration": "1s"}]}),
    ] {
        let refused = Route::with_policy(&definition(), &params, Level::Api, &Services::in_memory());
        assert!(refused.is_err(), "{params} was accepted");
    }
}

#[test]
fn it_passes_the_trials() {
    exercise(&definition(), &limits(&[(1, "1h"), (1_000_000_000, "1ns")]));
}

proptest! {
    #[test]
    fn no_window_ever_allows_more_than_its_limit(
        requests in 1_u64..6,
        steps in proptest::collection::vec(0_u64..700, 1..60),
    ) {
        let mut route = route(&limits(&[(requests, "1s")]), Level::Api, &Services::in_memory());
        let mut now = NOW_MS;
        let mut allowed = std::collections::BTreeMap::<u64, u64>::new();
        for step in steps {
            now += step;
            let passed = send(&mut route, now).answer.is_none();
            let count = allowed.entry(now / 1000).or_default();
            proptest::prop_assert_eq!(passed, *count < requests);
            *count += u64::from(passed);
        }
    }
}

/// A route of a registry that the operator configured so.
fn configured(section: &Value, params: &Value) -> Route {
    let mut registry = Registry::new(vec![definition()]).expect("a registry");
    registry.configure("ratelimit_v1", section).expect("a right section");
    let services = Services { counters: Arc::new(super::counters(&registry)), ..Services::in_memory() };
    let specs = [spec(super::NAME, params.clone())];
    Route::with_policies(&registry, &specs, &[], &services).expect("valid parameters")
}

#[test]
fn the_operator_chooses_how_it_is_counted() {
    let mut route = configured(&json!({ "algorithm": "gcra" }), &limits(&[(2, "1s")]));
    // One comes back every half second, whatever the epoch's seconds are.
    assert_eq!(statuses(&mut route, &[900, 900, 1_100, 1_399, 1_400, 1_400]), [200, 200, 429, 429, 200, 429]);
    let rejected = send(&mut route, NOW_MS + 1_401).response;
    assert_eq!(rejected.values("retry-after"), ["1"]);
    let mut slow = configured(&json!({ "algorithm": "gcra" }), &limits(&[(2, "1m"), (9, "1s")]));
    assert_eq!(statuses(&mut slow, &[0, 0]), [200, 200]);
    // Until the next one, not until all are back.
    assert_eq!(send(&mut slow, NOW_MS + 1_000).response.values("retry-after"), ["29"]);
}

#[test]
fn the_operator_chooses_the_headers() {
    let families = [
        ("include_x_rate_limit", "x-ratelimit-limit"),
        ("include_ietf", "ratelimit"),
        ("include_retry_after", "retry-after"),
    ];
    for (switch, _) in families {
        let mut section = json!({ "headers": {} });
        section["headers"][switch] = "false".into();
        let mut route = configured(&section, &limits(&[(1, "1h")]));
        let allowed = send(&mut route, NOW_MS).response;
        let rejected = send(&mut route, NOW_MS).response;
        assert_eq!(rejected.status(), 429);
        for (other, name) in families {
            let expected = other != switch;
            assert_eq!(!rejected.values(name).is_empty(), expected, "{name} without {switch}");
            // What the upstream says of its own limit passes where ours says nothing.
            let upstreams = name == "x-ratelimit-limit" && !expected;
            let told = !allowed.values(name).is_empty();
            assert_eq!(told, name != "retry-after" && (expected || upstreams), "{name} without {switch}");
        }
    }
}

#[test]
fn the_operator_bounds_the_memory() {
    let mut registry = Registry::new(vec![definition()]).expect("a registry");
    let section = json!({ "memory": { "MAX_ENTRIES": "32", "cleanup_interval": "1s" } });
    registry.configure("ratelimit_v1", &section).expect("a right section");
    let counters = super::counters(&registry);
    let rule = Rule { algorithm: Algorithm::FixedWindow, limit: 9, window_ms: 60_000, burst: 9 };
    for key in 0..1_000 {
        counters.take(&key.to_string(), rule, 1, NOW_MS);
    }
    assert!(counters.len() <= 32, "{}", counters.len());
}

#[test]
fn a_wrong_section_is_told_and_changes_nothing() {
    let mut registry = Registry::new(vec![definition()]).expect("a registry");
    assert_eq!(registry.sections().into_iter().collect::<Vec<_>>(), ["ratelimit_v1"]);
    let before = registry.resolve(super::NAME, None).expect("registered").operator_values().clone();
    for (section, field, part) in [
        (json!({ "backend": "redis" }), "backend", "Redis"),
        (json!({ "algorithm": "leaky" }), "algorithm", ""),
        (json!({ "memory": { "max_entries": 0 } }), "memory.max_entries", ""),
        (json!({ "memory": { "cleanup_interval": "0s" } }), "memory.cleanup_interval", "longer than zero"),
        (json!({ "memori": {} }), "", "memori"),
        (json!(7), "", "object"),
    ] {
        let faults = registry.configure("ratelimit_v1", &section).expect_err("a fault");
        assert!(
            faults.iter().any(|fault| fault.field == field && fault.message.contains(part)),
            "{section}: {faults:?}"
        );
    }
    assert_eq!(*registry.resolve(super::NAME, None).expect("registered").operator_values(), before);
    // A file for the contract may describe a backend that it does not use.
    let redis =
        json!({ "backend": "memory", "redis": { "host": "r" }, "local": { "sync_interval": "50ms" } });
    assert_eq!(registry.configure("ratelimit_v1", &redis), Ok(()));
}

#[test]
fn an_artifact_cannot_name_what_is_the_operators() {
    let mut params = limits(&[(1, "1s")]);
    params["algorithm"] = "gcra".into();
    let refused = Route::with_policy(&definition(), &params, Level::Api, &Services::in_memory());
    assert!(refused.is_err(), "the schema of the parameters has no such field");
}
