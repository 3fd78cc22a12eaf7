// SPDX-License-Identifier: Apache-2.0
//! An API's routes, their names, their claims and their order (contract 4.1, 4.2).

use std::cmp::Ordering;

use ferrogate_model::document::Defaults;
use ferrogate_model::kinds::RestApi;
use ferrogate_model::route::{MAX_CLAIM_BYTES, Route, Segment, Tail, claims, expand, precedence};
use proptest::prelude::{Strategy, prop, proptest};
use serde_json::{Value, json};

fn api(change: impl FnOnce(&mut Value)) -> RestApi {
    let mut document = json!({
        "kind": "RestApi", "metadata": {"name": "a"},
        "spec": {
            "displayName": "A", "version": "v1.0", "context": "/c",
            "upstream": {"main": {"url": "http://m"}},
            "operations": [{"method": "GET", "path": "/"}],
        },
    });
    change(&mut document["spec"]);
    RestApi::parse(&document, &Defaults::default()).expect("a sound document").api
}

fn with_operations(context: &str, operations: Value) -> RestApi {
    api(|spec| {
        spec["context"] = json!(context);
        spec["operations"] = operations;
    })
}

fn matching(path: &str, headers: Value) -> Value {
    json!({"match": {"method": "GET", "path": {"value": path}, "headers": headers}})
}

#[test]
fn every_host_gets_every_operation() {
    let api = api(|spec| {
        spec["context"] = json!("/w/$version");
        spec["vhosts"] = json!({"main": "A.example.com;b", "sandbox": "s"});
        spec["upstream"]["sandbox"] = json!({"url": "http://s"});
        spec["operations"] = json!([{"method": "GET", "path": "/"}, {"method": "put", "path": "/x/{id}"}]);
    });
    let routes: Vec<_> =
        expand(&api).iter().map(|route| (route.name(), route.sandbox, route.operation)).collect();
    let want = [
        ("GET|/w/v1.0/|a.example.com", false, 0),
        ("PUT|/w/v1.0/x/{id}|a.example.com", false, 1),
        ("GET|/w/v1.0/|b", false, 0),
        ("PUT|/w/v1.0/x/{id}|b", false, 1),
        ("GET|/w/v1.0/|s", true, 0),
        ("PUT|/w/v1.0/x/{id}|s", true, 1),
    ];
    assert_eq!(routes, want.map(|(name, sandbox, operation)| (name.to_owned(), sandbox, operation)));
}

#[test]
fn hosts_that_serve_nothing_get_no_route() {
    assert_eq!(expand(&api(|_| {})).len(), 1, "no sandbox upstream, no sandbox host");
    let undeployed = api(|spec| spec["deploymentState"] = json!("undeployed"));
    assert!(expand(&undeployed).is_empty());
    assert_eq!(claims(&undeployed), ["name 'A' version 'v1.0'"]);
    let twice = RestApi { main_hosts: vec!["h".to_owned(), "H".to_owned()], ..api(|_| {}) };
    assert_eq!(expand(&twice).len(), 1, "one route per host, whatever a payload says");
}

#[test]
fn header_conditions_are_part_of_the_name() {
    let header = |name: &str| json!({"name": name, "value": "1"});
    let name = |headers: Value| expand(&with_operations("/", json!([matching("/a", headers)])))[0].name();
    let (one, two) = (name(json!([header("x"), header("y")])), name(json!([header("y"), header("x")])));
    assert_eq!(one, two);
    let digest = one.strip_prefix("GET|/a|*|").expect("the digest follows");
    assert!(digest.len() == 16 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{digest}");
    assert_ne!(one, name(json!([header("x")])));
    assert_eq!(name(json!([])), "GET|/a|*");
}

#[test]
fn claims_read_as_what_they_are() {
    let api = with_operations(
        "/c",
        json!([
            {"method": "GET", "path": "/"},
            {"method": "GET", "path": "/b/{id}/v{n}.json"},
            {"method": "GET", "path": "/{x}/*"},
            matching("/e", json!([{"name": "X-A", "value": "a\"b"}, {"name": "x-b", "value": "c|d", "type": "RegularExpression"}])),
        ]),
    );
    assert_eq!(
        claims(&api),
        [
            "name 'A' version 'v1.0'",
            "route GET * /c",
            "route GET * /c/b/{}/v{}.json",
            "route GET * /c/{}/*",
            "route GET * /c/e",
        ]
    );
}

/// Whether two APIs, each with one operation on one host, claim the same route.
fn overlap(a: (&str, Value), b: (&str, Value)) -> bool {
    let routes = |(context, operation): (&str, Value)| {
        claims(&with_operations(context, json!([operation]))).split_off(1)
    };
    routes(a) == routes(b)
}

#[test]
fn two_apis_overlap_when_they_have_one_method_host_and_path() {
    let get = |path: &str| json!({"method": "GET", "path": path});
    assert!(overlap(("/a", get("/b")), ("/a/b", get("/"))));
    assert!(overlap(("/a", get("/{x}")), ("/a", get("/{y}"))));
    assert!(overlap(("/", get("/a/*")), ("/a", get("/*"))));
    assert!(!overlap(("/a", get("/b")), ("/a", get("/b/*"))));
    assert!(overlap(("/a", get("/b")), ("/a", matching("/b", json!([])))));
    let conditional =
        matching("/b", json!([{"name": "user-agent", "value": ".*", "type": "RegularExpression"}]));
    assert!(
        overlap(("/a", get("/b")), ("/a", conditional)),
        "it would take requests past the other's policies"
    );
    assert!(!overlap(("/a", get("/{x}")), ("/a", get("/{x}-{y}"))));
    let exact = |path: &str| matching(path, json!([]));
    for (a, b) in [
        (("/p", get("/x")), ("/p", exact("/x/"))),
        (("/p", get("/x/")), ("/p", exact("/x"))),
        (("/p", exact("/x")), ("/p", exact("/x/"))),
        (("/p", get("/")), ("/", exact("/p/"))),
        (("/p/x", get("/")), ("/p", exact("/x/"))),
        (("/p/x", exact("/")), ("/", exact("/p/x/"))),
        (("/p", get("/x")), ("/p", get("/x//"))),
        (("/p", get("/x")), ("/p", get("/x//*"))),
        (("/p", get("/{x}/")), ("/p", get("/{x}//*"))),
        (("/", get("/")), ("/", get("//*"))),
    ] {
        assert!(overlap(a.clone(), b.clone()) && overlap(b.clone(), a.clone()), "{a:?} and {b:?}");
    }
    assert!(!overlap(("/p", get("/{x}")), ("/p", get("/{x}/"))), "no request is for both");
    assert!(!overlap(("/a", get("/b")), ("/a", json!({"method": "PUT", "path": "/b"}))));
}

#[test]
fn a_long_claim_is_cut_and_stays_distinct() {
    let long = |end: &str| {
        let claims = claims(&with_operations(
            "/",
            json!([{"method": "GET", "path": format!("/{}{end}", "é".repeat(2000))}]),
        ));
        claims.into_iter().nth(1).expect("one route")
    };
    assert!(long("x").len() <= MAX_CLAIM_BYTES);
    assert_ne!(long("x"), long("y"));
    assert!(long("x").starts_with("route GET * /é"));
}

/// The operations' indexes in the order in which they are tried.
fn order(operations: &[Value]) -> Vec<usize> {
    let mut routes = expand(&with_operations("/", json!(operations)));
    routes.reverse();
    routes.sort_by(precedence);
    routes.iter().map(|route| route.operation).collect()
}

#[test]
fn the_order_of_contract_4_2() {
    let get = |path: &str| json!({"method": "GET", "path": path});
    let header = |name: &str, kind: &str| json!({"name": name, "value": "1", "type": kind});
    let operations = [
        matching("/a/z", json!([])),
        matching("/a/b", json!([header("x", "Exact"), header("y", "RegularExpression")])),
        matching("/a/b", json!([header("x", "Exact")])),
        matching("/a/b", json!([header("y", "RegularExpression")])),
        matching("/a/b", json!([])),
        get("/a/b"),
        get("/a/bb{x}"),
        get("/a/b{x}"),
        get("/a/{x}"),
        get("/a"),
        get("/a/*"),
        get("/{x}/b"),
        get("/{x}/{y}"),
        get("/{x}/*"),
        get("/"),
        get("/*"),
    ];
    // All exact routes rank by their conditions; which literal comes first says nothing.
    assert_eq!(order(&operations), [1, 2, 3, 0, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
}

/// Routes of APIs with one operation each, at some context.
fn any_apis() -> impl Strategy<Value = Vec<Route>> {
    let segment = prop::sample::select(vec!["a", "b", "{x}", "a{x}", "{x}b"]);
    let tail = prop::sample::select(vec!["", "/", "/*", "//", "//*"]);
    let path = (prop::collection::vec(segment, 0..3), tail).prop_map(|(segments, tail)| {
        let path: String = segments.iter().map(|segment| format!("/{segment}")).collect();
        if path.is_empty() && tail.is_empty() { "/".to_owned() } else { format!("{path}{tail}") }
    });
    let api = (prop::sample::select(vec!["/", "/a", "/a/b"]), path, prop::bool::ANY);
    prop::collection::vec(api, 2..12).prop_map(|apis| {
        let placed = |(context, path, exact): (&str, String, bool)| {
            let mut api = with_operations(context, json!([{"method": "GET", "path": "/"}]));
            api.operations[0].path = path;
            api.operations[0].exact = exact;
            expand(&api).remove(0)
        };
        apis.into_iter().map(placed).collect()
    })
}

/// What kind of segment stands where. Plain paths have no slash at their end here, for they match
/// with and without one; and `/a//*` takes no normalised path but `/a/`.
fn kinds(route: &Route) -> Vec<&'static str> {
    let mut kinds: Vec<_> = route
        .path
        .segments
        .iter()
        .map(|segment| match segment {
            Segment::Literal(text) if text.is_empty() => "",
            Segment::Literal(_) => "text",
            Segment::Mixed(_) => "mixed",
            Segment::Param => "placeholder",
        })
        .collect();
    if route.path.tail == Tail::Wildcard && kinds.last() != Some(&"") {
        kinds.push("*");
    }
    if kinds.iter().all(|kind| matches!(*kind, "" | "text")) {
        kinds.retain(|kind| !kind.is_empty());
    }
    kinds
}

fn claim(route: &Route) -> String {
    let mut api = with_operations("/", json!([{"method": "GET", "path": "/"}]));
    api.operations[0].path = route.full_path.to_string();
    api.operations[0].exact = route.path.tail == Tail::Exact;
    claims(&api).remove(1)
}

fn any_routes() -> impl Strategy<Value = Vec<Route>> {
    let segment = prop::sample::select(vec!["a", "b", "{x}", "a{x}", "{x}b", "a{x}b"]);
    let tail = prop::sample::select(vec!["", "/", "/*"]);
    let path = (prop::collection::vec(segment, 0..4), tail).prop_map(|(segments, tail)| {
        let path: String = segments.iter().map(|segment| format!("/{segment}")).collect();
        if path.is_empty() && tail.is_empty() { "/".to_owned() } else { format!("{path}{tail}") }
    });
    let operation = (path, prop::bool::ANY).prop_map(|(path, exact)| (path, exact));
    prop::collection::vec(operation, 1..8).prop_map(|operations| {
        let mut api = with_operations("/", json!([{"method": "GET", "path": "/"}]));
        let template = api.operations.remove(0);
        api.operations = operations
            .into_iter()
            .map(|(path, exact)| ferrogate_model::kinds::rest_api::Operation {
                path,
                exact,
                ..template.clone()
            })
            .collect();
        expand(&api)
    })
}

proptest! {
    #[test]
    fn the_order_is_total_and_agrees_with_claims(routes in any_routes()) {
        for a in &routes {
            for b in &routes {
                assert_eq!(precedence(a, b), precedence(b, a).reverse());
                let (a, b) = (&Route { operation: 0, ..a.clone() }, &Route { operation: 0, ..b.clone() });
                if a.path == b.path {
                    assert_eq!(precedence(a, b), Ordering::Equal);
                }
                for c in &routes {
                    let c = &Route { operation: 0, ..c.clone() };
                    if precedence(a, b).is_le() && precedence(b, c).is_le() {
                        assert!(precedence(a, c).is_le());
                    }
                }
            }
        }
    }

    /// Two APIs of which either could answer some request cannot both be deployed, unless one's path
    /// is narrower in its kind, or mixed segments of theirs overlap (docs/compatibility.md).
    #[test]
    fn apis_that_could_answer_the_same_request_collide(
        routes in any_apis(),
        paths in prop::collection::vec("(/(a|b|ab|aab)){0,3}/?", 1..12),
    ) {
        for path in paths.iter().map(|path| if path.is_empty() { "/" } else { path.as_str() }) {
            let taking: Vec<&Route> = routes.iter().filter(|route| route.path.matches(path)).collect();
            for (a, b) in taking.iter().flat_map(|a| taking.iter().map(move |b| (a, b))) {
                let mixed = kinds(a).contains(&"mixed") && a.path.segments != b.path.segments;
                if kinds(a) == kinds(b) && !mixed {
                    assert_eq!(claim(a), claim(b), "{} and {} on {path}", a.path, b.path);
                }
            }
        }
    }

    /// Mixed segments apart, whose order the contract leaves open when they are equally literal.
    #[test]
    fn routes_without_order_do_not_meet(routes in any_routes(), path in "(/[ab]{1,3}){0,4}/?") {
        let has_mixed = |route: &Route| route.path.segments.iter().any(|segment| matches!(segment, Segment::Mixed(_)));
        for a in &routes {
            for b in &routes {
                let (a, b) = (&Route { operation: 0, ..a.clone() }, &Route { operation: 0, ..b.clone() });
                let open = has_mixed(a) && has_mixed(b);
                if !open && a.path != b.path && precedence(a, b).is_eq() {
                    assert!(!(a.path.matches(&path) && b.path.matches(&path)), "{} and {} on {path}", a.path, b.path);
                }
            }
        }
    }
}
