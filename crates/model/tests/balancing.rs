// SPDX-License-Identifier: Apache-2.0
//! What `upstreamDefinitions[]` may say beyond the contract, message by message.

use std::time::Duration;

use ferrogate_model::Refusal;
use ferrogate_model::document::Defaults;
use ferrogate_model::kinds::RestApi;
use ferrogate_model::kinds::rest_api::{
    BalancingPolicy, DEFAULT_COOKIE, Endpoints, HashKey, HealthCheck, HealthQuestion, LoadBalancing,
    StickyCookie, UpstreamDefinition,
};
use serde_json::{Value, json};

/// A document whose one definition has these fields besides its name and targets.
fn document(extra: &Value) -> Value {
    let mut definition = json!({
        "name": "d",
        "upstreams": [{"url": "http://a:1", "zone": "z-1"}, {"url": "http://b:1"}],
    });
    let fields = definition.as_object_mut().expect("a map");
    fields.extend(extra.as_object().expect("a map").clone());
    json!({
        "apiVersion": "gateway.api-platform.wso2.com/v1",
        "kind": "RestApi",
        "metadata": {"name": "books"},
        "spec": {
            "displayName": "Books",
            "version": "v1.0",
            "context": "/books",
            "upstreamDefinitions": [definition],
            "upstream": {"main": {"ref": "d"}},
            "operations": [{"method": "GET", "path": "/{id}"}],
        },
    })
}

/// The definition these fields make, without a warning.
#[track_caller]
fn reads(extra: &Value) -> UpstreamDefinition {
    let parsed = RestApi::parse(&document(extra), &Defaults::default()).expect("a sound document");
    assert!(parsed.warnings.0.is_empty(), "{}", parsed.warnings);
    parsed.api.upstream_definitions.into_iter().next().expect("a definition")
}

/// The violations that these fields are, each as `field: beginning of the message`.
#[track_caller]
fn refuses(extra: &Value, want: &[(&str, &str)]) {
    let got = match RestApi::parse(&document(extra), &Defaults::default()) {
        Err(Refusal::Invalid(violations)) => violations.0,
        other => unreachable!("wanted violations, got {other:?}"),
    };
    let fits = got.len() == want.len()
        && got.iter().zip(want).all(|(got, (field, message))| {
            got.field.strip_prefix("spec.upstreamDefinitions[0].") == Some(field)
                && got.message.starts_with(message)
        });
    assert!(fits, "got {got:#?}, want {want:#?}");
}

#[test]
fn endpoints() {
    assert_eq!(reads(&json!({})).endpoints, Endpoints::PerTarget);
    assert_eq!(reads(&json!({"endpoints": "per-target"})).endpoints, Endpoints::PerTarget);
    assert_eq!(reads(&json!({"endpoints": "per-address"})).endpoints, Endpoints::PerAddress);
    refuses(&json!({"endpoints": "all"}), &[("endpoints", "Endpoints must be 'per-target' or")]);
}

#[test]
fn load_balancing() {
    let policy = |value: Value| reads(&json!({ "loadBalancing": value })).load_balancing.expect("one").policy;
    assert_eq!(reads(&json!({})).load_balancing, None);
    assert_eq!(reads(&json!({"loadBalancing": {}})).load_balancing, Some(LoadBalancing::default()));
    assert_eq!(policy(json!({"policy": "least-request"})), BalancingPolicy::LeastRequest);
    assert_eq!(policy(json!({"policy": "ewma"})), BalancingPolicy::Ewma);
    assert_eq!(
        policy(json!({"policy": "ring-hash", "hashOn": "header", "name": "X-User"})),
        BalancingPolicy::RingHash(HashKey::Header("x-user".to_owned()))
    );
    assert_eq!(
        policy(json!({"policy": "ring-hash", "hashOn": "client-address"})),
        BalancingPolicy::RingHash(HashKey::ClientAddress)
    );
    assert_eq!(
        policy(json!({"policy": "sticky-cookie", "ttl": "1h"})),
        BalancingPolicy::StickyCookie(StickyCookie {
            name: DEFAULT_COOKIE.to_owned(),
            ttl: Some(Duration::from_secs(3600))
        })
    );
    let definition = reads(&json!({"loadBalancing": {"panicThreshold": 0}}));
    assert_eq!(definition.load_balancing.and_then(|balancing| balancing.panic_threshold), Some(0));
    assert_eq!(definition.targets[0].zone.as_deref(), Some("z-1"));
}

#[test]
fn health_checks() {
    let check = |value: Value| reads(&json!({ "healthCheck": value })).health_check.expect("one");
    let http = check(json!({"type": "http"}));
    assert_eq!(
        http,
        HealthCheck {
            question: HealthQuestion::Http {
                path: "/".to_owned(),
                host: None,
                expected_statuses: vec![(200, 299)]
            },
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
            healthy_threshold: 2,
            unhealthy_threshold: 3,
        }
    );
    let asked = json!({
        "type": "http", "path": "/up?deep=1", "host": "books.example:81", "expectedStatuses": [204, "300-399"],
        "interval": "1s", "timeout": "500ms", "healthyThreshold": 1, "unhealthyThreshold": 1,
    });
    let HealthQuestion::Http { path, host, expected_statuses } = check(asked).question else {
        unreachable!("it asks by HTTP")
    };
    assert_eq!((path.as_str(), host.as_deref()), ("/up?deep=1", Some("books.example:81")));
    assert_eq!(expected_statuses, [(204, 204), (300, 399)]);
    let grpc = check(json!({"type": "grpc", "service": "books.Shelf"}));
    assert_eq!(grpc.question, HealthQuestion::Grpc { service: "books.Shelf".to_owned() });
    assert_eq!(check(json!({"type": "tcp"})).question, HealthQuestion::Tcp);
    let refused = |value: Value, want: &[(&str, &str)]| refuses(&json!({ "healthCheck": value }), want);
    refused(json!({}), &[("healthCheck.type", "The type of check is required")]);
    refused(json!({"type": "tcp", "path": "/"}), &[("healthCheck.path", "Has no meaning with this type")]);
    refused(
        json!({
            "type": "http", "path": "up", "host": "a b", "expectedStatuses": ["2xx", "299-200"],
            "interval": "1s", "timeout": "2s", "healthyThreshold": 0,
        }),
        &[
            ("healthCheck.path", "Must be a path that starts with '/'"),
            ("healthCheck.host", "Must be a host name"),
            ("healthCheck.expectedStatuses[0]", "Must be a status such as 200, or a range"),
            ("healthCheck.expectedStatuses[1]", "Must be a status such as 200, or a range"),
            ("healthCheck.timeout", "Must not be longer than interval"),
            ("healthCheck.healthyThreshold", "Must be a whole number between 1 and 100"),
        ],
    );
}

#[test]
fn load_balancing_that_does_not_go_together() {
    let check = |balancing: Value, want: &[(&str, &str)]| {
        refuses(&json!({ "loadBalancing": balancing }), want);
    };
    check(
        json!({"policy": "random"}),
        &[("loadBalancing.policy", "Must be one of 'round-robin', 'least-request', 'ewma', ")],
    );
    check(json!({"policy": "ring-hash"}), &[("loadBalancing.hashOn", "What to hash is required")]);
    check(
        json!({"policy": "ring-hash", "hashOn": "header"}),
        &[("loadBalancing.name", "The name of the header or cookie is required")],
    );
    check(
        json!({"policy": "ring-hash", "hashOn": "client-address", "name": "x"}),
        &[("loadBalancing.name", "The client's address has no name")],
    );
    check(
        json!({"policy": "ewma", "hashOn": "header", "ttl": "1s"}),
        &[
            ("loadBalancing.hashOn", "Has no meaning with this"),
            ("loadBalancing.ttl", "Has no meaning with this"),
        ],
    );
    check(
        json!({"policy": "sticky-cookie", "name": "a b", "ttl": "0s", "panicThreshold": 101}),
        &[
            ("loadBalancing.panicThreshold", "Must be a whole number between 0 and 100"),
            ("loadBalancing.name", "Must be a header or cookie name"),
            ("loadBalancing.ttl", "Must be between 1s and "),
        ],
    );
    refuses(
        &json!({"upstreams": [{"url": "http://a", "zone": "a b"}]}),
        &[("upstreams[0].zone", "Zone must be")],
    );
}
