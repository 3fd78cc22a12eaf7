// SPDX-License-Identifier: Apache-2.0
//! Swaps under traffic, drain, and a start that cannot work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ferrogate_policy::{Registry, Services};
use ferrogate_runtime::config::Config;
use ferrogate_runtime::run::Runtime;
use http::StatusCode;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::support::backend::Backend;
use crate::support::{Client, Gateway, api, eventually, get, probes};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaps_under_traffic_fail_no_request_and_mix_no_versions() {
    const SWAPS: u64 = 300;
    let (gateway, backend) = (Arc::new(Gateway::start().await), Backend::start().await);
    let version = |number: u64| {
        let policies = probes(&[json!({ "do": "tag", "value": number.to_string() })]);
        api("/v", &format!("{}/base{number}", backend.url()), move |spec| spec["policies"] = policies)
    };
    gateway.deploy(&[version(0)]).await;
    let (done, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        let (address, done, seen) = (gateway.http, done.clone(), seen.clone());
        clients.spawn(async move {
            let mut client = Client::connect(address).await;
            let mut last = 0;
            while !done.load(Ordering::SeqCst) {
                let reply = client.call(get("/v/x")).await;
                assert_eq!(reply.status, StatusCode::OK);
                let tag: u64 = reply.header("x-tag").and_then(|tag| tag.parse().ok()).expect("a version");
                let echoed = reply.json();
                assert_eq!(echoed["headers"]["x-tag"], json!([tag.to_string()]), "one request, two versions");
                assert_eq!(echoed["path"], format!("/base{tag}/x"), "one request, two versions");
                assert!(tag >= last, "a connection went back from {last} to {tag}");
                last = tag;
                seen.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    for number in 1..=SWAPS {
        gateway.deploy(&[version(number)]).await;
    }
    // An update that was applied serves every request that starts afterwards.
    assert_eq!(gateway.get("/v/x").await.header("x-tag"), Some(SWAPS.to_string().as_str()));
    let before = seen.load(Ordering::SeqCst);
    eventually("traffic after the last swap", || seen.load(Ordering::SeqCst) > before + 8).await;
    done.store(true, Ordering::SeqCst);
    while let Some(client) = clients.join_next().await {
        client.expect("no client failed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_finishes_what_is_in_flight_and_takes_nothing_new() {
    // Idle connections stay a tenth of it: time enough to use one of them.
    let deadline = |config: &mut Config| config.drain_deadline = Duration::from_secs(40);
    let (gateway, backend) = (Gateway::start_with(deadline).await, Backend::start().await);
    gateway.deploy(&[api("/g", &backend.url(), |_| {})]).await;
    let address = gateway.http;
    let readiness = gateway.running().readiness().clone();
    let (mut kept, mut silent) = (Client::connect(address).await, Client::connect(address).await);
    for idle in [&mut kept, &mut silent] {
        assert_eq!(idle.call(get("/g/x")).await.status, StatusCode::OK);
    }
    let mut busy = JoinSet::new();
    busy.spawn(async move { Client::connect(address).await.call(get("/g/gate")).await });
    let control = backend.control.clone();
    eventually("the request at the upstream", || control.requests.load(Ordering::SeqCst) >= 3).await;

    let mut stopping = JoinSet::new();
    stopping.spawn(gateway.shutdown());
    eventually("unreadiness", || !readiness.is_ready()).await;
    // The kernel refuses once every worker has closed its listener.
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(address).await.is_ok() {
        assert!(std::time::Instant::now() < deadline, "still accepting");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // A request that crosses the drain on its way is answered, and the last of its connection.
    let last = kept.call(get("/g/x")).await;
    assert_eq!((last.status, last.header("connection")), (StatusCode::OK, Some("close")));
    assert!(kept.send(get("/g/x")).await.is_err(), "the connection is closed");
    control.gate.add_permits(1);
    let reply = busy.join_next().await.expect("a request").expect("a reply");
    assert_eq!((reply.status, reply.header("connection")), (StatusCode::OK, Some("close")));
    let drained = stopping.join_next().await.expect("a shutdown").expect("its report");
    assert_eq!(drained.cut_off, 0);
    assert!(silent.send(get("/g/x")).await.is_err(), "an idle connection is closed in the end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_serves_on_until_balancers_had_time_to_notice() {
    let delay = |config: &mut Config| config.drain_delay = Duration::from_secs(3600);
    let (gateway, backend) = (Gateway::start_with(delay).await, Backend::start().await);
    gateway.deploy(&[api("/g", &backend.url(), |_| {})]).await;
    let (address, forced) = (gateway.http, gateway.running().force());
    let readiness = gateway.running().readiness().clone();
    let mut kept = Client::connect(address).await;
    assert_eq!(kept.call(get("/g/x")).await.status, StatusCode::OK);

    let mut stopping = JoinSet::new();
    stopping.spawn(gateway.shutdown());
    eventually("unreadiness", || !readiness.is_ready()).await;
    assert_eq!(kept.call(get("/g/x")).await.status, StatusCode::OK);
    assert_eq!(Client::connect(address).await.call(get("/g/x")).await.status, StatusCode::OK);
    forced.cancel();
    let drained = stopping.join_next().await.expect("a shutdown").expect("its report");
    assert_eq!(drained.cut_off, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_at_its_deadline_or_when_forced() {
    for force in [false, true] {
        let gateway = Gateway::start_with(|config| {
            config.drain_deadline =
                if force { Duration::from_secs(3600) } else { Duration::from_millis(200) };
        })
        .await;
        let backend = Backend::start().await;
        gateway.deploy(&[api("/g", &backend.url(), |_| {})]).await;
        let address = gateway.http;
        let forced = gateway.running().force();
        let mut stuck = JoinSet::new();
        stuck.spawn(async move { Client::connect(address).await.send(get("/g/never")).await.is_err() });
        eventually("the request at the upstream", || backend.control.requests.load(Ordering::SeqCst) >= 1)
            .await;
        let readiness = gateway.running().readiness().clone();
        let mut stopping = JoinSet::new();
        stopping.spawn(gateway.shutdown());
        if force {
            eventually("the drain", || !readiness.is_ready()).await;
            forced.cancel();
        }
        let drained = stopping.join_next().await.expect("a shutdown").expect("its report");
        assert_eq!(drained.cut_off, 1, "force {force}");
        assert!(stuck.join_next().await.expect("a request").expect("its end"), "force {force}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_one_clear_error() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = taken.local_addr().expect("an address");
    let mut config = Config::default();
    config.listen.http = Some(address);
    let registry = Arc::new(Registry::new(Vec::new()).expect("a registry"));
    let services = Services::in_memory();
    let error = Runtime::start(config, registry, services).await.err().expect("no start");
    let expected =
        format!("runtime.listen.http: cannot listen on {address} (HTTP traffic): the port is already taken");
    assert_eq!(error.to_string(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_heads_and_idle_connections_are_ended() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let gateway = Gateway::start_with(|config| {
        config.limits.head_timeout = Duration::from_millis(200);
        config.limits.idle_timeout = Duration::from_millis(600);
    })
    .await;
    gateway.deploy(&[]).await;
    for sent in ["", "GET /x HT", "GET /x HTTP/1.1\r\nhost: h\r\n\r\n"] {
        let mut stream = TcpStream::connect(gateway.http).await.expect("a connection");
        stream.write_all(sent.as_bytes()).await.expect("sent bytes");
        let mut answer = String::new();
        let reading = stream.read_to_string(&mut answer);
        tokio::time::timeout(crate::support::PATIENCE, reading).await.expect("a close").expect("text");
        assert_eq!(answer.starts_with("HTTP/1.1 404"), sent.ends_with("\r\n\r\n"), "{sent:?}: {answer:?}");
    }
}
