// SPDX-License-Identifier: Apache-2.0
//! What a RestApi document may say (contract 3.1 to 3.5), message by message.

use std::time::Duration;

use ferrogate_model::document::{Defaults, Format, parse};
use ferrogate_model::kinds::RestApi;
use ferrogate_model::kinds::rest_api::{
    DeploymentState, HeaderValueMatch, HostRewrite, MAX_OPERATIONS, MAX_POLICIES, Method, Scheme,
    UpstreamTarget,
};
use ferrogate_model::{Refusal, Violations};
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};
use serde_json::{Value, json};

/// A document that is right in every part.
fn sound() -> Value {
    json!({
        "apiVersion": "gateway.api-platform.wso2.com/v1",
        "kind": "RestApi",
        "metadata": {"name": "books"},
        "spec": {
            "displayName": "Books",
            "version": "v1.0",
            "context": "/books",
            "upstream": {"main": {"url": "http://127.0.0.1:8089/base/"}},
            "operations": [{"method": "GET", "path": "/{id}"}],
        },
    })
}

/// The sound document with the value at a JSON pointer replaced; `None` removes it.
fn with(pointer: &str, value: impl Into<Option<Value>>) -> Value {
    let mut document = sound();
    change(&mut document, pointer, value.into());
    document
}

fn change(document: &mut Value, pointer: &str, value: Option<Value>) {
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer has a slash");
    let parent = document.pointer_mut(parent).expect("the parent exists");
    match (parent, value) {
        (Value::Array(list), Some(value)) => list[key.parse::<usize>().expect("an index")] = value,
        (Value::Object(map), Some(value)) => drop(map.insert(key.to_owned(), value)),
        (Value::Object(map), None) => drop(map.remove(key)),
        (other, _) => unreachable!("{pointer} leads into {other}"),
    }
}

fn api(document: &Value) -> RestApi {
    RestApi::parse(document, &Defaults::default()).expect("a sound document").api
}

fn pairs(violations: Violations) -> Vec<(String, String)> {
    violations.0.into_iter().map(|violation| (violation.field, violation.message)).collect()
}

/// The document must be refused with exactly these violations, in this order. A wanted
/// message that ends with `…` is a beginning.
#[track_caller]
fn check(document: &Value, want: &[(&str, &str)]) {
    let got = match RestApi::parse(document, &Defaults::default()) {
        Err(Refusal::Invalid(violations)) => pairs(violations),
        other => unreachable!("wanted violations, got {other:?}"),
    };
    let fits = |((field, message), (want_field, want)): (&(String, String), &(&str, &str))| {
        field == want_field
            && want.strip_suffix('…').map_or(message == want, |part| message.starts_with(part))
    };
    assert!(got.len() == want.len() && got.iter().zip(want).all(fits), "got {got:#?}, want {want:#?}");
}

/// As [`check`], for one value at one place, under that place's own field path.
#[track_caller]
fn check_at(pointer: &str, value: Value, field: &str, message: &str) {
    check(&with(pointer, value), &[(field, message)]);
}

#[test]
fn a_small_document_gets_every_default() {
    let api = api(&sound());
    assert_eq!(api.handle.as_str(), "books");
    assert_eq!((api.context.as_str(), api.version.as_str()), ("/books", "v1.0"));
    assert_eq!(
        (api.main_hosts.as_slice(), api.sandbox_host.as_str()),
        (["*".to_owned()].as_slice(), "sandbox-*")
    );
    assert_eq!((api.state, api.main.host_rewrite), (DeploymentState::Deployed, HostRewrite::Auto));
    let UpstreamTarget::Url(url) = api.main.target else { panic!("a direct target") };
    assert_eq!(
        (url.scheme, url.host.as_str(), url.port, url.base_path.as_str()),
        (Scheme::Http, "127.0.0.1", 8089, "/base")
    );
    let [operation] = api.operations.as_slice() else { panic!("one operation") };
    assert_eq!((operation.method, operation.path.as_str(), operation.exact), (Method::Get, "/{id}", false));
}

#[test]
fn everything_missing_is_told_in_the_contract_s_order() {
    check(
        &json!({}),
        &[
            ("kind", "Unsupported kind (must be 'RestApi')"),
            ("spec.displayName", "API display name is required"),
            ("spec.version", "API version is required"),
            ("spec.context", "Context is required"),
            ("spec.upstream.main", "Must specify either 'url' or 'ref'"),
            ("spec.operations", "At least one operation is required"),
            ("metadata.name", "Metadata name is required"),
        ],
    );
    check(
        &json!({
            "kind": "Mcp", "metadata": {"name": "a b"},
            "spec": {
                "displayName": "x/y", "version": "1.x", "context": "books",
                "upstreamDefinitions": [{"name": "a", "upstreams": []}],
                "upstream": {"main": {"url": ""}, "sandbox": {"ref": "b"}},
                "vhosts": {"main": "a b"},
                "resilience": {"timeout": "5"},
                "operations": [{"method": "GET", "path": "x", "policies": [{"name": ""}]}],
                "policies": [{"name": "p", "version": "v1.0.0"}],
            },
        }),
        &[
            ("kind", "Unsupported kind (must be 'RestApi')"),
            (
                "spec.displayName",
                "API display name must be URL-friendly (only letters, numbers, spaces, hyphens, underscores, and dots allowed)",
            ),
            ("spec.version", "API version must follow semantic versioning pattern (e.g., v1.0, v2.1.3)"),
            ("spec.context", "Context must start with /"),
            ("spec.upstreamDefinitions[0].upstreams", "At least one upstream target is required"),
            ("spec.upstream.main.url", "Upstream URL is required"),
            (
                "spec.upstream.sandbox.ref",
                "Referenced upstream definition 'b' not found in upstreamDefinitions",
            ),
            ("spec.vhosts.main", "'a b' is not a host…"),
            (
                "spec.resilience.timeout",
                "Invalid timeout format (expected a single-unit duration like '30s', '1m', '500ms', or '0s' to disable; compound, negative, and unitless values are not allowed)",
            ),
            ("spec.operations[0].path", "Operation path must start with /"),
            (
                "spec.policies[0].version",
                "policy 'p' version must be major-only (e.g., v1); full semantic version (e.g., v1.0.0) is not allowed",
            ),
            ("spec.operations[0].policies[0].name", "Policy name is required"),
            ("metadata.name", "metadata.name must not contain whitespace, '/', '}', or control characters"),
        ],
    );
}

#[test]
fn the_head_of_the_document() {
    check_at(
        "/spec/displayName",
        json!("x".repeat(101)),
        "spec.displayName",
        "API display name must be 1-100 characters",
    );
    for version in ["", "v", "1.", "v1.2.3.4", "v1-rc", "1 ", "٣"] {
        assert!(
            RestApi::parse(&with("/spec/version", json!(version)), &Defaults::default()).is_err(),
            "{version}"
        );
    }
    for version in [json!("1"), json!("v1"), json!("v1.2.3"), json!("1.10")] {
        drop(api(&with("/spec/version", version)));
    }
    check_at(
        "/spec/context",
        json!("/a/"),
        "spec.context",
        "Context cannot end with / (except for root context)",
    );
    check_at(
        "/spec/context",
        json!(format!("/{}", "a".repeat(200))),
        "spec.context",
        "Context must be 1-200 characters",
    );
    check_at(
        "/spec/context",
        json!("/a/{b}"),
        "spec.context",
        "Context must contain only characters of a URL path…",
    );
    check_at(
        "/spec/context",
        json!("/a b"),
        "spec.context",
        "Context must contain only characters of a URL path…",
    );
    check_at(
        "/spec/context",
        json!("/a//b"),
        "spec.context",
        "Context must not contain empty, '.' or '..' segments",
    );
    check_at(
        "/spec/context",
        json!("/a/../b"),
        "spec.context",
        "Context must not contain empty, '.' or '..' segments",
    );
    // Nothing but the slash is wrong here: the operations are not alike without it.
    let mut slashless = with("/spec/context", json!("books"));
    change(
        &mut slashless,
        "/spec/operations",
        Some(json!([{"method": "GET", "path": "/a"}, {"method": "GET", "path": "/b"}])),
    );
    check(&slashless, &[("spec.context", "Context must start with /")]);
    for (written, resolved) in
        [("/", "/"), ("/w/$version", "/w/v1.0"), ("/$version/$version-x", "/v1.0/v1.0-x")]
    {
        assert_eq!(api(&with("/spec/context", json!(written))).context, resolved);
    }
    check_at(
        "/spec/deploymentState",
        json!("Deployed"),
        "spec.deploymentState",
        "Deployment state must be 'deployed' or 'undeployed'",
    );
    assert_eq!(api(&with("/spec/deploymentState", json!("undeployed"))).state, DeploymentState::Undeployed);
    check_at(
        "/metadata/labels",
        json!({"a b": "c"}),
        "metadata.labels",
        "Label key 'a b' contains whitespace characters. Label keys must not contain any whitespace.",
    );
    check_at(
        "/metadata/annotations",
        json!({"gateway.api-platform.wso2.com/artifact-id": "7"}),
        "metadata.annotations",
        "Annotation 'gateway.api-platform.wso2.com/artifact-id' must be a UUID",
    );
}

#[test]
fn upstreams() {
    for (main, field, message) in [
        (json!({"url": "http://a", "ref": "b"}), "", "Specify exactly one of 'url' or 'ref'"),
        (json!({}), "", "Must specify either 'url' or 'ref'"),
        (json!({"url": "ftp://a"}), ".url", "Upstream URL must use http or https scheme"),
        (json!({"url": "a.example.com"}), ".url", "Upstream URL must use http or https scheme"),
        (json!({"url": "http:///x"}), ".url", "Upstream URL must include a host"),
        (json!({"url": "http://:80"}), ".url", "Upstream URL must include a host"),
        (json!({"url": "http://a:0"}), ".url", "Invalid URL format: …"),
        (json!({"url": "http://a:+8"}), ".url", "Invalid URL format: …"),
        (json!({"url": "http://a:70000"}), ".url", "Invalid URL format: …"),
        (json!({"url": "http://[::1"}), ".url", "Invalid URL format: …"),
        (json!({"url": "http://[a]"}), ".url", "Invalid URL format: …"),
        (json!({"url": "http://a b"}), ".url", "Invalid URL format: …"),
        (json!({"url": "http://a/\r\nx: y"}), ".url", "Invalid URL format: …"),
        (json!({"url": "http://a\\b"}), ".url", "Invalid URL format: …"),
        (json!({"url": "http://a/%zz"}), ".url", "Invalid URL format: two hexadecimal digits…"),
        (json!({"url": "http://a/b%4"}), ".url", "Invalid URL format: two hexadecimal digits…"),
        (json!({"ref": ""}), ".ref", "Upstream reference is required"),
        (
            json!({"ref": "x"}),
            ".ref",
            "Referenced upstream definition 'x' not found: no upstreamDefinitions provided",
        ),
        (
            json!({"url": "http://a", "protocol": "h2c"}),
            ".protocol",
            "Upstream protocol must be 'http1', 'http2' or 'auto'",
        ),
        (
            json!({"url": "http://a", "hostRewrite": "x"}),
            ".hostRewrite",
            "Host rewrite must be 'auto' or 'manual'",
        ),
    ] {
        check_at("/spec/upstream/main", main.clone(), &format!("spec.upstream.main{field}"), message);
        check_at("/spec/upstream/sandbox", main, &format!("spec.upstream.sandbox{field}"), message);
    }
    for (url, want) in [
        ("https://u:p@API.example.com/a/b/#f", (Scheme::Https, "api.example.com", 443, "/a/b")),
        ("http://[::1]:81", (Scheme::Http, "::1", 81, "")),
        ("HTTP://my_service:", (Scheme::Http, "my_service", 80, "")),
        ("http://a/", (Scheme::Http, "a", 80, "")),
    ] {
        let UpstreamTarget::Url(url) = api(&with("/spec/upstream/main/url", json!(url))).main.target else {
            panic!("a direct target")
        };
        assert_eq!((url.scheme, url.host.as_str(), url.port, url.base_path.as_str()), want);
    }
}

#[test]
fn upgrades() {
    let with_upgrades = |upgrades: Value| json!({"method": "GET", "path": "/", "upgrades": upgrades});
    for (name, message) in [
        ("", "An upgrade must be a protocol's name, such as 'websocket'"),
        ("a b", "An upgrade must be a protocol's name, such as 'websocket'"),
        ("a/b/c", "An upgrade must be a protocol's name, such as 'websocket'"),
        ("a/", "An upgrade must be a protocol's name, such as 'websocket'"),
        ("H2C", "Switching to 'h2c' would carry requests past the gateway's policies"),
        ("HTTP/2.0", "Switching to 'http/2.0' would carry requests past the gateway's policies"),
        ("tls", "Switching to 'tls' would carry requests past the gateway's policies"),
    ] {
        let field = "spec.operations[0].upgrades[0]";
        check_at("/spec/operations/0", with_upgrades(json!([name])), field, message);
    }
    for (upgrades, expected) in [
        (Value::Null, None),
        (json!([]), Some(vec![])),
        (
            json!(["WebSocket", "websocket", "chat/2"]),
            Some(vec!["websocket".to_owned(), "chat/2".to_owned()]),
        ),
    ] {
        let document = with("/spec/operations/0", with_upgrades(upgrades));
        assert_eq!(api(&document).operations[0].upgrades, expected);
    }
}

#[test]
fn upstream_definitions() {
    let target = json!([{"url": "http://a:1"}]);
    let check_definition = |definition: Value, field: &str, message: &str| {
        check_at(
            "/spec/upstreamDefinitions",
            json!([definition]),
            &format!("spec.upstreamDefinitions[0].{field}"),
            message,
        );
    };
    check_definition(json!({"upstreams": target}), "name", "Upstream definition name is required");
    check_definition(
        json!({"name": "x".repeat(101), "upstreams": target}),
        "name",
        "Upstream definition name must be 1-100 characters",
    );
    check_definition(
        json!({"name": "a.b", "upstreams": target}),
        "name",
        "Upstream definition name must match ^[a-zA-Z0-9\\-_]+$ (letters, numbers, hyphens, underscores)",
    );
    check_definition(
        json!({"name": "a", "protocol": "http3", "upstreams": target}),
        "protocol",
        "Upstream protocol must be 'http1', 'http2' or 'auto'",
    );
    check(
        &with("/spec/upstream/main", json!({"ref": "x", "protocol": "http2"})),
        &[
            (
                "spec.upstream.main.protocol",
                "Set the protocol in the upstream definition that is referred to",
            ),
            (
                "spec.upstream.main.ref",
                "Referenced upstream definition 'x' not found: no upstreamDefinitions provided",
            ),
        ],
    );
    for base in ["/", "", "a", "/a/", "/a b", "/{x}"] {
        check_definition(
            json!({"name": "a", "basePath": base, "upstreams": target}),
            "basePath",
            "Invalid basePath (must start with '/' and must not end with '/'; omit for root)",
        );
    }
    for (timeout, message) in [
        ("1h30m", "Invalid timeout format (expected a single-unit duration like '30s', '1m', '500ms')"),
        ("0s", "Connect timeout must be positive"),
        ("0.0ms", "Connect timeout must be positive"),
    ] {
        check_definition(
            json!({"name": "a", "timeout": {"connect": timeout}, "upstreams": target}),
            "timeout.connect",
            message,
        );
    }
    for (url, message) in [
        ("", "URL is required"),
        ("tcp://a", "URL must use http or https scheme"),
        ("http://", "URL must include a host"),
        (
            "http://a/b",
            "URL must not include a path; set the base path in upstreamDefinitions[].basePath instead",
        ),
        ("http://a?b", "URL must not include a query string; only host[:port] is used"),
        ("http://a#b", "URL must not include a fragment; only host[:port] is used"),
    ] {
        check_definition(json!({"name": "a", "upstreams": [{"url": url}]}), "upstreams[0].url", message);
    }
    for weight in [json!(101), json!(-1), json!(u64::MAX)] {
        check_definition(
            json!({"name": "a", "upstreams": [{"url": "http://a", "weight": weight}]}),
            "upstreams[0].weight",
            "Weight must be between 0 and 100",
        );
    }
    check_definition(
        json!({"name": "a", "upstreams": [{"url": "http://a"}, {"url": "https://b"}]}),
        "upstreams",
        "All targets of a definition must use the same scheme, http or https",
    );
    check(
        &with(
            "/spec/upstreamDefinitions",
            json!([{"name": "a", "upstreams": target}, {"name": "a", "upstreams": target}]),
        ),
        &[("spec.upstreamDefinitions[1].name", "Duplicate upstream definition name 'a'")],
    );
    let mut document = with(
        "/spec/upstreamDefinitions",
        json!([{
            "name": "a", "basePath": "/v2", "timeout": {"connect": "0.1ms"},
            "upstreams": [{"url": "https://a:8443/", "weight": 70}, {"url": "https://b"}],
        }]),
    );
    change(&mut document, "/spec/upstream/main", Some(json!({"ref": "a", "hostRewrite": "manual"})));
    let api = api(&document);
    let UpstreamTarget::Ref(name) = &api.main.target else { panic!("a reference") };
    let definition =
        api.upstream_definitions.iter().find(|one| one.name == *name).expect("the reference resolves");
    assert_eq!(definition.connect_timeout, Some(Duration::from_millis(1)));
    let weights: Vec<_> = definition.targets.iter().map(|target| (target.url.port, target.weight)).collect();
    assert_eq!(weights, [(8443, Some(70)), (443, None)]);
}

#[test]
fn hosts() {
    for (main, want) in [
        (json!("B.example.com; a.example.com;b.example.com ;"), vec!["b.example.com", "a.example.com"]),
        (
            json!("*.example.com;foo*;*;10.0.0.1:80;[::1]:443;[::1];my_host"),
            vec!["*.example.com", "foo*", "*", "10.0.0.1:80", "[::1]:443", "[::1]", "my_host"],
        ),
        (json!("[0:0:0::1]; [::1] ;[2001:DB8:0:0:0::1]:443"), vec!["[::1]", "[2001:db8::1]:443"]),
        (json!("_gateway_default_"), vec!["*"]),
        (json!("a;_gateway_default_"), vec!["a", "*"]),
        (json!(" "), vec!["*"]),
        (Value::Null, vec!["*"]),
    ] {
        assert_eq!(api(&with("/spec/vhosts", json!({"main": main}))).main_hosts, want);
    }
    for host in
        ["a b", "http://a", "a/b", "a:0", "a:x", "*.", "*.a*", "a*b", "-a", "a..b", "[::1", "é", "*:80"]
    {
        check_at(
            "/spec/vhosts",
            json!({"main": host}),
            "spec.vhosts.main",
            &format!("'{host}' is not a host…"),
        );
        check_at(
            "/spec/vhosts",
            json!({"sandbox": host}),
            "spec.vhosts.sandbox",
            &format!("'{host}' is not a host…"),
        );
    }
    check_at("/spec/vhosts", json!({"main": ";"}), "spec.vhosts.main", "At least one host is required");
    let told = |main: &str| {
        let document = with("/spec/vhosts", json!({"main": main}));
        RestApi::parse(&document, &Defaults::default()).expect("a sound document").warnings.to_string()
    };
    assert!(told("a.example:80").contains("clients leave out the port of 'a.example:80'"));
    assert!(told("[::1]:443").contains("reach '[::1]' instead"));
    assert_eq!((told("a.example:8080"), told("[::80]")), (String::new(), String::new()));
    let mut document = with("/spec/vhosts", json!({"main": "a;b", "sandbox": "B"}));
    drop(api(&document));
    change(&mut document, "/spec/upstream/sandbox", Some(json!({"url": "http://s"})));
    check(&document, &[("spec.vhosts.sandbox", "Sandbox host 'b' must differ from the main hosts")]);
}

#[test]
fn filling_hosts_changes_the_source_and_not_the_api() {
    let (main_host, sandbox_host) = ("a.example.com;*".to_owned(), "s-*;t".to_owned());
    let defaults = Defaults { main_host, sandbox_host, ..Defaults::default() };
    for (vhosts, want) in [
        (None, json!({"main": "a.example.com;*", "sandbox": "s-*;t"})),
        (Some(Value::Null), json!({"main": "a.example.com;*", "sandbox": "s-*;t"})),
        (Some(json!({"main": "x"})), json!({"main": "x"})),
        (
            Some(json!({"main": "x;_gateway_default_", "sandbox": "_gateway_default_"})),
            json!({"main": "x;a.example.com;*", "sandbox": "s-*;t"}),
        ),
    ] {
        let mut document = with("/spec/vhosts", vhosts);
        let before = RestApi::parse(&document, &defaults).expect("a sound document").api;
        RestApi::fill_hosts(&mut document, &defaults);
        assert_eq!(document["spec"]["vhosts"], want);
        assert_eq!(RestApi::parse(&document, &defaults).expect("still sound").api, before);
    }
    let mut odd = json!({"spec": {"vhosts": [1]}});
    RestApi::fill_hosts(&mut odd, &defaults);
    assert_eq!(odd, json!({"spec": {"vhosts": [1]}}));
}

#[test]
fn the_default_host_stands_for_the_gateways_domains() {
    let domains = |list: &[&str]| list.iter().map(|domain| (*domain).to_owned()).collect();
    let defaults = Defaults {
        main_domains: domains(&["api.example.com", "*.api.example.com"]),
        sandbox_domains: domains(&["try.example.com"]),
        ..Defaults::default()
    };
    for (vhosts, main, sandbox) in [
        (Value::Null, vec!["api.example.com", "*.api.example.com"], "try.example.com"),
        (json!({"main": "*"}), vec!["api.example.com", "*.api.example.com"], "try.example.com"),
        (
            json!({"main": "a;_gateway_default_", "sandbox": "own"}),
            vec!["a", "api.example.com", "*.api.example.com"],
            "own",
        ),
        (json!({"main": "a"}), vec!["a"], "try.example.com"),
    ] {
        let api = RestApi::parse(&with("/spec/vhosts", vhosts), &defaults).expect("a sound document").api;
        assert_eq!((api.main_hosts, api.sandbox_host.as_str()), (domains(&main), sandbox));
    }
}

#[test]
fn operations() {
    let at = |operation: Value, field: &str, message: &str| {
        check_at("/spec/operations/0", operation, &format!("spec.operations[0]{field}"), message);
    };
    at(
        json!({"path": "/"}),
        ".method",
        "HTTP method is required (set operation.method or operation.match.method)",
    );
    at(
        json!({"method": "TRACE", "path": "/"}),
        ".method",
        "Invalid HTTP method 'TRACE' (must be GET, POST, PUT, DELETE, PATCH, HEAD, or OPTIONS)",
    );
    at(
        json!({"method": "GET"}),
        ".path",
        "Operation path is required (set operation.path or operation.match.path.value)",
    );
    at(
        json!({"match": {"path": {"value": "/"}}}),
        ".match.method",
        "HTTP method is required (set operation.method or operation.match.method)",
    );
    at(
        json!({"match": {"method": "x", "path": {"value": "/"}}}),
        ".match.method",
        "Invalid HTTP method 'x' (must be GET, POST, PUT, DELETE, PATCH, HEAD, or OPTIONS)",
    );
    at(
        json!({"method": "GET", "path": "/", "match": {"method": "GET"}}),
        ".match.path.value",
        "Operation path is required (set operation.path or operation.match.path.value)",
    );
    at(
        json!({"match": {"method": "GET", "path": {"type": "Regex", "value": "/a"}}}),
        ".match.path.type",
        "Path match type must be Exact or PathPrefix",
    );
    for path in ["/{a", "/a}", "/{a{b}}", "/{a/b}", "/}{"] {
        at(
            json!({"method": "GET", "path": path}),
            ".path",
            "Operation path has unbalanced braces in parameters",
        );
    }
    for path in ["/a b", "/a?b", "/a#b", "/a\u{0}"] {
        at(
            json!({"method": "GET", "path": path}),
            ".path",
            "Operation path must not contain whitespace, control characters, '?' or '#'",
        );
    }
    at(
        json!({"method": "GET", "path": "/", "resilience": {"idleTimeout": "-1s"}}),
        ".resilience.idleTimeout",
        "Invalid timeout format…",
    );
    for (context, path) in [
        ("/", "/_gateway-health"),
        ("/", "/_gateway-health/ready"),
        ("/_gateway-health", "/*"),
        ("/", "/a/..//_gateway-health/x"),
        ("/", "/%5Fgateway-health"),
    ] {
        let mut document = with("/spec/context", json!(context));
        change(&mut document, "/spec/operations/0/path", Some(json!(path)));
        check(
            &document,
            &[(
                "spec.operations[0].path",
                "path conflicts with the reserved gateway health-check namespace (/_gateway-health)",
            )],
        );
    }
    let document = with(
        "/spec/operations",
        json!([
            {"method": "get", "path": "/a", "resilience": {"timeout": "0s"}},
            {"match": {"method": "Post", "path": {"value": "/a"}}},
            {"match": {"method": "GET", "path": {"type": "PathPrefix", "value": "/p/"}}},
            {"match": {"method": "GET", "path": {"type": "PathPrefix", "value": "/"}}},
            {"match": {"method": "GET", "path": {"type": "PathPrefix", "value": "/q/*"}}},
        ]),
    );
    let read: Vec<_> = api(&document)
        .operations
        .into_iter()
        .map(|operation| (operation.method, operation.path, operation.exact))
        .collect();
    let want = [
        (Method::Get, "/a", false),
        (Method::Post, "/a", true),
        (Method::Get, "/p/*", false),
        (Method::Get, "/*", false),
        (Method::Get, "/q/*", false),
    ];
    assert_eq!(read, want.map(|(method, path, exact)| (method, path.to_owned(), exact)));
    assert_eq!(api(&document).operations[0].resilience.timeout, Some(Duration::ZERO));
}

#[test]
fn header_conditions() {
    let matching = |headers: Value| {
        with(
            "/spec/operations/0",
            json!({"match": {"method": "GET", "path": {"value": "/a"}, "headers": headers}}),
        )
    };
    for (header, field, message) in [
        (json!({"value": "x"}), "name", "Header name is required"),
        (json!({"name": "a b", "value": "x"}), "name", "'a b' is not a header name"),
        (json!({"name": "a"}), "value", "Header value is required"),
        (json!({"name": "a", "value": "x\r\n"}), "value", "Header value must not contain control characters"),
        (
            json!({"name": "a", "value": "x", "type": "Prefix"}),
            "type",
            "Header match type must be Exact or RegularExpression",
        ),
        (
            json!({"name": "a", "value": "(", "type": "RegularExpression"}),
            "value",
            "Invalid regular expression: …",
        ),
        (
            json!({"name": "a", "value": "a)(b", "type": "RegularExpression"}),
            "value",
            "Invalid regular expression: …",
        ),
        (
            json!({"name": "a", "value": "(?:(?:\\w{99}){99}){99}", "type": "RegularExpression"}),
            "value",
            "Invalid regular expression: it needs too much memory",
        ),
        (
            json!({"name": "a", "value": "x".repeat(2000), "type": "RegularExpression"}),
            "value",
            "Invalid regular expression: it is longer than 1024 bytes",
        ),
    ] {
        check(
            &matching(json!([header])),
            &[(format!("spec.operations[0].match.headers[0].{field}").as_str(), message)],
        );
    }
    let headers = api(&matching(
        json!([{"name": "X-A", "value": "1"}, {"name": "x-b", "value": "v\\d|w", "type": "RegularExpression"}]),
    ))
    .operations
    .remove(0)
    .headers;
    assert_eq!(headers[0].name, "x-a");
    assert_eq!(headers[0].value, HeaderValueMatch::Exact("1".to_owned()));
    let HeaderValueMatch::Regex(expression) = &headers[1].value else { panic!("an expression") };
    let regex = ferrogate_model::kinds::rest_api::header_regex(expression).expect("it was checked");
    assert!(
        regex.is_match(b"v7") && regex.is_match(b"w") && !regex.is_match(b"v7x") && !regex.is_match(b"xw")
    );
}

#[test]
fn duplicate_operations_name_one_another() {
    let get = |path: &str| json!({"method": "GET", "path": path});
    let exact =
        |headers: Value| json!({"match": {"method": "GET", "path": {"value": "/a"}, "headers": headers}});
    let header = |name: &str| json!({"name": name, "value": "1"});
    for (first, second, duplicate) in [
        (get("/a/{x}"), get("/a/{y}"), true),
        (get("/a"), get("/a/"), true),
        (get("/a/*"), get("/a/*"), true),
        (get("/a"), get("/b"), false),
        (get("/a"), json!({"method": "PUT", "path": "/a"}), false),
        (get("/a"), exact(json!([])), false),
        (exact(json!([header("x"), header("Y")])), exact(json!([header("y"), header("X")])), true),
        (exact(json!([header("x")])), exact(json!([])), false),
    ] {
        let document = with("/spec/operations", json!([get("/other"), first, second]));
        if duplicate {
            check(&document, &[("spec.operations[2]", "Duplicates spec.operations[1] …")]);
        } else {
            drop(api(&document));
        }
    }
}

#[test]
fn policies_are_checked_in_shape_only() {
    for (policy, field, message) in [
        (
            json!({"name": "p", "version": "1"}),
            "version",
            "invalid version format '1' for policy 'p'; expected major-only version (e.g., v1)",
        ),
        (
            json!({"name": "p", "version": "v1.2"}),
            "version",
            "invalid version format 'v1.2' for policy 'p'; expected major-only version (e.g., v1)",
        ),
        (json!({"version": "v1"}), "name", "Policy name is required"),
    ] {
        check_at("/spec/policies", json!([policy]), &format!("spec.policies[0].{field}"), message);
        check_at(
            "/spec/operations/0/policies",
            json!([policy]),
            &format!("spec.operations[0].policies[0].{field}"),
            message,
        );
    }
    let policies = json!([{"name": "p", "params": {"b": 1, "a": {"d": 1, "c": 2}}}, {"name": "q", "version": "v2", "executionCondition": "true"}]);
    let api = api(&with("/spec/policies", policies));
    assert_eq!(api.policies[0].params.to_string(), r#"{"a":{"c":2,"d":1},"b":1}"#);
    assert_eq!((api.policies[0].version.as_deref(), api.policies[1].version.as_deref()), (None, Some("v2")));
    assert_eq!(api.policies[1].execution_condition.as_deref(), Some("true"));
}

#[test]
fn counts_are_limited() {
    let operations: Vec<Value> =
        (0..=MAX_OPERATIONS).map(|index| json!({"method": "GET", "path": format!("/{index}")})).collect();
    check_at(
        "/spec/operations",
        json!(operations),
        "spec.operations",
        "At most 1000 entries are allowed, found 1001",
    );
    let policies = vec![json!({"name": "p"}); MAX_POLICIES + 1];
    check_at(
        "/spec/policies",
        json!(policies),
        "spec.policies",
        "At most 100 entries are allowed, found 101",
    );
    let hosts: Vec<String> = (0..101).map(|index| format!("h{index}")).collect();
    check_at(
        "/spec/vhosts",
        json!({"main": hosts.join(";")}),
        "spec.vhosts.main",
        "At most 100 hosts are allowed",
    );
    let mut document = with("/spec/operations", json!(operations[..MAX_OPERATIONS]));
    change(&mut document, "/spec/vhosts", Some(json!({"main": hosts[..21].join(";")})));
    check(
        &document,
        &[("spec.operations", "At most 20000 routes are allowed, which are operations times hosts")],
    );
}

#[test]
fn a_wrong_type_is_a_parse_error_with_its_field() {
    for (pointer, value, message) in [
        ("/spec/displayName", json!([1]), "spec.displayName: expected text, found a list"),
        ("/spec/version", json!(1.1), "spec.version: expected text (in quotes), found the number 1.1"),
        ("/spec/operations", json!({}), "spec.operations: expected a list, found a map"),
        ("/spec/operations/0", json!("x"), "spec.operations[0]: expected a map, found text"),
        (
            "/spec/policies",
            json!([{"name": "p", "params": [1]}]),
            "spec.policies[0].params: expected a map, found a list",
        ),
        (
            "/metadata/labels",
            json!({"a": true}),
            "metadata.labels.a: expected text (in quotes), found the boolean true",
        ),
        ("/spec", json!(7), "spec: expected a map, found the number 7"),
        ("/spec/displayName", json!(5), "spec.displayName: expected text (in quotes), found the number 5"),
        ("/spec/version", json!(1), "spec.version: expected text (in quotes), found the number 1"),
        ("/spec/context", json!(5), "spec.context: expected text (in quotes), found the number 5"),
        ("/metadata/name", json!(77), "metadata.name: expected text (in quotes), found the number 77"),
        (
            "/metadata/annotations",
            json!({"a": 1}),
            "metadata.annotations.a: expected text (in quotes), found the number 1",
        ),
    ] {
        let refusal = RestApi::parse(&with(pointer, value), &Defaults::default()).expect_err("a wrong type");
        assert!(matches!(refusal, Refusal::Unreadable(_)), "{refusal:?}");
        assert_eq!(refusal.to_string(), format!("failed to parse configuration: {message}"));
    }
    let refusal = RestApi::parse(&json!([]), &Defaults::default()).expect_err("a list");
    assert_eq!(
        refusal.to_string(),
        "failed to parse configuration: the document: expected a map, found a list"
    );
}

#[test]
fn what_has_no_effect_is_a_warning() {
    let mut document = sound();
    for (pointer, value) in [
        ("/status", json!({"id": "x"})),
        ("/extra", json!(1)),
        ("/metadata/namespace", json!("x")),
        ("/spec/oprations", json!([])),
        ("/spec/upstream/main/url", json!("http://a?b=c")),
        ("/spec/upstream/main/retries", json!(3)),
        (
            "/spec/operations/0",
            json!({"method": "GET", "path": "/a", "match": {"method": "GET", "path": {"value": "/b*", "kind": "x"}}}),
        ),
    ] {
        change(&mut document, pointer, Some(value));
    }
    let warnings = RestApi::parse(&document, &Defaults::default()).expect("a sound document").warnings;
    let fields: Vec<String> = warnings.0.into_iter().map(|warning| warning.field).collect();
    let want = [
        "extra",
        "spec.oprations",
        "spec.upstream.main.retries",
        "spec.upstream.main.url",
        "spec.operations[0].method",
        "spec.operations[0].path",
        "spec.operations[0].match.path.kind",
        "spec.operations[0].match.path.value",
        "metadata.namespace",
    ];
    assert_eq!(fields, want);
    assert!(RestApi::parse(&sound(), &Defaults::default()).expect("sound").warnings.0.is_empty());
}

#[test]
fn what_no_request_reaches_is_a_warning() {
    let warned = |document: &Value| {
        let warnings = RestApi::parse(document, &Defaults::default()).expect("a sound document").warnings;
        pairs(warnings).into_iter().map(|(field, message)| format!("{field}: {message}")).collect::<Vec<_>>()
    };
    for path in ["/a//b", "/a%41", "/a\\b", "/\u{e9}", "/%7Ex"] {
        let told = warned(&with("/spec/operations/0/path", json!(path)));
        assert!(
            matches!(told.as_slice(), [one] if one.starts_with("spec.operations[0].path: ")),
            "{path}: {told:?}"
        );
    }
    let told = warned(&with("/spec/context", json!("/c%41x")));
    assert!(
        matches!(told.as_slice(), [one] if one.starts_with("spec.context: request paths are normalised")),
        "{told:?}"
    );
    let weightless = json!([{"name": "a", "upstreams": [{"url": "http://a", "weight": 0}]}]);
    let mut document = with("/spec/upstreamDefinitions", weightless);
    change(&mut document, "/spec/upstream/main", Some(json!({"ref": "a"})));
    assert_eq!(
        warned(&document),
        ["spec.upstreamDefinitions[0].upstreams: every weight is 0, so each request that goes to this \
          definition is answered 503"]
    );
}

#[test]
fn an_unquoted_version_in_yaml_means_what_it_says() {
    let text = "kind: RestApi\nmetadata: {name: a}\nspec:\n  displayName: A\n  version: 1.10\n  context: /a/$version\n\
        \x20 upstream: {main: {url: 'http://a'}}\n  operations: [{method: GET, path: /}]\n";
    let api = api(&parse(text, Format::Yaml).expect("well-formed"));
    assert_eq!((api.version.as_str(), api.context.as_str()), ("1.10", "/a/1.10"));
}

/// Any JSON value, biased to the keys a document has.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "(/|\\{|\\}|\\*|v|1|\\.|:|http|a|;| ){0,6}".prop_map(Value::from),
    ];
    let key = prop::sample::select(vec![
        "kind",
        "metadata",
        "name",
        "labels",
        "spec",
        "displayName",
        "version",
        "context",
        "upstream",
        "main",
        "sandbox",
        "url",
        "ref",
        "upstreamDefinitions",
        "upstreams",
        "weight",
        "basePath",
        "timeout",
        "connect",
        "vhosts",
        "operations",
        "method",
        "path",
        "match",
        "value",
        "type",
        "headers",
        "policies",
        "params",
        "resilience",
    ]);
    leaf.prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone().prop_map(str::to_owned), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_value_panics(value in any_json(), place in prop::sample::select(vec![
        "/kind", "/metadata", "/spec", "/spec/context", "/spec/version", "/spec/upstream", "/spec/upstreamDefinitions",
        "/spec/vhosts", "/spec/operations", "/spec/operations/0", "/spec/policies", "/spec/resilience",
    ])) {
        if let Ok(parsed) = RestApi::parse(&value, &Defaults::default()) {
            assert!(!parsed.api.operations.is_empty());
        }
        if let Ok(parsed) = RestApi::parse(&with(place, value), &Defaults::default()) {
            assert!(!parsed.api.operations.is_empty() && !parsed.api.main_hosts.is_empty());
            assert!(!ferrogate_model::route::claims(&parsed.api).is_empty());
        }
    }
}
