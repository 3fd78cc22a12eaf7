// SPDX-License-Identifier: Apache-2.0
//! Payloads: the same bytes for the same artifact, readable across releases.

use std::time::Duration;

use ferrogate_model::document::{Defaults, Format, parse};
use ferrogate_model::kinds::rest_api::{
    BalancingPolicy, CircuitBreaker, DeploymentState, Endpoints, FailureRate, Fault, FaultAbort, FaultDelay,
    HashKey, HeaderMatch, HeaderValueMatch, HealthCheck, HealthQuestion, HostRewrite, LoadBalancing, Method,
    Mirror, Operation, OutlierDetection, PolicySpec, Resilience, RetryOn, RetryPolicy, Scheme, SplitPart,
    StickyCookie, TargetUrl, TrafficSplit, Upstream, UpstreamDefinition, UpstreamProtocol, UpstreamTarget,
    UpstreamTls, WeightedTarget,
};
use ferrogate_model::kinds::{Artifact, RestApi};
use ferrogate_model::{Handle, Kind};
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};
use serde_json::{Value, json};

/// The document and the payload that release 0.1 made of it. A change that alters this
/// payload makes every replica of a mixed cluster disagree about its digest: add fields
/// that are skipped while unset, and never change this file.
const DOCUMENT: &str = include_str!("fixtures/rest-api-0.1.yaml");
const PAYLOAD: &str = include_str!("fixtures/rest-api-0.1.json");

/// The maps of the payload that are types of their own.
const PLACES: [&str; 9] = [
    "",
    "/main",
    "/sandbox",
    "/sandbox/url",
    "/upstreamDefinitions/0",
    "/upstreamDefinitions/0/targets/0",
    "/operations/0",
    "/operations/2/headers/0",
    "/resilience",
];

fn read(payload: &str) -> RestApi {
    match Artifact::from_payload(Kind::RestApi, payload.as_bytes()).expect("a readable payload") {
        Artifact::RestApi(api) => api,
        other @ (Artifact::Secret(_) | Artifact::Certificate(_)) => unreachable!("{other:?} is no API"),
    }
}

#[test]
fn the_recorded_payload_is_still_written_and_read() {
    let document = parse(DOCUMENT, Format::Yaml).expect("well-formed");
    let api = RestApi::parse(&document, &Defaults::default()).expect("sound").api;
    assert_eq!(api.to_payload(), PAYLOAD.trim_end());
    assert_eq!(read(PAYLOAD), api);
}

#[test]
fn fields_of_a_later_release_are_ignored() {
    let mut payload: Value = serde_json::from_str(PAYLOAD).expect("JSON");
    for pointer in PLACES {
        let map = payload.pointer_mut(pointer).and_then(Value::as_object_mut).expect("a map");
        map.insert("fromTheFuture".to_owned(), json!({"a": [1]}));
    }
    assert_eq!(read(&payload.to_string()), read(PAYLOAD));
}

#[test]
fn what_is_no_payload_is_refused() {
    for payload in ["", "{}", "[]", "null", r#"{"handle":"a b"}"#] {
        let error = Artifact::from_payload(Kind::RestApi, payload.as_bytes()).expect_err("no payload");
        assert!(error.to_string().starts_with("the payload is no RestApi: "), "{error}");
    }
}

fn millis() -> impl Strategy<Value = Option<Duration>> {
    prop::option::of((0..u64::from(u32::MAX)).prop_map(Duration::from_millis))
}

fn retry() -> impl Strategy<Value = RetryPolicy> {
    let on = prop::sample::subsequence(
        vec![RetryOn::ConnectFailure, RetryOn::RefusedStream, RetryOn::Reset],
        0..3,
    );
    (any::<u8>(), on, prop::collection::vec(any::<u16>(), 0..3), millis(), any::<u32>()).prop_map(
        |(number, on, status_codes, per_try_timeout, count)| RetryPolicy {
            max_retries: number,
            on,
            status_codes,
            per_try_timeout,
            backoff_base: Duration::from_millis(count.into()),
            backoff_max: Duration::from_millis(number.into()),
            budget_percent: number,
            budget_minimum: count,
            max_body_bytes: count,
        },
    )
}

fn resilience() -> impl Strategy<Value = Resilience> {
    let fault = (millis(), any::<u8>(), any::<u16>()).prop_map(|(delay, percent, status)| Fault {
        delay: delay.map(|duration| FaultDelay { duration, percent }),
        abort: (percent < 100).then_some(FaultAbort { status, percent }),
    });
    (millis(), millis(), prop::option::of(retry()), prop::option::of(fault))
        .prop_map(|(timeout, idle_timeout, retry, fault)| Resilience { timeout, idle_timeout, retry, fault })
}

fn target() -> impl Strategy<Value = TargetUrl> {
    (prop::bool::ANY, any::<String>(), any::<u16>(), any::<String>()).prop_map(
        |(tls, host, port, base_path)| TargetUrl {
            scheme: if tls { Scheme::Https } else { Scheme::Http },
            host,
            port,
            base_path,
        },
    )
}

fn protocol() -> impl Strategy<Value = UpstreamProtocol> {
    prop::sample::select(vec![UpstreamProtocol::Http1, UpstreamProtocol::Http2, UpstreamProtocol::Auto])
}

fn upstream() -> impl Strategy<Value = Upstream> {
    let part =
        (any::<String>(), any::<u16>()).prop_map(|(definition, weight)| SplitPart { definition, weight });
    let split = (prop::collection::vec(part, 0..3), prop::option::of(hash_key()))
        .prop_map(|(parts, sticky)| TrafficSplit { parts, sticky });
    let target = prop_oneof![
        target().prop_map(UpstreamTarget::Url),
        any::<String>().prop_map(UpstreamTarget::Ref),
        split.prop_map(UpstreamTarget::Split),
    ];
    let mirror =
        (any::<String>(), any::<u8>()).prop_map(|(definition, percent)| Mirror { definition, percent });
    let rewrite = prop::sample::select(vec![HostRewrite::Auto, HostRewrite::Manual]);
    (target, rewrite, prop::option::of(mirror), protocol()).prop_map(
        |(target, host_rewrite, mirror, protocol)| Upstream { target, host_rewrite, mirror, protocol },
    )
}

fn policies() -> impl Strategy<Value = Vec<PolicySpec>> {
    let leaf = prop_oneof![
        any::<String>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        Just(Value::Null)
    ];
    let params = prop::collection::btree_map(any::<String>(), leaf, 0..3)
        .prop_map(|map| Value::Object(map.into_iter().collect()));
    let policy =
        (any::<String>(), prop::option::of(any::<String>()), prop::option::of(any::<String>()), params)
            .prop_map(|(name, version, execution_condition, params)| PolicySpec {
                name,
                version,
                execution_condition,
                params,
            });
    prop::collection::vec(policy, 0..3)
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let header =
        (any::<String>(), any::<String>(), prop::bool::ANY).prop_map(|(name, value, exact)| HeaderMatch {
            name,
            value: if exact { HeaderValueMatch::Exact(value) } else { HeaderValueMatch::Regex(value) },
        });
    let operation = (
        prop::sample::select(Method::ALL.to_vec()),
        any::<String>(),
        prop::bool::ANY,
        prop::collection::vec(header, 0..3),
        policies(),
        resilience(),
        prop::option::of(prop::collection::vec(any::<String>(), 0..3)),
    )
        .prop_map(|(method, path, exact, headers, policies, resilience, upgrades)| Operation {
            method,
            path,
            exact,
            headers,
            policies,
            resilience,
            upgrades,
        });
    prop::collection::vec(operation, 0..4)
}

fn hash_key() -> impl Strategy<Value = HashKey> {
    prop_oneof![
        any::<String>().prop_map(HashKey::Header),
        any::<String>().prop_map(HashKey::Cookie),
        Just(HashKey::ClientAddress)
    ]
}

fn balancing() -> impl Strategy<Value = LoadBalancing> {
    let cookie = (any::<String>(), millis()).prop_map(|(name, ttl)| StickyCookie { name, ttl });
    let policy = prop_oneof![
        Just(BalancingPolicy::RoundRobin),
        Just(BalancingPolicy::LeastRequest),
        Just(BalancingPolicy::Ewma),
        hash_key().prop_map(BalancingPolicy::RingHash),
        cookie.prop_map(BalancingPolicy::StickyCookie),
    ];
    (policy, prop::option::of(0..=100_u8), millis()).prop_map(|(policy, panic_threshold, slow_start)| {
        LoadBalancing { policy, panic_threshold, slow_start }
    })
}

fn outlier_detection() -> impl Strategy<Value = OutlierDetection> {
    let time = || (0..u64::from(u32::MAX)).prop_map(Duration::from_millis);
    let rate = (any::<u8>(), any::<u32>(), time()).prop_map(|(percent, minimum_requests, interval)| {
        FailureRate { percent, minimum_requests, interval }
    });
    (any::<u32>(), prop::option::of(rate), time(), time(), any::<u8>()).prop_map(|fields| OutlierDetection {
        consecutive_failures: fields.0,
        failure_rate: fields.1,
        base_ejection_time: fields.2,
        max_ejection_time: fields.3,
        max_ejected_percent: fields.4,
    })
}

fn health_check() -> impl Strategy<Value = HealthCheck> {
    let time = || (0..u64::from(u32::MAX)).prop_map(Duration::from_millis);
    let statuses = prop::collection::vec((any::<u16>(), any::<u16>()), 0..3);
    let http = (any::<String>(), prop::option::of(any::<String>()), statuses)
        .prop_map(|(path, host, expected_statuses)| HealthQuestion::Http { path, host, expected_statuses });
    let grpc = any::<String>().prop_map(|service| HealthQuestion::Grpc { service });
    let question = prop_oneof![http, grpc, Just(HealthQuestion::Tcp)];
    (question, time(), time(), any::<u32>(), any::<u32>()).prop_map(|fields| HealthCheck {
        question: fields.0,
        interval: fields.1,
        timeout: fields.2,
        healthy_threshold: fields.3,
        unhealthy_threshold: fields.4,
    })
}

fn circuit_breaker() -> impl Strategy<Value = CircuitBreaker> {
    let limit = || prop::option::of(any::<u32>());
    (limit(), limit(), limit()).prop_map(|(max_connections, max_pending, max_requests)| CircuitBreaker {
        max_connections,
        max_pending,
        max_requests,
    })
}

fn definitions() -> impl Strategy<Value = Vec<UpstreamDefinition>> {
    let weighted = (target(), prop::option::of(0..=100_u8), prop::option::of(any::<String>()))
        .prop_map(|(url, weight, zone)| WeightedTarget { url, weight, zone });
    let endpoints = prop::sample::select(vec![Endpoints::PerTarget, Endpoints::PerAddress]);
    let targets = (prop::collection::vec(weighted, 0..3), protocol(), endpoints);
    let protection = (
        prop::option::of(outlier_detection()),
        prop::option::of(circuit_breaker()),
        prop::option::of(health_check()),
        prop::option::of(upstream_tls()),
    );
    let definition =
        (any::<String>(), any::<String>(), millis(), targets, prop::option::of(balancing()), protection)
            .prop_map(|fields| UpstreamDefinition {
                name: fields.0,
                base_path: fields.1,
                connect_timeout: fields.2,
                targets: fields.3.0,
                protocol: fields.3.1,
                endpoints: fields.3.2,
                load_balancing: fields.4,
                outlier_detection: fields.5.0,
                circuit_breaker: fields.5.1,
                health_check: fields.5.2,
                tls: fields.5.3,
            });
    prop::collection::vec(definition, 0..3)
}

fn upstream_tls() -> impl Strategy<Value = UpstreamTls> {
    let handle =
        || prop::option::of("[a-z]{1,8}".prop_map(|text| Handle::try_new(&text).expect("a sound handle")));
    let names = prop::collection::vec(any::<String>(), 0..3);
    (handle(), handle(), prop::option::of(any::<String>()), names).prop_map(
        |(ca_certificate, client_certificate, server_name, subject_alt_names)| UpstreamTls {
            ca_certificate,
            client_certificate,
            server_name,
            subject_alt_names,
        },
    )
}

fn api() -> impl Strategy<Value = RestApi> {
    let texts = || prop::collection::btree_map(any::<String>(), any::<String>(), 0..3);
    let head = ("[a-z]{1,8}", texts(), texts(), any::<String>(), any::<String>(), any::<String>());
    let hosts = (prop::collection::vec(any::<String>(), 0..3), any::<String>());
    let ups = (upstream(), prop::option::of(upstream()), definitions());
    let rest = (
        prop::collection::vec(any::<String>(), 0..3),
        policies(),
        resilience(),
        operations(),
        prop::sample::select(vec![DeploymentState::Deployed, DeploymentState::Undeployed]),
    );
    (head, hosts, ups, rest).prop_map(|(head, hosts, ups, rest)| RestApi {
        handle: ferrogate_model::Handle::try_new(&head.0).expect("letters only"),
        labels: head.1,
        annotations: head.2,
        display_name: head.3,
        version: head.4,
        context: head.5,
        main_hosts: hosts.0,
        sandbox_host: hosts.1,
        main: ups.0,
        sandbox: ups.1,
        upstream_definitions: ups.2,
        subscription_plans: rest.0,
        policies: rest.1,
        resilience: rest.2,
        operations: rest.3,
        state: rest.4,
    })
}

proptest! {
    #[test]
    fn every_api_survives_the_round_trip(api in api()) {
        let payload = api.to_payload();
        let back = read(&payload);
        assert_eq!(back, api);
        assert_eq!(back.to_payload(), payload);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), at in 0..2000_usize, byte in any::<u8>()) {
        assert!(Artifact::from_payload(Kind::RestApi, &bytes).is_err(), "64 bytes are too few");
        let mut payload = PAYLOAD.as_bytes().to_vec();
        if let Some(place) = payload.get_mut(at) {
            *place = byte;
        }
        if let Ok(artifact) = Artifact::from_payload(Kind::RestApi, &payload) {
            let again = Artifact::from_payload(Kind::RestApi, artifact.to_payload().as_bytes());
            assert_eq!(again.expect("what was written can be read"), artifact);
        }
    }
}
