// SPDX-License-Identifier: Apache-2.0
//! Choosing and guarding upstream endpoints, with real sockets behind.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::backend::Backend;
use crate::support::{Client, Gateway, Reply, api, eventually, get};

/// An API at this context whose requests go to a definition over these backends with these
/// fields besides.
fn spread(context: &str, backends: &[&Backend], fields: &Value) -> Value {
    let targets: Vec<Value> = backends.iter().map(|backend| json!({ "url": backend.url() })).collect();
    let mut definition = json!({ "name": "spread", "upstreams": targets });
    definition.as_object_mut().expect("a map").extend(fields.as_object().expect("a map").clone());
    api(context, "http://unused", |spec| {
        spec["upstreamDefinitions"] = json!([definition]);
        spec["upstream"] = json!({ "main": { "ref": "spread" } });
    })
}

fn with_header(path: &str, name: &str, value: &str) -> Request<Full<Bytes>> {
    let mut request = get(path);
    request.headers_mut().insert(
        http::HeaderName::try_from(name).expect("a name"),
        http::HeaderValue::try_from(value).expect("a value"),
    );
    request
}

/// Which backend answered: it echoes the `Host` it was asked for.
fn served_by(reply: &Reply) -> String {
    reply.json()["headers"]["host"][0].as_str().expect("a host").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_keep_away_from_a_busy_endpoint() {
    let gateway = Gateway::start().await;
    let (busy, free) = (Backend::start().await, Backend::start().await);
    let fields = json!({ "loadBalancing": { "policy": "least-request" } });
    gateway.deploy(&[spread("/lr", &[&busy, &free], &fields)]).await;
    // Requests that hang until released: both backends get some, the counts stay level.
    let mut hanging = JoinSet::new();
    for count in 1..=10 {
        let http = gateway.http;
        hanging.spawn(async move { Client::connect(http).await.call(get("/lr/gate")).await });
        let arrived =
            || busy.control.requests.load(Ordering::SeqCst) + free.control.requests.load(Ordering::SeqCst);
        eventually("request at a backend", || arrived() >= count).await;
    }
    assert_eq!(busy.control.requests.load(Ordering::SeqCst), 5);
    free.control.gate.add_permits(5);
    for _ in 0..5 {
        let done = hanging.join_next().await.expect("a request").expect("no panic");
        assert_eq!(done.status, StatusCode::OK);
    }
    for _ in 0..5 {
        let reply = gateway.get("/lr/now").await;
        assert_eq!(served_by(&reply), free.address.to_string(), "the other has five to do");
    }
    busy.control.gate.add_permits(5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_cookies_lead_back_to_the_same_endpoint() {
    let gateway = Gateway::start().await;
    let (one, two, three) = (Backend::start().await, Backend::start().await, Backend::start().await);
    let backends = [&one, &two, &three];
    let by_header =
        json!({ "loadBalancing": { "policy": "ring-hash", "hashOn": "header", "name": "x-user" } });
    let by_cookie = json!({ "loadBalancing": { "policy": "sticky-cookie", "name": "home", "ttl": "1h" } });
    gateway.deploy(&[spread("/rh", &backends, &by_header), spread("/sc", &backends, &by_cookie)]).await;
    let mut homes = BTreeMap::new();
    for round in 0..3 {
        for user in 0..60 {
            let user = format!("user-{user}");
            let reply = gateway.call(with_header("/rh/x", "x-user", &user)).await;
            let home = homes.entry(user.clone()).or_insert_with(|| served_by(&reply));
            assert_eq!(*home, served_by(&reply), "{user} in round {round}");
        }
    }
    let used: std::collections::BTreeSet<&String> = homes.values().collect();
    assert_eq!(used.len(), 3, "sixty keys reach every endpoint");

    let first = gateway.get("/sc/x").await;
    let set = first.header("set-cookie").expect("a cookie").to_owned();
    assert!(set.ends_with("; Path=/sc; HttpOnly; SameSite=Lax; Max-Age=3600"), "{set}");
    let pair = set.split(';').next().expect("a pair");
    for _ in 0..6 {
        let again = gateway.call(with_header("/sc/x", "cookie", pair)).await;
        assert_eq!(served_by(&again), served_by(&first));
        assert_eq!(again.header("set-cookie"), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_fails_is_left_alone_and_a_deployment_does_not_forget() {
    let gateway = Gateway::start().await;
    let failing = Backend::scripted(&[&["HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n"]]).await;
    let sound = Backend::start().await;
    let fields = json!({ "outlierDetection": { "consecutiveFailures": 3, "baseEjectionTime": "10m", "maxEjectionTime": "10m" } });
    let document = spread("/out", &[&failing, &sound], &fields);
    gateway.deploy(std::slice::from_ref(&document)).await;
    let mut failed = 0;
    for _ in 0..20 {
        failed += usize::from(gateway.get("/out/x").await.status == StatusCode::INTERNAL_SERVER_ERROR);
    }
    assert_eq!(failed, 3);
    // The same API anew, with another beside it.
    gateway.deploy(&[document, api("/other", &sound.url(), |_| {})]).await;
    for _ in 0..6 {
        assert_eq!(gateway.get("/out/x").await.status, StatusCode::OK);
    }
    let metrics = gateway.door(gateway.running().addresses().metrics, "/metrics").await;
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(text.contains("ferrogate_runtime_upstream_endpoints_ejected 1.0"), "{text}");
    assert!(text.contains("ferrogate_runtime_upstream_ejections_total 1.0"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_cannot_be_reached_opens_the_circuit() {
    let gateway = Gateway::start().await;
    let gone = Backend::start().await.address;
    let fields = json!({
        "upstreams": [{ "url": format!("http://{gone}") }],
        "outlierDetection": { "consecutiveFailures": 2 },
        "loadBalancing": { "panicThreshold": 0 },
    });
    gateway.deploy(&[spread("/open", &[], &fields)]).await;
    for (reason, after) in
        [("upstream_connect_failed", None), ("upstream_connect_failed", None), ("circuit_open", Some("1"))]
    {
        let reply = gateway.get("/open/x").await;
        assert_eq!((reply.status, reply.reason().as_str()), (StatusCode::SERVICE_UNAVAILABLE, reason));
        assert_eq!(reply.header("retry-after"), after);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_beyond_the_limit_are_turned_away_at_once() {
    let (gateway, backend) = (Gateway::start().await, Backend::start().await);
    let fields = json!({ "circuitBreaker": { "maxRequests": 2 } });
    gateway.deploy(&[spread("/max", &[&backend], &fields)]).await;
    let mut hanging = JoinSet::new();
    for _ in 0..2 {
        let http = gateway.http;
        hanging.spawn(async move { Client::connect(http).await.call(get("/max/gate")).await });
    }
    eventually("both requests", || backend.control.requests.load(Ordering::SeqCst) == 2).await;
    let refused = gateway.get("/max/x").await;
    assert_eq!((refused.status.as_u16(), refused.reason().as_str()), (503, "overflow"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    backend.control.gate.add_permits(2);
    while let Some(done) = hanging.join_next().await {
        assert_eq!(done.expect("no panic").status, StatusCode::OK);
    }
    assert_eq!(gateway.get("/max/x").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_wait_for_a_connection_whichever_worker_has_it() {
    let (gateway, backend) = (Gateway::start_with(|config| config.workers = 2).await, Backend::start().await);
    let fields = json!({ "circuitBreaker": { "maxConnections": 1, "maxPending": 1 } });
    gateway.deploy(&[spread("/one", &[&backend], &fields)]).await;
    let call = |path: &'static str| {
        let http = gateway.http;
        async move { Client::connect(http).await.call(get(path)).await }
    };
    let mut hanging = JoinSet::new();
    hanging.spawn(call("/one/gate"));
    eventually("the first request", || backend.control.requests.load(Ordering::SeqCst) == 1).await;
    hanging.spawn(call("/one/gate"));
    let metrics = gateway.running().addresses().metrics;
    loop {
        let text = gateway.door(metrics, "/metrics").await.body;
        if String::from_utf8_lossy(&text).contains("ferrogate_runtime_upstream_pending 1.0") {
            break;
        }
    }
    let refused = call("/one/x").await;
    assert_eq!((refused.status.as_u16(), refused.reason().as_str()), (503, "overflow"));
    assert_eq!(backend.connections.load(Ordering::SeqCst), 1);
    backend.control.gate.add_permits(2);
    while let Some(done) = hanging.join_next().await {
        assert_eq!(done.expect("no panic").status, StatusCode::OK);
    }
    // An idle connection of one worker makes room for the other's request.
    for _ in 0..20 {
        let within = tokio::time::timeout(Duration::from_secs(4), call("/one/x"));
        assert_eq!(within.await.expect("not stuck behind an idle connection").status, StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_lies_idle_on_another_worker_turns_nobody_away() {
    let (gateway, backend) = (Gateway::start_with(|config| config.workers = 2).await, Backend::start().await);
    let fields = json!({ "circuitBreaker": { "maxConnections": 1, "maxPending": 0 } });
    gateway.deploy(&[spread("/one", &[&backend], &fields)]).await;
    // Each on a connection of its own, so that both workers get some; one at a time.
    for count in 0..20 {
        let reply = gateway.get("/one/x").await;
        assert_eq!(reply.status, StatusCode::OK, "request {count}: {reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_wait_use_the_connections_that_are_given_back() {
    let (gateway, backend) = (Gateway::start_with(|config| config.workers = 1).await, Backend::start().await);
    let fields = json!({ "circuitBreaker": { "maxConnections": 2 } });
    gateway.deploy(&[spread("/two", &[&backend], &fields)]).await;
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        let http = gateway.http;
        clients.spawn(async move {
            for _ in 0..20 {
                let reply = Client::connect(http).await.call(get("/two/x")).await;
                assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.expect("no panic");
    }
    let opened = backend.connections.load(Ordering::SeqCst);
    assert!(opened <= 2, "{opened} connections for requests of one worker");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_connections_holds_whatever_others_have_opened_to_the_same_backend() {
    let (gateway, backend) = (Gateway::start_with(|config| config.workers = 1).await, Backend::start().await);
    let limited = |most: u32| json!({ "circuitBreaker": { "maxConnections": most, "maxPending": 0 } });
    let wide = spread("/wide", &[&backend], &limited(4));
    gateway.deploy(&[wide, spread("/one", &[&backend], &limited(1))]).await;
    let call = |path: &'static str| {
        let http = gateway.http;
        async move { Client::connect(http).await.call(get(path)).await }
    };
    let mut hanging = JoinSet::new();
    (0..3).for_each(|_| drop(hanging.spawn(call("/wide/gate"))));
    eventually("three requests", || backend.control.requests.load(Ordering::SeqCst) == 3).await;
    backend.control.gate.add_permits(3);
    while let Some(done) = hanging.join_next().await {
        assert_eq!(done.expect("no panic").status, StatusCode::OK);
    }
    // Three connections are idle now, and none of them is this one's to use.
    hanging.spawn(call("/one/gate"));
    eventually("the fourth request", || backend.control.requests.load(Ordering::SeqCst) == 4).await;
    let refused = call("/one/x").await;
    assert_eq!((refused.status.as_u16(), refused.reason().as_str()), (503, "overflow"));
    assert_eq!(backend.connections.load(Ordering::SeqCst), 4);
    backend.control.gate.add_permits(1);
    while let Some(done) = hanging.join_next().await {
        assert_eq!(done.expect("no panic").status, StatusCode::OK);
    }
    assert_eq!(call("/wide/x").await.status, StatusCode::OK);
    assert_eq!(backend.connections.load(Ordering::SeqCst), 4, "one of its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_is_not_well_gets_no_requests_until_it_is() {
    let gateway = Gateway::start().await;
    let (ill, well) = (Backend::start().await, Backend::start().await);
    let check = |path: &str| {
        json!({
            "loadBalancing": { "policy": "least-request", "panicThreshold": 0 },
            "healthCheck": {
                "type": "http", "path": path, "interval": "2s", "timeout": "2s",
                "healthyThreshold": 1, "unhealthyThreshold": 1,
            },
        })
    };
    // What the backend answers is in the path: one of them is asked for another port's health.
    let mut document = spread("/hc", &[&well], &check("/status/200"));
    gateway.deploy(&[document.clone(), spread("/ill", &[&ill], &check("/status/503"))]).await;
    let admin = gateway.running().addresses().admin;
    loop {
        let status = gateway.door(admin, "/status").await.json();
        let checks = status["healthChecks"].as_array().expect("a list").clone();
        let state = |backend: &Backend| {
            let endpoint = backend.url();
            checks.iter().find(|check| check["endpoint"] == endpoint).map(|check| check["state"].clone())
        };
        if state(&well) == Some(json!("healthy")) && state(&ill) == Some(json!("unhealthy")) {
            let error = checks.iter().find_map(|check| check["error"].as_str());
            assert_eq!(error, Some("status 503"));
            break;
        }
    }
    let refused = gateway.get("/ill/x").await;
    assert_eq!((refused.status.as_u16(), refused.reason().as_str()), (503, "circuit_open"));
    assert_eq!(gateway.get("/hc/x").await.status, StatusCode::OK);
    // A question that it answers well: the same endpoint, asked in another way.
    document = spread("/ill", &[&ill], &check("/status/204"));
    gateway.deploy(&[document]).await;
    loop {
        if gateway.get("/ill/x").await.status == StatusCode::OK {
            break;
        }
    }
    let status = gateway.door(admin, "/status").await.json();
    assert_eq!(status["healthChecks"].as_array().map(Vec::len), Some(1), "the others ended: {status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_nobody_listens_on_is_not_well() {
    let gateway = Gateway::start().await;
    let gone = Backend::start().await.address;
    for kind in ["tcp", "grpc"] {
        let fields = json!({
            "upstreams": [{ "url": format!("http://{gone}") }],
            "loadBalancing": { "panicThreshold": 0 },
            "healthCheck": { "type": kind, "interval": "2s", "timeout": "2s" },
        });
        gateway.deploy(&[spread("/gone", &[], &fields)]).await;
        loop {
            if gateway.get("/gone/x").await.reason() == "circuit_open" {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_service_is_asked_by_its_name() {
    let gateway = Gateway::start().await;
    let grpc = Backend::listen(|stream, _| async move {
        let service = service_fn(|request: Request<Incoming>| async move {
            let asked = request.into_body().collect().await.expect("a whole question").to_bytes();
            let serving = if asked.ends_with(b"books.Shelf") { 1 } else { 2 };
            let message = Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, serving]);
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().expect("a value"));
            let frames = [Ok::<_, Infallible>(Frame::data(message)), Ok(Frame::trailers(trailers))];
            Ok::<_, Infallible>(Response::new(StreamBody::new(futures::stream::iter(frames))))
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        drop(server.serve_connection(TokioIo::new(stream), service).await);
    })
    .await;
    let asking = |context: &str, service: &str| {
        spread(context, &[&grpc], &json!({ "healthCheck": { "type": "grpc", "service": service } }))
    };
    let state_of = async |document: Value| {
        gateway.deploy(&[document]).await;
        loop {
            let status = gateway.door(gateway.running().addresses().admin, "/status").await.json();
            let check = status["healthChecks"].get(0).cloned().unwrap_or_default();
            if check["state"].as_str().is_some_and(|state| state != "unknown") {
                return check;
            }
        }
    };
    let shelf = state_of(asking("/shelf", "books.Shelf")).await;
    assert_eq!(shelf["state"], "healthy", "{shelf}");
    let desk = state_of(asking("/desk", "books.Desk")).await;
    assert_eq!(desk["state"], "unhealthy");
    assert_eq!(desk["error"], "the service is not serving (status 2)");
}
