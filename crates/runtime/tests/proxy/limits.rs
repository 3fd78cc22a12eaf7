// SPDX-License-Identifier: Apache-2.0
//! What happens when a limit is full: by raw sockets, with the metric that tells of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ferrogate_runtime::config::Limits;
use http::StatusCode;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::backend::Backend;
use crate::support::{Client, Gateway, PATIENCE, api, eventually, get, raw};

async fn with(edit: impl FnOnce(&mut Limits)) -> (Gateway, Backend) {
    let gateway = Gateway::start_with(|config| edit(&mut config.limits)).await;
    let backend = Backend::start().await;
    gateway.deploy(&[api("/l", &backend.url(), |_| {})]).await;
    (gateway, backend)
}

async fn metric(gateway: &Gateway, name: &str) -> u64 {
    let metrics = gateway.door(gateway.running().addresses().metrics, "/metrics").await;
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    assert!(line.is_some(), "{name} is missing in\n{text}");
    line.unwrap_or_default()
}

async fn failures(gateway: &Gateway, reason: &str) -> u64 {
    metric(gateway, &format!("ferrogate_runtime_failures_total{{reason=\"{reason}\"}}")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_too_long_is_414() {
    let (gateway, backend) = with(|limits| limits.max_uri_bytes = 300).await;
    for (length, status) in [(300, "200 "), (301, "414 ")] {
        let path = format!("/l/{}", "x".repeat(length - 3));
        let sent = format!("GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
        let answer = raw(gateway.http, sent.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{length}: {answer}");
        assert_eq!(answer.contains(r#""reason":"uri_too_long""#), status == "414 ", "{answer}");
    }
    assert_eq!(backend.control.requests.load(Ordering::SeqCst), 1);
    eventually_failures(&gateway, "uri_too_long", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_with_too_much_in_it_is_431() {
    let (gateway, backend) = with(|limits| {
        limits.max_headers = 10;
        limits.max_head_bytes = 8192;
    })
    .await;
    let many: String = (0..11).map(|number| format!("x-{number}: 1\r\n")).collect();
    for headers in [many, format!("x-long: {}\r\n", "y".repeat(9000))] {
        let sent = format!("GET /l/x HTTP/1.1\r\nhost: h\r\n{headers}connection: close\r\n\r\n");
        let answer = raw(gateway.http, sent.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    // HTTP/2 has the same limit.
    let io = hyper_util::rt::TokioIo::new(TcpStream::connect(gateway.http).await.expect("a connection"));
    let handshake = hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io);
    let (mut sender, connection) = handshake.await.expect("a handshake");
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    for (fields, status) in [(11, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE), (10, StatusCode::OK)] {
        let asked = (0..fields)
            .fold(http::Request::get("http://h/l/x"), |asked, n| asked.header(format!("x-{n}"), "1"));
        let asked = asked.body(http_body_util::Full::<bytes::Bytes>::default()).expect("a request");
        assert_eq!(sender.send_request(asked).await.expect("an answer").status(), status, "{fields}");
    }
    assert_eq!(backend.control.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_too_long_is_413_however_it_comes() {
    let (gateway, backend) = with(|limits| limits.max_request_body_bytes = Some(10)).await;
    let post = |framing: &str, body: &str| {
        format!("POST /l/x HTTP/1.1\r\nhost: h\r\nconnection: close\r\n{framing}\r\n\r\n{body}")
    };
    for (framing, body, status) in [
        ("content-length: 10", "0123456789", 200),
        ("content-length: 11", "0123456789a", 413),
        ("transfer-encoding: chunked", "a\r\n0123456789\r\n0\r\n\r\n", 200),
        ("transfer-encoding: chunked", "a\r\n0123456789\r\n1\r\na\r\n0\r\n\r\n", 413),
    ] {
        let answer = raw(gateway.http, post(framing, body).as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{framing} {body}: {answer}");
        assert_eq!(answer.contains(r#""reason":"request_body_too_large""#), status == 413, "{answer}");
    }
    eventually_failures(&gateway, "request_body_too_large", 2).await;
    assert!(backend.control.requests.load(Ordering::SeqCst) >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_heads_and_slow_bodies_are_408() {
    let gateway = Gateway::start_with(|config| config.limits.head_timeout = Duration::from_millis(200)).await;
    let backend = Backend::start().await;
    let resilience = json!({ "timeout": "400ms", "idleTimeout": "0s" });
    gateway.deploy(&[api("/l", &backend.url(), |spec| spec["resilience"] = resilience)]).await;
    let head = raw(gateway.http, b"GET /l/x HTTP/1.1\r\nhost: h\r\nx-sl").await;
    assert!(head.starts_with("HTTP/1.1 408 ") && head.contains(r#""reason":"request_timeout""#), "{head}");
    let body = raw(gateway.http, b"POST /l/x HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nslow").await;
    assert!(body.starts_with("HTTP/1.1 408 ") && body.contains(r#""reason":"request_timeout""#), "{body}");
    eventually_failures(&gateway, "request_timeout", 2).await;
    // Who says nothing at all is not slow: nothing has begun.
    let mut silent = TcpStream::connect(gateway.http).await.expect("a connection");
    let said = tokio::time::timeout(Duration::from_millis(500), silent.read_u8()).await;
    assert!(said.is_err(), "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_carries_so_many_requests() {
    let (gateway, _backend) = with(|limits| limits.max_requests_per_connection = Some(3)).await;
    let mut client = Client::connect(gateway.http).await;
    for number in 1..=3 {
        let reply = client.call(get("/l/x")).await;
        let last = (number == 3).then_some("close");
        assert_eq!((reply.status, reply.header("connection")), (StatusCode::OK, last), "{number}");
    }
    assert!(client.send(get("/l/x")).await.is_err(), "a fourth request");

    let io = hyper_util::rt::TokioIo::new(TcpStream::connect(gateway.http).await.expect("a connection"));
    let handshake = hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io);
    let (mut sender, connection) = handshake.await.expect("a handshake");
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    for _ in 0..3 {
        let request =
            http::Request::get("http://h/l/x").body(http_body_util::Full::<bytes::Bytes>::default());
        let response = sender.send_request(request.expect("a request")).await.expect("a response");
        assert_eq!(crate::support::read(response).await.status, StatusCode::OK);
    }
    let ended = tokio::time::timeout(PATIENCE, tasks.join_next()).await.expect("GOAWAY").expect("a task");
    assert!(ended.expect("no panic").is_ok(), "the connection ends in order");
    assert_eq!(metric(&gateway, "ferrogate_runtime_connections_spent_total").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_limit_wait_until_one_is_free() {
    let (gateway, _backend) = with(|limits| limits.max_connections = 2).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(gateway.http).await;
        assert_eq!(client.call(get("/l/x")).await.status, StatusCode::OK);
        held.push(client);
    }
    let mut third = Client::connect(gateway.http).await;
    let early = tokio::time::timeout(Duration::from_millis(300), third.send(get("/l/x"))).await;
    assert!(early.is_err(), "served beyond the limit");
    assert!(metric(&gateway, "ferrogate_runtime_accept_paused_total").await > 0);
    let mut fourth = Client::connect(gateway.http).await;
    held.clear();
    assert_eq!(fourth.call(get("/l/x")).await.status, StatusCode::OK);
}

/// Frames of HTTP/2: length, type, flags, stream.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Whether the gateway says GOAWAY before it closes, and with which code.
async fn goaway(mut stream: TcpStream) -> Option<u32> {
    loop {
        let mut head = [0; 9];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut head)).await.expect("an end in time").ok()?;
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        stream.read_exact(&mut payload).await.ok()?;
        if head[3] == 7 {
            return Some(u32::from_be_bytes(payload[4..8].try_into().expect("four bytes")));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_resets_what_it_asks_for_loses_its_connection() {
    const ENHANCE_YOUR_CALM: u32 = 11;
    let (gateway, _backend) = with(|limits| limits.max_h2_resets = 10).await;
    let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    flood.extend(frame(4, 0, 0, &[]));
    // :method GET, :scheme http, :path /, :authority h
    let head = [0x82, 0x86, 0x84, 0x01, 0x01, b'h'];
    for number in 0..2_000 {
        flood.extend(frame(1, 5, 2 * number + 1, &head));
        flood.extend(frame(3, 0, 2 * number + 1, &[0, 0, 0, 8]));
    }
    let mut stream = TcpStream::connect(gateway.http).await.expect("a connection");
    drop(stream.write_all(&flood).await);
    assert_eq!(goaway(stream).await, Some(ENHANCE_YOUR_CALM));
    assert_eq!(gateway.get("/l/x").await.status, StatusCode::OK, "others are served");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_settings_and_pings_holds_up_nobody_else() {
    let (gateway, _backend) = with(|_| {}).await;
    let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    flood.extend(frame(4, 0, 0, &[]));
    let once = [frame(4, 0, 0, &[0, 3, 0, 0, 0, 9]), frame(6, 0, 0, &[7; 8])].concat();
    let mut stream = TcpStream::connect(gateway.http).await.expect("a connection");
    stream.write_all(&flood).await.expect("sent");
    // Nobody reads the acknowledgements: once the socket is full, the gateway stops reading as
    // well, instead of keeping answers in memory.
    let mut sent = 0;
    let block = once.repeat(1_000);
    while let Ok(Ok(bytes)) = tokio::time::timeout(Duration::from_millis(500), stream.write(&block)).await {
        sent += bytes;
        assert!(sent < 256 << 20, "the flood is swallowed without end");
        if sent > 64 << 20 {
            break;
        }
    }
    assert_eq!(gateway.get("/l/x").await.status, StatusCode::OK, "others are served");
}

async fn eventually_failures(gateway: &Gateway, reason: &str, count: u64) {
    let deadline = Instant::now() + PATIENCE;
    while failures(gateway, reason).await != count {
        assert!(Instant::now() < deadline, "{reason} was not counted {count} times");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_requests_than_allowed_at_once_are_shed_at_once() {
    let gateway = Gateway::start_with(|config| {
        config.workers = 1;
        config.limits.max_requests_in_flight = 4;
    })
    .await;
    let backend = Backend::start().await;
    gateway.deploy(&[api("/l", &backend.url(), |_| {})]).await;
    let address = gateway.http;
    let mut waiting = JoinSet::new();
    for _ in 0..4 {
        waiting.spawn(async move { Client::connect(address).await.call(get("/l/gate")).await.status });
    }
    eventually("four at the upstream", || backend.control.requests.load(Ordering::SeqCst) == 4).await;
    let shed = gateway.get("/l/x").await;
    assert_eq!((shed.status.as_u16(), shed.reason().as_str()), (503, "overloaded"));
    assert_eq!(shed.header("retry-after"), Some("1"));
    assert_eq!(gateway.get("/_gateway-health/ready").await.status, StatusCode::OK, "probes are not shed");
    backend.control.gate.add_permits(4);
    while let Some(status) = waiting.join_next().await {
        assert_eq!(status.expect("a reply"), StatusCode::OK);
    }
    assert_eq!(gateway.get("/l/x").await.status, StatusCode::OK);
    eventually_failures(&gateway, "overloaded", 1).await;
}

/// Work that keeps a worker from its other work is what lag is made of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_behind_sheds_until_it_has_caught_up() {
    let gateway = Gateway::start_with(|config| {
        config.workers = 1;
        config.limits.max_lag = Some(Duration::from_millis(150));
    })
    .await;
    let backend = Backend::start().await;
    let slow = crate::support::probes(&[json!({ "do": "block", "value": "30" })]);
    gateway.deploy(&[api("/l", &backend.url(), |spec| spec["policies"] = slow)]).await;
    let address = gateway.http;
    let mut clients = JoinSet::new();
    for _ in 0..40 {
        clients.spawn(async move {
            let mut client = Client::connect(address).await;
            let mut replies = Vec::new();
            for _ in 0..3 {
                replies.push(client.call(get("/l/x")).await);
            }
            replies
        });
    }
    let mut replies = Vec::new();
    while let Some(ended) = clients.join_next().await {
        replies.extend(ended.expect("replies"));
    }
    let (served, shed): (Vec<_>, Vec<_>) = replies.into_iter().partition(|reply| reply.status == 200);
    assert!(!served.is_empty() && !shed.is_empty(), "{} served, {} shed", served.len(), shed.len());
    for reply in shed {
        assert_eq!((reply.status.as_u16(), reply.reason().as_str()), (503, "overloaded"));
        assert_eq!(reply.header("retry-after"), Some("1"));
    }
    // Nobody has to say that it is over.
    let deadline = Instant::now() + PATIENCE;
    while gateway.get("/l/x").await.status != StatusCode::OK {
        assert!(Instant::now() < deadline, "still shedding");
    }
}

/// Answers in time, of clients that come four times as fast as their upstream can serve and
/// wait for a second.
async fn goodput(most: usize) -> usize {
    const MS_EACH: u64 = 20;
    let gateway = Gateway::start_with(|config| {
        config.workers = 1;
        config.limits.max_requests_in_flight = most;
    })
    .await;
    let backend = Backend::start().await;
    backend.control.gate.add_permits(1);
    gateway.deploy(&[api("/l", &backend.url(), |_| {})]).await;
    let good = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    let mut tick = tokio::time::interval(Duration::from_millis(MS_EACH / 4));
    for _ in 0..800 {
        tick.tick().await;
        let (address, good) = (gateway.http, good.clone());
        clients.spawn(async move {
            let asked =
                async move { Client::connect(address).await.call(get(&format!("/l/turn/{MS_EACH}"))).await };
            // Nobody cancels at the upstream: what was queued there is served for nobody.
            let mut asking = JoinSet::new();
            asking.spawn(asked);
            let reply = tokio::time::timeout(Duration::from_secs(1), asking.join_next()).await;
            if reply
                .is_ok_and(|reply| reply.is_some_and(|reply| reply.is_ok_and(|reply| reply.status == 200)))
            {
                good.fetch_add(1, Ordering::SeqCst);
            }
            asking.detach_all();
        });
    }
    while clients.join_next().await.is_some() {}
    good.load(Ordering::SeqCst)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_overload_shedding_keeps_the_goodput() {
    let (shedding, queueing) = (goodput(10).await, goodput(100_000).await);
    // Of eight hundred, two hundred could be served in time; how many are, the machine decides.
    assert!(shedding > 2 * queueing, "{shedding} with shedding, {queueing} without");
}
