// SPDX-License-Identifier: Apache-2.0
//! What becomes of artifacts, good and bad; and the small artifacts other tests use.

use std::sync::Arc;
use std::time::Duration;

use ferrogate_model::{Resource, Revision};
use ferrogate_policy::{Attachment, CompileError, Definition, Hooks, Phases, Policy, Registry, Services};
use serde_json::{Value, json};

use super::{Compiler, MAX_SEGMENTS};
use crate::router::{CompiledRoute, PoisonReason, Timeouts};
use crate::state::{HeldArtifact, Refused};

/// A policy that compiles, refuses its parameters or panics, as they say.
struct Moody;

struct Idle;

impl Hooks for Idle {
    fn phases(&self) -> Phases {
        Phases::default()
    }
}

impl Definition for Moody {
    fn name(&self) -> &'static str {
        "moody"
    }

    fn version(&self) -> &'static str {
        "v1.0.0"
    }

    fn description(&self) -> &'static str {
        "For tests."
    }

    fn schema(&self) -> &'static str {
        r#"{"type": "object"}"#
    }

    fn compile(&self, params: &Value, _: &Attachment, _: &Services) -> Result<Policy, CompileError> {
        match params.get("mood").and_then(Value::as_str) {
            Some("panic") => panic!("as the parameters say"),
            Some("refuse") => {
                Err(CompileError { field: "mood".to_owned(), message: "not this mood".to_owned() })
            }
            _ => Ok(Box::new(Idle)),
        }
    }
}

pub(crate) fn compiler() -> Compiler {
    let registry = Registry::new(vec![Arc::new(Moody)]).expect("a registry");
    let services = Services::in_memory();
    let second = Duration::from_secs(1);
    let defaults = Timeouts { request: Some(60 * second), idle: Some(300 * second), connect: 5 * second };
    Compiler::new(Arc::new(registry), services, defaults)
}

/// An API with one GET operation at `/{handle}/{path}`.
pub(crate) fn resource(handle: &str, version: u64, path: &str) -> Resource {
    with(handle, version, &json!({"operations": [{"method": "GET", "path": path}]}))
}

/// A resource that no version of the runtime can decode.
pub(crate) fn broken(handle: &str, version: u64) -> Resource {
    let name = format!("rest-apis/{handle}").parse().expect("a name");
    Resource { name, version: Revision(version), payload: "{".into() }
}

/// An API with these fields over a plain one's.
pub(crate) fn with(handle: &str, version: u64, fields: &Value) -> Resource {
    let mut api = json!({
        "handle": handle, "displayName": handle, "version": "v1", "context": format!("/{handle}"),
        "mainHosts": ["*"], "sandboxHost": "sandbox-*",
        "main": {"url": {"scheme": "http", "host": "up", "port": 80, "basePath": "/base"}},
        "operations": [{"method": "GET", "path": "/x"}],
    });
    for (key, value) in fields.as_object().expect("fields") {
        api[key] = value.clone();
    }
    let name = format!("rest-apis/{handle}").parse().expect("a name");
    Resource { name, version: Revision(version), payload: api.to_string().into() }
}

fn prepare(fields: &Value) -> Result<HeldArtifact, Refused> {
    compiler().prepare(&with("a", 7, fields))
}

fn routes(fields: &Value) -> Vec<Arc<CompiledRoute>> {
    let held = prepare(fields).unwrap_or_else(|refused| panic!("{}", refused.reason));
    held.routes.iter().map(|entry| Arc::clone(&entry.route)).collect()
}

/// Every route is poisoned, for this reason.
fn check_poison(fields: &Value, reason: PoisonReason, detail: &str) {
    let held = prepare(fields).unwrap_or_else(|refused| panic!("{}", refused.reason));
    assert_eq!(held.poisoned, held.routes.len(), "{fields}");
    for entry in &held.routes {
        let poison = entry.route.poison().expect("a poisoned route");
        assert_eq!(poison.reason, reason, "{fields}");
        assert!(poison.detail.contains(detail), "{}", poison.detail);
    }
}

fn check_refused(resource: &Resource, reason: &str) {
    match compiler().prepare(resource) {
        Ok(_) => panic!("{} was taken", resource.name),
        Err(refused) => assert!(refused.reason.contains(reason), "{}", refused.reason),
    }
}

#[test]
fn an_api_becomes_its_routes() {
    let routes = routes(&json!({
        "mainHosts": ["one.test", "two.test"],
        "sandbox": {"url": {"scheme": "https", "host": "sand", "port": 443}, "hostRewrite": "manual"},
        "resilience": {"timeout": 1_000, "idleTimeout": 0},
        "operations": [
            {"method": "GET", "path": "/x"},
            {"method": "POST", "path": "/y/{id}", "resilience": {"timeout": 0}},
        ],
    }));
    let names: Vec<&str> = routes.iter().map(|route| &*route.name).collect();
    assert_eq!(
        names,
        [
            "GET|/a/x|one.test",
            "POST|/a/y/{id}|one.test",
            "GET|/a/x|two.test",
            "POST|/a/y/{id}|two.test",
            "GET|/a/x|sandbox-*",
            "POST|/a/y/{id}|sandbox-*",
        ]
    );
    let (first, second, last) = (&routes[0], &routes[1], &routes[5]);
    assert_eq!(first.timeouts.request, Some(Duration::from_secs(1)));
    assert_eq!(first.timeouts.idle, None);
    assert_eq!(second.timeouts.request, None);
    assert_eq!(first.timeouts.connect, Duration::from_secs(5));
    assert_eq!(first.target.endpoints[0].host, "up");
    assert_eq!(first.rewrite.upstream_path("/a/x?q", &first.target.base_path), "/base/x?q");
    assert_eq!(&*first.attachment.route_name, "GET|/a/x|one.test");
    assert!(!first.sandbox && last.sandbox);
    assert_eq!((last.target.name.as_str(), last.target.base_path.as_str()), ("sandbox", ""));
    assert_eq!(last.version, Revision(7));
}

#[test]
fn an_undeployed_api_is_held_without_routes() {
    assert!(routes(&json!({"state": "undeployed"})).is_empty());
}

#[test]
fn a_reference_uses_every_weighted_target() {
    let target = |host: &str, weight: Value| {
        let mut target = json!({"url": {"scheme": "http", "host": host, "port": 80}});
        if !weight.is_null() {
            target["weight"] = weight;
        }
        target
    };
    let routes = routes(&json!({
        "main": {"ref": "pool"},
        "upstreamDefinitions": [{
            "name": "pool", "basePath": "/p", "connectTimeout": 250,
            "targets": [target("a", json!(30)), target("b", Value::Null), target("c", json!(0))],
        }],
    }));
    let target = &routes[0].target;
    let weights: Vec<_> = target.endpoints.iter().map(|e| (e.host.as_str(), e.weight)).collect();
    assert_eq!(weights, [("a", 30), ("b", 100)]);
    assert_eq!(target.base_path, "/p");
    assert_eq!(routes[0].timeouts.connect, Duration::from_millis(250));
    assert!(routes[0].definitions.get("pool").is_some_and(|defined| Arc::ptr_eq(defined, target)));
}

#[test]
fn an_apis_own_policies_are_compiled_once_for_all_its_routes() {
    let moody = json!([{"name": "moody", "version": "v1", "params": {}}]);
    let routes = routes(&json!({
        "policies": moody,
        "operations": [
            {"method": "GET", "path": "/x"}, {"method": "GET", "path": "/y"},
            {"method": "GET", "path": "/z", "policies": moody},
        ],
    }));
    let chains: Vec<_> = routes.iter().map(|route| route.chain.as_ref().expect("a chain")).collect();
    assert!(Arc::ptr_eq(chains[0], chains[1]));
    assert_eq!(chains.iter().map(|chain| chain.len()).collect::<Vec<_>>(), [1, 1, 2]);
}

#[test]
fn a_payload_does_not_keep_the_message_alive_it_came_in() {
    let mut resource = resource("a", 7, "x");
    let message = bytes::Bytes::from([resource.payload.as_ref(), &[b' '; 4096]].concat());
    resource.payload = message.slice(..resource.payload.len());
    let held = compiler().prepare(&resource).unwrap_or_else(|refused| panic!("{}", refused.reason));
    assert_eq!(held.payload, resource.payload);
    assert_ne!(held.payload.as_ptr(), resource.payload.as_ptr());
}

#[test]
fn what_points_nowhere_or_does_not_compile_poisons_its_routes() {
    let policies =
        |params: Value| json!({"policies": [{"name": "moody", "version": "v1", "params": params}]});
    check_poison(&json!({"main": {"ref": "gone"}}), PoisonReason::DanglingUpstream, "'gone'");
    check_poison(&json!({"policies": [{"name": "what"}]}), PoisonReason::UnknownPolicy, "'what'");
    check_poison(
        &json!({"policies": [{"name": "moody", "version": "v9"}]}),
        PoisonReason::UnknownPolicy,
        "v9",
    );
    check_poison(&policies(json!({"mood": "refuse"})), PoisonReason::BrokenChain, "not this mood");
    check_poison(&policies(json!({"mood": "panic"})), PoisonReason::BrokenChain, "panicked");
    assert!(routes(&policies(json!({}))).iter().all(|route| route.poison().is_none()));
}

#[test]
fn a_fault_of_one_operation_poisons_that_operation_only() {
    let held = prepare(&json!({"operations": [
        {"method": "GET", "path": "/good"},
        {"method": "GET", "path": "/bad", "policies": [{"name": "what"}]},
    ]}));
    let held = held.unwrap_or_else(|refused| panic!("{}", refused.reason));
    assert_eq!((held.poisoned, held.routes.len()), (1, 2));
    assert!(held.routes[0].route.poison().is_none());
}

#[test]
fn what_cannot_be_decoded_is_refused() {
    check_refused(&broken("a", 1), "no RestApi");
    let mut foreign = resource("a", 1, "/x");
    foreign.name = "rest-apis/b".parse().expect("a name");
    check_refused(&foreign, "rest-apis/a");
    check_refused(&resource("a", 1, &"/x".repeat(MAX_SEGMENTS)), "segments");
    let header = json!([{"name": "x-a", "regex": "a)|(b"}]);
    let operations = json!({"operations": [{"method": "GET", "path": "/x", "headers": header}]});
    check_refused(&with("a", 1, &operations), "regex");
}
