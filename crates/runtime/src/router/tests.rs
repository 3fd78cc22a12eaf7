// SPDX-License-Identifier: Apache-2.0
//! The table against its definition: `PathPattern::matches` and `precedence` of the
//! model, tried one route at a time over random sets and random histories.

use std::sync::Arc;

use ferrogate_model::kinds::rest_api::{HeaderMatch, HeaderValueMatch, Method};
use ferrogate_model::route::{PathPattern, Route, precedence};
use ferrogate_model::{Handle, Kind, ResourceName};
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};

use super::{Entry, Table};

type Headers = Vec<(String, Vec<u8>)>;

fn artifact(index: usize) -> ResourceName {
    ResourceName::new(Kind::RestApi, Handle::try_new(&format!("api-{index}")).expect("a handle"))
}

fn route(
    host: &str,
    method: Method,
    path: &str,
    exact: bool,
    headers: Vec<HeaderMatch>,
    operation: usize,
) -> Route {
    Route {
        host: host.to_owned(),
        method,
        full_path: path.into(),
        path: PathPattern::new("/", path, exact),
        headers,
        operation,
        sandbox: false,
    }
}

fn entry(source: &Route, artifact: ResourceName, id: usize) -> Arc<Entry<usize>> {
    let host = source.host.as_str().into();
    Arc::new(Entry::try_new(source, host, artifact, Arc::new(id)).expect("conditions that compile"))
}

/// A GET of `*` at this path.
pub(super) fn get(path: &str, id: usize) -> Arc<Entry<usize>> {
    entry(&route("*", Method::Get, path, false, Vec::new(), 0), artifact(0), id)
}

fn find(table: &Table<usize>, host: &str, method: &str, path: &str, headers: &Headers) -> Option<usize> {
    let lookup = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_slice());
    table.find(host, method, path, &lookup).map(|id| **id)
}

/// The table with these paths, GET on `*`, and what a path finds, by index.
fn check(paths: &[(&str, bool)], request: &str, expected: Option<usize>) {
    let mut table = Table::default();
    for (index, (path, exact)) in paths.iter().enumerate() {
        table.insert(entry(&route("*", Method::Get, path, *exact, Vec::new(), index), artifact(0), index));
    }
    assert_eq!(find(&table, "h", "GET", request, &Vec::new()), expected, "{request} among {paths:?}");
}

fn check_host(hosts: &[&str], authority: &str, expected: Option<usize>) {
    let mut table = Table::default();
    for (index, host) in hosts.iter().enumerate() {
        table.insert(entry(&route(host, Method::Get, "/", false, Vec::new(), 0), artifact(index), index));
    }
    assert_eq!(find(&table, authority, "GET", "/", &Vec::new()), expected, "{authority} among {hosts:?}");
}

#[test]
fn each_path_form_matches_what_the_contract_says() {
    for (request, expected) in [("/a", true), ("/a/", true), ("/a/b", true), ("/a/b/", true), ("/ab", false)]
    {
        check(&[("/a/*", false)], request, expected.then_some(0));
    }
    for (request, expected) in [("/a/x", true), ("/a/x/", false), ("/a/", false), ("/a", false)] {
        check(&[("/a/{id}", false)], request, expected.then_some(0));
    }
    for (request, expected) in [("/a", true), ("/a/", true), ("/a//", false), ("/A", false), ("/", false)] {
        check(&[("/a", false)], request, expected.then_some(0));
    }
    for (request, expected) in [("/a", true), ("/a/", false)] {
        check(&[("/a", true)], request, expected.then_some(0));
    }
    check(&[("/a%2fb", false)], "/a%2Fb", Some(0));
    check(&[("/a%2Fb", true)], "/a%2fb", Some(0));
    check(&[("/a%2Fb/*", false)], "/a/b/c", None);
    check(&[("/", false)], "/", Some(0));
    check(&[("/*", false)], "/anything/at/all", Some(0));
    check(&[("/*", false)], "*", None);
}

#[test]
fn the_narrowest_path_wins() {
    let paths = [
        ("/*", false),
        ("/a/*", false),
        ("/a/{x}", false),
        ("/a/v{x}", false),
        ("/a/v{x}.json", false),
        ("/a/v1.json", false),
        ("/a/v1.json", true),
        ("/a", false),
        ("/a/{x}/b", false),
    ];
    check(&paths, "/a/v1.json", Some(6));
    check(&paths, "/a/v1.json/", Some(5));
    check(&paths, "/a/v2.json", Some(4));
    check(&paths, "/a/v2", Some(3));
    check(&paths, "/a/x", Some(2));
    check(&paths, "/a/x/y", Some(1));
    check(&paths, "/a/x/b", Some(8));
    check(&paths, "/a/", Some(7));
    check(&paths, "/b", Some(0));
}

#[test]
fn a_method_or_header_that_does_not_match_goes_on_to_the_next_best() {
    let condition = |value: HeaderValueMatch| vec![HeaderMatch { name: "x-a".to_owned(), value }];
    let exact = condition(HeaderValueMatch::Exact("1".to_owned()));
    let regex = condition(HeaderValueMatch::Regex("[0-9]+|two".to_owned()));
    let mut table = Table::default();
    for (id, route) in [
        route("*", Method::Get, "/a/{x}", false, Vec::new(), 0),
        route("*", Method::Post, "/a/b", false, Vec::new(), 1),
        route("*", Method::Get, "/a/b", false, regex, 2),
        route("*", Method::Get, "/a/b", false, exact, 3),
    ]
    .iter()
    .enumerate()
    {
        table.insert(entry(route, artifact(0), id));
    }
    let header = |value: &str| vec![("x-a".to_owned(), value.as_bytes().to_vec())];
    assert_eq!(find(&table, "h", "GET", "/a/b", &header("1")), Some(3));
    assert_eq!(find(&table, "h", "GET", "/a/b", &header("12")), Some(2));
    assert_eq!(find(&table, "h", "GET", "/a/b", &header("two")), Some(2));
    assert_eq!(find(&table, "h", "GET", "/a/b", &header("12x")), Some(0));
    assert_eq!(find(&table, "h", "GET", "/a/b", &Vec::new()), Some(0));
    assert_eq!(find(&table, "h", "POST", "/a/b", &Vec::new()), Some(1));
    assert_eq!(find(&table, "h", "HEAD", "/a/b", &Vec::new()), None);
    assert_eq!(find(&table, "h", "get", "/a/b", &Vec::new()), None);
}

#[test]
fn hosts_are_selected_by_the_longest_pattern_without_fallback() {
    let hosts =
        ["*", "api.example.com", "*.example.com", "*.b.example.com", "foo*", "foo.b*", "api.example.com:99"];
    for (authority, expected) in [
        ("api.example.com", 1),
        ("API.Example.com", 1),
        ("api.example.com:8080", 1),
        ("api.example.com.", 1),
        ("api.example.com:99", 6),
        ("x.example.com", 2),
        ("x.example.com:8443", 2),
        ("x.y.example.com", 2),
        ("x.b.example.com", 3),
        (".example.com", 0),
        ("example.com", 0),
        ("foo", 0),
        ("foo.org", 4),
        ("foo.bar:80", 5),
        ("foo.example.com", 2),
        ("[::1]:8080", 0),
        ("", 0),
    ] {
        check_host(&hosts, authority, Some(expected));
    }
    check_host(&["a", "*.b"], "c", None);
    check_host(&["::1", "*"], "[::1]:8080", Some(0));
    check_host(&["[::1]", "*"], "[::1]", Some(0));
    // A host of its own has its own 404, whatever `*` would serve.
    let mut table = Table::default();
    table.insert(entry(&route("*", Method::Get, "/a", false, Vec::new(), 0), artifact(0), 0));
    table.insert(entry(&route("h", Method::Get, "/b", false, Vec::new(), 0), artifact(1), 1));
    assert_eq!(find(&table, "h", "GET", "/a", &Vec::new()), None);
}

#[test]
fn a_collision_is_told_and_resolved_by_name_whatever_the_order() {
    let same = route("*", Method::Get, "/a", false, Vec::new(), 0);
    let (first, second) = (entry(&same, artifact(1), 1), entry(&same, artifact(2), 2));
    for order in [[&first, &second], [&second, &first]] {
        let mut table = Table::default();
        let told: Vec<bool> = order.iter().map(|entry| table.insert(Arc::clone(entry))).collect();
        assert_eq!(told, [false, true]);
        assert_eq!(find(&table, "h", "GET", "/a", &Vec::new()), Some(1));
        assert!(table.remove(&first));
        assert_eq!(find(&table, "h", "GET", "/a", &Vec::new()), Some(2));
        assert!(!table.remove(&first));
    }
}

#[test]
fn a_node_with_very_many_children_finds_and_forgets_each() {
    let entries: Vec<_> = (0..2_000)
        .map(|i| entry(&route("*", Method::Get, &format!("/c{i}/x"), false, Vec::new(), 0), artifact(i), i))
        .collect();
    let mut table = Table::default();
    entries.iter().for_each(|entry| assert!(!table.insert(Arc::clone(entry))));
    let before = table.clone();
    for (index, entry) in entries.iter().enumerate() {
        assert_eq!(find(&table, "h", "GET", &format!("/c{index}/x"), &Vec::new()), Some(index));
        assert!(table.remove(entry));
        assert_eq!(find(&table, "h", "GET", &format!("/c{index}/x"), &Vec::new()), None);
    }
    assert!(table.is_empty());
    assert_eq!(table.hosts.dump(), Vec::new());
    // The clone taken before shares structure and must not have changed.
    assert_eq!(before.len(), 2_000);
    assert_eq!(find(&before, "h", "GET", "/c1234/x", &Vec::new()), Some(1234));
}

/// The virtual host by its definition, over the patterns in use.
fn naive_host<'r>(hosts: &[&'r str], authority: &str) -> Option<&'r str> {
    let bare = authority.split(':').next().unwrap_or_default().to_ascii_lowercase();
    let longest = |matches: &dyn Fn(&str) -> bool| {
        hosts.iter().filter(|host| matches(host)).max_by_key(|host| host.len()).copied()
    };
    longest(&|host| host == bare)
        .or_else(|| {
            longest(&|host| {
                host.strip_prefix('*')
                    .is_some_and(|s| !s.is_empty() && bare.len() > s.len() && bare.ends_with(s))
            })
        })
        .or_else(|| {
            longest(&|host| {
                host.strip_suffix('*')
                    .is_some_and(|p| !p.is_empty() && bare.len() > p.len() && bare.starts_with(p))
            })
        })
        .or_else(|| longest(&|host| host == "*"))
}

/// The answer by definition: every route tried, the best kept.
fn naive(
    live: &[(Route, ResourceName, usize)],
    host: &str,
    method: &str,
    path: &str,
    headers: &Headers,
) -> Option<usize> {
    let hosts: Vec<&str> = live.iter().map(|(route, _, _)| route.host.as_str()).collect();
    let host = naive_host(&hosts, host)?;
    live.iter()
        .filter(|(route, _, _)| {
            route.host == host && route.method.as_str() == method && route.path.matches(path)
        })
        .filter(|(route, _, _)| {
            route.headers.iter().all(|condition| {
                let value = headers.iter().find(|(name, _)| *name == condition.name);
                match (&condition.value, value) {
                    (HeaderValueMatch::Exact(text), Some((_, value))) => text.as_bytes() == value,
                    // The only expression these tests use.
                    (HeaderValueMatch::Regex(_), Some((_, value))) => value.iter().all(u8::is_ascii_digit),
                    (_, None) => false,
                }
            })
        })
        .min_by(|(a, a_name, a_id), (b, b_name, b_id)| {
            precedence(a, b)
                .then_with(|| a_name.cmp(b_name))
                .then_with(|| a.headers.cmp(&b.headers))
                .then_with(|| a_id.cmp(b_id))
        })
        .map(|(_, _, id)| *id)
}

fn hosts() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["*", "*", "*", "*", "*", "*", "a.x", "*.x", "*.a.x", "a*", "a.*"])
}

fn methods() -> impl Strategy<Value = Method> {
    prop::sample::select(vec![Method::Get, Method::Get, Method::Get, Method::Post])
}

fn written_path() -> impl Strategy<Value = String> {
    let segment = prop::sample::select(vec![
        "a", "b", "ab", "{p}", "{p}", "a{p}", "{p}b", "a{p}b", "{p}a{q}", "{p}{q}",
    ]);
    let tail = prop::sample::select(vec!["", "", "/*", "/"]);
    (prop::collection::vec(segment, 0..3), tail).prop_map(|(segments, tail)| {
        let path: String = segments.iter().map(|segment| format!("/{segment}")).collect::<String>() + tail;
        if path.is_empty() { "/".to_owned() } else { path }
    })
}

fn conditions() -> impl Strategy<Value = Vec<HeaderMatch>> {
    let value = prop_oneof![
        Just(HeaderValueMatch::Exact("1".to_owned())),
        Just(HeaderValueMatch::Regex("[0-9]*".to_owned())),
    ];
    let name = prop::sample::select(vec!["x-a", "x-b"]);
    let one = (name, value).prop_map(|(name, value)| HeaderMatch { name: name.to_owned(), value });
    let some = prop::collection::btree_set(one, 0..3).prop_map(|set| set.into_iter().collect());
    prop_oneof![2 => Just(Vec::new()), 1 => some]
}

fn routes() -> impl Strategy<Value = Vec<(Route, ResourceName)>> {
    let one = (hosts(), methods(), written_path(), any::<bool>(), conditions(), 0..3_usize, 0..4_usize)
        .prop_map(|(host, method, path, exact, headers, operation, owner)| {
            (route(host, method, &path, exact, headers, operation), artifact(owner))
        });
    prop::collection::vec(one, 0..40)
}

fn requests() -> impl Strategy<Value = (String, String, String, Headers)> {
    let host =
        prop::sample::select(vec!["zz", "zz", "zz", "x", "a.x", "b.x", "A.X:80", "q.a.x", "abc", "a.b"]);
    let segment = prop::sample::select(vec!["a", "b", "ab", "ab", "aab", "aab", "aabb", "c", ""]);
    let path = prop::collection::vec(segment, 1..4).prop_map(|segments| format!("/{}", segments.join("/")));
    let value = prop::sample::select(vec!["1", "22", "x"]);
    let header = (prop::sample::select(vec!["x-a", "x-b"]), value);
    let headers = prop::collection::vec(header, 0..3).prop_map(|headers| {
        headers.into_iter().map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).collect()
    });
    (host, methods(), path, headers).prop_map(|(host, method, path, headers)| {
        (host.to_owned(), method.as_str().to_owned(), path, headers)
    })
}

proptest! {
    /// Any set of routes, some of them removed again, answers every request as its
    /// definition does, and is the table a fresh build of what remains would be.
    #[test]
    fn the_table_is_what_its_routes_say(
        routes in routes(),
        removed in prop::collection::vec(prop::bool::weighted(0.3), 40),
        requests in prop::collection::vec(requests(), 24),
    ) {
        let mut table = Table::default();
        let mut live = Vec::new();
        let mut kept = Vec::new();
        let mut doomed = Vec::new();
        for (id, ((route, owner), remove)) in routes.into_iter().zip(removed).enumerate() {
            let entry = entry(&route, owner.clone(), id);
            // What is in the way when another arrives: half of the removals come late.
            table.insert(Arc::clone(&entry));
            if !remove {
                live.push((route, owner, id));
                kept.push(entry);
            } else if id % 2 == 0 {
                assert!(table.remove(&entry));
            } else {
                doomed.push(entry);
            }
        }
        for entry in &doomed {
            assert!(table.remove(entry));
        }
        for (host, method, path, headers) in &requests {
            assert_eq!(
                find(&table, host, method, path, headers).map(|id| group(&live, id)),
                naive(&live, host, method, path, headers).map(|id| group(&live, id)),
                "{method} {host} {path} {headers:?} among {live:?}"
            );
        }
        let mut fresh = Table::default();
        kept.iter().rev().for_each(|entry| { fresh.insert(Arc::clone(entry)); });
        assert_eq!(table.hosts.dump(), fresh.hosts.dump());
        assert_eq!(table.len(), fresh.len());
    }
}

/// Routes of one artifact that tie are one as far as an answer goes: the model refuses such
/// an artifact, and which of the twins answers is nobody's business.
fn group(live: &[(Route, ResourceName, usize)], id: usize) -> usize {
    let Some((route, owner, _)) = live.iter().find(|(_, _, other)| *other == id) else { return id };
    live.iter()
        .find(|(other, other_owner, _)| {
            precedence(other, route).is_eq()
                && (&other.host, other.method, &other.headers, other_owner)
                    == (&route.host, route.method, &route.headers, owner)
        })
        .map_or(id, |(_, _, first)| *first)
}
