// SPDX-License-Identifier: Apache-2.0
//! Every balancing rule on a seeded balancer and a clock that moves when told to.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferrogate_model::kinds::rest_api::{
    BalancingPolicy, CircuitBreaker, Endpoints, HashKey, LoadBalancing, OutlierDetection, Scheme,
    StickyCookie, UpstreamDefinition, UpstreamProtocol,
};
use ferrogate_policy::Headers;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::{Group, Member};
use crate::error::Reason;
use crate::head::RequestParts;
use crate::router::{Endpoint, Target};
use crate::upstream::balance::Balancer;
use crate::upstream::pick::{Guard, PickInput, Picked, Tried};
use crate::upstream::states::EndpointState;

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

/// A group whose endpoints are `a`, `b`, … and a balancer over it.
struct World {
    group: Arc<Group>,
    balancer: Balancer,
    now: Instant,
}

fn endpoint(index: usize, weight: u8) -> Endpoint {
    let host = char::from(b'a' + u8::try_from(index).expect("few endpoints")).to_string().into();
    Endpoint {
        scheme: Scheme::Http,
        protocol: UpstreamProtocol::Http1,
        tls: None,
        host,
        port: 80,
        address: None,
        weight,
        owner: None,
    }
}

fn head(name: &'static str, value: &str) -> RequestParts {
    let mut headers = HeaderMap::new();
    headers.append(name, HeaderValue::try_from(value).expect("a value"));
    RequestParts::new(headers, Method::GET, "/".to_owned(), "h".to_owned(), false)
}

impl World {
    /// Endpoints by weight and whether they are in the own zone.
    fn new(policy: BalancingPolicy, endpoints: &[(u8, bool)]) -> World {
        World::with(policy, endpoints, |_| {})
    }

    fn with(
        policy: BalancingPolicy,
        endpoints: &[(u8, bool)],
        edit: impl FnOnce(&mut UpstreamDefinition),
    ) -> World {
        let now = Instant::now();
        let member = |(index, (weight, local)): (usize, &(u8, bool))| {
            let state = Arc::new(EndpointState::new(now));
            Arc::new(Member::new(endpoint(index, *weight), state, *local, "apis/x/d"))
        };
        let members = endpoints.iter().enumerate().map(member).collect();
        let mut definition = UpstreamDefinition {
            name: "d".to_owned(),
            base_path: String::new(),
            connect_timeout: None,
            targets: Vec::new(),
            protocol: UpstreamProtocol::Http1,
            endpoints: Endpoints::default(),
            load_balancing: Some(LoadBalancing { policy, ..LoadBalancing::default() }),
            outlier_detection: None,
            circuit_breaker: None,
            health_check: None,
            tls: None,
        };
        edit(&mut definition);
        let group = Arc::new(Group::new(members, &definition, "/books"));
        World { group, balancer: Balancer::seeded(7), now }
    }

    fn try_pick(&self, head: &RequestParts, tried: &[Arc<Member>]) -> Result<Guard, Reason> {
        let tried: Vec<Tried<'_>> = tried.iter().cloned().map(Tried::Guarded).collect();
        let input = PickInput { header: &|name| head.get(name), client: CLIENT, tried: &tried };
        self.balancer.pick_guarded(&self.group, &input, self.now).map_err(|failure| failure.reason)
    }

    fn pick_with(&self, head: &RequestParts, tried: &[Arc<Member>]) -> Guard {
        self.try_pick(head, tried).expect("an endpoint")
    }

    /// Ends one request on this endpoint with this status, whatever the rule would have taken.
    fn ends(&self, index: usize, status: StatusCode) {
        let member = self.group.members()[index].clone();
        assert!(member.state.load.try_enter(None));
        Guard::new(self.group.clone(), member, self.now, None).answered(status, self.now);
    }

    fn pick(&self) -> Guard {
        self.pick_with(&head("x-user", "anna"), &[])
    }

    /// How often each endpoint is taken in so many picks whose requests end at once.
    fn shares(&self, picks: usize) -> BTreeMap<String, usize> {
        let mut shares = BTreeMap::new();
        for _ in 0..picks {
            *shares.entry(host(&self.pick())).or_default() += 1;
        }
        shares
    }
}

fn host(guard: &Guard) -> String {
    guard.member().endpoint.host.to_string()
}

fn remote(weights: &[u8]) -> Vec<(u8, bool)> {
    weights.iter().map(|weight| (*weight, false)).collect()
}

#[test]
fn in_turn_every_cycle_gives_each_endpoint_its_weight() {
    for weights in [&[1, 1][..], &[100, 100], &[70, 30], &[1, 2, 3], &[5, 0], &[100, 1, 100], &[1]] {
        let world = World::new(BalancingPolicy::RoundRobin, &remote(weights));
        let plain = Target {
            name: "d".to_owned(),
            endpoints: weights.iter().enumerate().map(|(index, weight)| endpoint(index, *weight)).collect(),
            base_path: String::new(),
            connect_timeout: Duration::from_secs(1),
            group: None,
        };
        let total = weights.iter().map(|weight| usize::from(*weight)).sum();
        let head = head("x", "y");
        let mut plainly = BTreeMap::<String, usize>::new();
        for _ in 0..total {
            let input = PickInput { header: &|name| head.get(name), client: CLIENT, tried: &[] };
            let picked = world.balancer.pick(&plain, &input).expect("an endpoint");
            assert!(matches!(picked, Picked::Plain(_)));
            *plainly.entry(picked.endpoint().host.to_string()).or_default() += 1;
        }
        let shares = world.shares(total);
        assert_eq!(plainly, shares, "{weights:?}: both ways take the same turns");
        for (index, weight) in weights.iter().enumerate() {
            let got = shares.get(endpoint(index, 1).host.as_str()).copied().unwrap_or_default();
            assert_eq!(got, usize::from(*weight), "{index} of {weights:?}");
        }
    }
}

#[test]
fn the_less_busy_of_two_is_taken_in_relation_to_its_weight() {
    let world = World::new(BalancingPolicy::LeastRequest, &remote(&[50, 50]));
    let held: Vec<Guard> = (0..10).map(|_| world.pick()).collect();
    let on_a = held.iter().filter(|guard| host(guard) == "a").count();
    assert_eq!(on_a, 5, "requests that stay spread evenly");
    let of_a: Vec<Guard> = held.into_iter().filter(|guard| host(guard) == "a").collect();
    for _ in 0..5 {
        assert_eq!(host(&world.pick()), "b", "b has nothing to do");
    }
    drop(of_a);
    let world = World::new(BalancingPolicy::LeastRequest, &remote(&[75, 25]));
    let held: Vec<Guard> = (0..40).map(|_| world.pick()).collect();
    assert_eq!(held.iter().filter(|guard| host(guard) == "a").count(), 30);
}

#[test]
fn the_faster_of_two_is_taken_and_the_slower_tried_again() {
    let mut world = World::new(BalancingPolicy::Ewma, &remote(&[1, 1]));
    for _ in 0..2 {
        // Nothing is known at first, so each gets its try; b is slow.
        let mut guard = world.pick();
        let took = if host(&guard) == "a" { 5 } else { 500 };
        guard.answered(StatusCode::OK, world.now + Duration::from_millis(took));
    }
    assert_eq!(world.shares(50), BTreeMap::from([("a".to_owned(), 50)]));
    // An error that comes fast is not an answer that comes fast.
    let mut guard = world.pick();
    guard.answered(StatusCode::BAD_GATEWAY, world.now + Duration::from_millis(1));
    drop(guard);
    assert_eq!(world.shares(50), BTreeMap::from([("b".to_owned(), 50)]));
    world.now += Duration::from_secs(120);
    let mut guard = world.pick();
    guard.answered(StatusCode::OK, world.now + Duration::from_millis(500));
    drop(guard);
    assert_eq!(
        world.shares(50),
        BTreeMap::from([("a".to_owned(), 50)]),
        "what failed long ago is tried again"
    );
}

#[test]
fn a_key_keeps_its_endpoint_and_only_the_keys_of_a_lost_endpoint_move() {
    let policy = || BalancingPolicy::RingHash(HashKey::Header("x-user".to_owned()));
    let of = |world: &World| -> Vec<String> {
        (0..2000).map(|user| host(&world.pick_with(&head("x-user", &format!("user-{user}")), &[]))).collect()
    };
    let four = World::new(policy(), &remote(&[10, 10, 10, 20]));
    let before = of(&four);
    assert_eq!(before, of(&World::new(policy(), &remote(&[10, 10, 10, 20]))), "the same on every worker");
    let count = |host: &str| before.iter().filter(|taken| *taken == host).count();
    for (host, expected) in [("a", 400), ("b", 400), ("c", 400), ("d", 800)] {
        assert!(count(host).abs_diff(expected) < 80, "{host}: {}", count(host));
    }
    let after = of(&World::new(policy(), &remote(&[10, 10, 0, 20])));
    for (before, after) in before.iter().zip(&after) {
        assert!(before == "c" || before == after, "{before} became {after}");
    }
    // Without the header there is no key: in turn.
    let shares: std::collections::BTreeSet<String> =
        (0..50).map(|_| host(&four.pick_with(&head("other", "x"), &[]))).collect();
    assert_eq!(shares.len(), 4);
}

#[test]
fn a_cookie_leads_back_to_its_endpoint() {
    let cookie = StickyCookie { name: "home".to_owned(), ttl: Some(Duration::from_secs(60)) };
    let world = World::new(BalancingPolicy::StickyCookie(cookie), &remote(&[1, 1, 1]));
    for _ in 0..6 {
        let first = world.pick_with(&head("cookie", "theme=dark"), &[]);
        let set = first.cookie().expect("a new client is given one").to_str().expect("text").to_owned();
        let (pair, attributes) = set.split_once(';').expect("attributes");
        assert_eq!(attributes, " Path=/books; HttpOnly; SameSite=Lax; Max-Age=60");
        for _ in 0..3 {
            let again = world.pick_with(&head("cookie", &format!("theme=dark; {pair}; x=y")), &[]);
            assert_eq!(host(&again), host(&first));
            assert_eq!(again.cookie(), None);
        }
        let elsewhere = world.pick_with(&head("cookie", pair), &[first.member().clone()]);
        assert_ne!(host(&elsewhere), host(&first), "it failed this request");
        assert!(elsewhere.cookie().is_some());
    }
    for forged in ["home=zzz", "home=", "home=0000000000000000", "homes=1"] {
        assert!(world.pick_with(&head("cookie", forged), &[]).cookie().is_some(), "{forged}");
    }
}

#[test]
fn the_own_zone_comes_first_and_spills_over_by_what_it_lacks() {
    let world = World::new(BalancingPolicy::RoundRobin, &[(10, true), (10, true), (10, false)]);
    assert_eq!(world.shares(20).get("c"), None);
    // Half of the zone's weight: 0.5 times 1.4 stays.
    let gone = world.group.members()[0].clone();
    let mut away = 0;
    for _ in 0..1000 {
        let guard = world.pick_with(&head("x", "y"), std::slice::from_ref(&gone));
        assert_ne!(host(&guard), "a");
        away += usize::from(host(&guard) == "c");
    }
    assert!((230..370).contains(&away), "{away} of 1000 left the zone");
    let none_here = World::new(BalancingPolicy::LeastRequest, &remote(&[1, 1]));
    assert_eq!(none_here.shares(100).len(), 2);
}

#[test]
fn a_zone_spills_over_by_plain_weights_while_somebody_comes_back_slowly() {
    let slowly = |definition: &mut UpstreamDefinition| {
        ejecting(1, 100, 0)(definition);
        definition.load_balancing.get_or_insert_default().slow_start = Some(Duration::from_secs(100));
    };
    let zones = [(1, true), (1, true), (1, false), (1, false)];
    let mut world = World::with(BalancingPolicy::RoundRobin, &zones, slowly);
    world.ends(2, StatusCode::SERVICE_UNAVAILABLE);
    world.now += Duration::from_secs(31);
    world.ends(0, StatusCode::SERVICE_UNAVAILABLE);
    let stayed = world.shares(1000).get("b").copied().unwrap_or_default();
    assert!((630..770).contains(&stayed), "{stayed} of 1000: half of the zone is usable");
}

#[test]
fn with_too_few_usable_zones_make_no_difference() {
    let zones = [(1, true), (1, false), (1, false), (1, false)];
    let world = World::with(BalancingPolicy::RoundRobin, &zones, ejecting(1, 100, 50));
    for index in 0..3 {
        world.ends(index, StatusCode::SERVICE_UNAVAILABLE);
    }
    assert_eq!(world.shares(8).len(), 4, "the zone's only endpoint is broken");
}

#[test]
fn of_idle_endpoints_each_is_taken_by_its_weight() {
    let world = World::new(BalancingPolicy::LeastRequest, &remote(&[100, 50]));
    let light = world.shares(1000).get("b").copied().unwrap_or_default();
    assert!((260..400).contains(&light), "{light} of 1000");
}

#[test]
fn what_was_tried_is_avoided_while_there_is_another() {
    let world = World::new(BalancingPolicy::RoundRobin, &remote(&[1, 1]));
    let first = world.pick();
    for _ in 0..5 {
        let second = world.pick_with(&head("x", "y"), &[first.member().clone()]);
        assert_ne!(host(&second), host(&first));
    }
    let all = world.group.members();
    let _any = world.pick_with(&head("x", "y"), &all);
}

#[tokio::test]
async fn an_endpoint_without_a_connection_to_give_is_passed_over() {
    let limited = |definition: &mut UpstreamDefinition| {
        definition.circuit_breaker = Some(CircuitBreaker {
            max_connections: Some(1),
            max_pending: Some(0),
            ..CircuitBreaker::default()
        });
    };
    let world = World::with(BalancingPolicy::RoundRobin, &remote(&[1, 1]), limited);
    let first = Picked::Guarded(world.pick());
    let connection = first.admit_connection().await.expect("the first").expect("counted");
    let busy = first.endpoint().host.to_string();
    assert_eq!(world.shares(10).get(&busy), None, "its only connection is in use");
    connection.set_idle(true);
    assert_eq!(world.shares(10).len(), 2);
}

#[test]
fn an_attempt_that_another_follows_leaves_room_for_it() {
    let limited = |definition: &mut UpstreamDefinition| {
        definition.circuit_breaker =
            Some(CircuitBreaker { max_requests: Some(1), ..CircuitBreaker::default() });
    };
    let world = World::with(BalancingPolicy::RoundRobin, &remote(&[1]), limited);
    let mut first = Picked::Guarded(world.pick());
    assert_eq!(world.try_pick(&head("x", "y"), &[]).err(), Some(Reason::Overflow));
    first.leave();
    let second = world.pick();
    drop(first);
    assert_eq!(second.member().state.load.requests(), 1, "counted once");
}

#[test]
fn a_request_is_under_way_until_its_guard_is_dropped() {
    let world = World::new(BalancingPolicy::RoundRobin, &remote(&[1, 1]));
    let active =
        |world: &World| -> u32 { world.group.members().iter().map(|m| m.state.load.requests()).sum() };
    let guards: Vec<Guard> = (0..3).map(|_| world.pick()).collect();
    assert_eq!(active(&world), 3);
    drop(guards);
    assert_eq!(active(&world), 0);
}

fn ejecting(after: u32, max_percent: u8, panic: u8) -> impl FnOnce(&mut UpstreamDefinition) {
    move |definition| {
        definition.outlier_detection = Some(OutlierDetection {
            consecutive_failures: after,
            failure_rate: None,
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejected_percent: max_percent,
        });
        let balancing = definition.load_balancing.get_or_insert_default();
        balancing.panic_threshold = Some(panic);
    }
}

#[test]
fn an_endpoint_that_fails_is_out_for_a_while_and_comes_back_slowly() {
    let slowly = |definition: &mut UpstreamDefinition| {
        ejecting(2, 50, 0)(definition);
        definition.load_balancing.get_or_insert_default().slow_start = Some(Duration::from_secs(100));
    };
    let mut world = World::with(BalancingPolicy::RoundRobin, &remote(&[1, 1]), slowly);
    world.ends(0, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(world.shares(10).len(), 2, "one failure is none");
    world.ends(0, StatusCode::BAD_GATEWAY);
    assert_eq!(world.shares(10), BTreeMap::from([("b".to_owned(), 10)]));
    world.now += Duration::from_secs(29);
    assert_eq!(world.shares(10).len(), 1);
    world.now += Duration::from_secs(1);
    // Back with a tenth, then with half: 10 against 100 and 50 against 100.
    assert_eq!(world.shares(110).get("a"), Some(&10));
    world.now += Duration::from_secs(50);
    assert_eq!(world.shares(150).get("a"), Some(&50));
    world.now += Duration::from_secs(50);
    assert_eq!(world.shares(10).get("a"), Some(&5));
    assert_eq!(world.group.members()[0].state.events.ejections.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[test]
fn no_more_than_so_many_are_out_at_once() {
    let world = World::with(BalancingPolicy::RoundRobin, &remote(&[1, 1, 1, 1]), ejecting(1, 50, 0));
    for index in 0..4 {
        world.ends(index, StatusCode::SERVICE_UNAVAILABLE);
    }
    let left: Vec<String> = world.shares(10).into_keys().collect();
    assert_eq!(left, ["c", "d"], "two of four is half");
    let world = World::with(BalancingPolicy::RoundRobin, &remote(&[1, 1]), ejecting(1, 10, 0));
    world.ends(0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(world.shares(10).len(), 1, "at least one may be out");
    let world = World::with(BalancingPolicy::RoundRobin, &remote(&[1, 1]), ejecting(1, 0, 0));
    world.ends(0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(world.shares(10).len(), 2, "unless none may");
}

#[test]
fn with_too_few_usable_all_are_used_unless_that_is_switched_off() {
    let panics = World::with(BalancingPolicy::RoundRobin, &remote(&[1, 1, 1]), ejecting(1, 100, 50));
    panics.ends(0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(panics.shares(12).len(), 2);
    panics.ends(1, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(panics.shares(12).len(), 3, "one of three is less than half");
    let opens = World::with(BalancingPolicy::RoundRobin, &remote(&[1]), ejecting(1, 100, 0));
    opens.ends(0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(opens.try_pick(&head("x", "y"), &[]).err(), Some(Reason::CircuitOpen));
}

#[test]
fn an_endpoint_is_given_no_more_requests_than_it_may_have() {
    let limited = |definition: &mut UpstreamDefinition| {
        definition.circuit_breaker =
            Some(CircuitBreaker { max_requests: Some(2), ..CircuitBreaker::default() });
    };
    // One here, one elsewhere: the zone is preferred only while it has room.
    let world = World::with(BalancingPolicy::RoundRobin, &[(1, true), (1, false)], limited);
    let held: Vec<Guard> = (0..4).map(|_| world.pick()).collect();
    let hosts: Vec<String> = held.iter().map(host).collect();
    assert_eq!(hosts, ["a", "a", "b", "b"]);
    assert_eq!(world.try_pick(&head("x", "y"), &[]).err(), Some(Reason::Overflow));
    drop(held);
    assert_eq!(host(&world.pick()), "a");
    let cookie = StickyCookie { name: "home".to_owned(), ttl: None };
    let world = World::with(BalancingPolicy::StickyCookie(cookie), &remote(&[1, 1]), limited);
    let first = world.pick();
    let pair =
        first.cookie().and_then(|set| set.to_str().ok()).map(|set| set.split(';').next().map(str::to_owned));
    let back = head("cookie", &pair.flatten().expect("a cookie"));
    let second = world.pick_with(&back, &[]);
    assert_eq!(host(&second), host(&first));
    assert_ne!(host(&world.pick_with(&back, &[])), host(&first), "its home is full");
}
