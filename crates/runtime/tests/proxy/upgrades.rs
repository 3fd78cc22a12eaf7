// SPDX-License-Identifier: Apache-2.0
//! Connections that switch to another protocol: real WebSocket ends, and upstreams that answer
//! to a question nobody asked.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode, Version};
use http_body_util::Empty;
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request as Asked, Response as Answered};
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::{WebSocketStream, accept_hdr_async, client_async};

use crate::support::backend::Backend;
use crate::support::{Gateway, PATIENCE, api, eventually, probes, raw};

/// An upstream that speaks WebSocket: it says what it saw of the handshake, then echoes.
async fn echo_server() -> Backend {
    Backend::listen(|stream, control| async move {
        let mut seen = String::new();
        #[expect(clippy::result_large_err, reason = "the library's own type")]
        let see = |asked: &Asked, answered: Answered| {
            let tag = asked.headers().get("x-tag").and_then(|tag| tag.to_str().ok()).unwrap_or("none");
            seen = format!("{} {tag}", asked.uri());
            Ok(answered)
        };
        // A plain request is no handshake: the connection closes and the gateway says 503.
        let Ok(mut socket) = accept_hdr_async(stream, see).await else { return };
        control.requests.fetch_add(1, Ordering::SeqCst);
        drop(socket.send(Message::text(seen)).await);
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() && socket.send(message).await.is_err() {
                return;
            }
        }
    })
    .await
}

type Socket = WebSocketStream<TcpStream>;

async fn open(gateway: &Gateway, path: &str) -> (Socket, Response<Option<Vec<u8>>>) {
    let stream = TcpStream::connect(gateway.http).await.expect("a connection");
    client_async(format!("ws://books.example{path}"), stream).await.expect("a handshake")
}

async fn next<S>(socket: &mut WebSocketStream<S>) -> String
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let message = tokio::time::timeout(PATIENCE, socket.next()).await.expect("a message in time");
    let message = message.expect("an open socket").expect("a sound message");
    message.into_text().expect("a text").as_str().to_owned()
}

fn ending(line: &Value) -> (&Value, &Value, &Value) {
    (&line["respCd"], &line["reason"], &line["respCdDtl"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_goes_through_with_its_policies_on_the_handshake() {
    let (gateway, upstream) = (Gateway::start().await, echo_server().await);
    let tagged = probes(&[json!({ "do": "tag", "value": "gold" })]);
    gateway.deploy(&[api("/ws", &upstream.url(), move |spec| spec["policies"] = tagged)]).await;

    let (mut socket, answer) = open(&gateway, "/ws/chat?room=1").await;
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(answer.headers()["x-tag"], "gold", "response policies see the handshake");
    assert_eq!(next(&mut socket).await, "/chat?room=1 gold", "routing and request policies as always");
    for text in ["one".to_owned(), "x".repeat(300_000)] {
        socket.send(Message::text(text.clone())).await.expect("a sent message");
        assert!(next(&mut socket).await == text, "{} bytes come back", text.len());
    }
    let metrics = gateway.door(gateway.running().addresses().metrics, "/metrics").await;
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(metrics.contains("ferrogate_runtime_tunnels_open 1.0"), "{metrics}");
    socket.close(None).await.expect("a close");
    while socket.next().await.is_some() {}
    drop(socket);

    let lines = gateway.log_lines(1).await;
    assert_eq!(ending(&lines[0]), (&json!(101), &Value::Null, &Value::Null), "{lines:?}");
    assert!(lines[0]["bytesRx"].as_u64() > Some(300_000), "{lines:?}");
    assert!(lines[0]["bytesTx"].as_u64() > Some(300_000), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_reaches_a_websocket_by_extended_connect() {
    let (gateway, upstream) = (Gateway::start().await, echo_server().await);
    gateway
        .deploy(&[
            api("/ws", &upstream.url(), |_| {}),
            api("/closed", &upstream.url(), |spec| {
                spec["operations"] = json!([{ "method": "GET", "path": "/*", "upgrades": [] }]);
            }),
        ])
        .await;
    let stream = TcpStream::connect(gateway.http).await.expect("a connection");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("a handshake");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { drop(connection.await) });
    let connect = |path: &str| {
        Request::builder()
            .method("CONNECT")
            .version(Version::HTTP_2)
            .uri(format!("http://books.example{path}"))
            .extension(Protocol::from_static("websocket"))
            .header("sec-websocket-version", "13")
            .body(Empty::<Bytes>::new())
            .expect("a request")
    };
    // The server's settings, which allow it, must have arrived.
    sender
        .send_request(Request::get("http://books.example/none").body(Empty::new()).expect("a request"))
        .await
        .expect("an answer");
    let mut answer = sender.send_request(connect("/ws/chat")).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(!answer.headers().contains_key("sec-websocket-accept"), "{:?}", answer.headers());
    let upgraded = hyper::upgrade::on(&mut answer).await.expect("a tunnel");
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await;
    assert_eq!(next(&mut socket).await, "/chat none");
    socket.send(Message::text("over HTTP/2")).await.expect("a sent message");
    assert_eq!(next(&mut socket).await, "over HTTP/2");
    socket.close(None).await.expect("a close");
    while socket.next().await.is_some() {}
    drop(socket);

    // Where the route allows none there is nothing that a CONNECT could mean instead.
    let refused = sender.send_request(connect("/closed/chat")).await.expect("an answer");
    assert_eq!(refused.status(), StatusCode::NOT_IMPLEMENTED);
    assert_eq!(upstream.control.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_counts_as_a_connection_until_it_ends() {
    let (gateway, upstream) = (Gateway::start().await, echo_server().await);
    let url = upstream.url();
    let limited = api("/ws", "http://unused", move |spec| {
        let breaker = json!({ "maxConnections": 1, "maxPending": 0 });
        let definition = json!({ "name": "one", "upstreams": [{ "url": url }], "circuitBreaker": breaker });
        spec["upstreamDefinitions"] = json!([definition]);
        spec["upstream"] = json!({ "main": { "ref": "one" } });
    });
    gateway.deploy(&[limited]).await;
    let (mut socket, _) = open(&gateway, "/ws/first").await;
    assert_eq!(next(&mut socket).await, "/first none");
    let refused = gateway.get("/ws/x").await;
    assert_eq!((refused.status.as_u16(), refused.reason().as_str()), (503, "overflow"));
    assert_eq!(upstream.connections.load(Ordering::SeqCst), 1);
    socket.close(None).await.expect("a close");
    while socket.next().await.is_some() {}
    drop(socket);
    // The tunnel's line is written when it has ended.
    gateway.log_lines(2).await;
    let (mut socket, _) = open(&gateway, "/ws/second").await;
    assert_eq!(next(&mut socket).await, "/second none");
}

const HANDSHAKE: &str = "host: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_that_the_route_does_not_allow_is_a_plain_request() {
    let (gateway, backend) = (Gateway::start().await, Backend::start().await);
    let body_policy = probes(&[json!({ "do": "buffer-request" })]);
    gateway
        .deploy(&[
            api("/seen", &backend.url(), move |spec| spec["policies"] = body_policy),
            api("/plain", &backend.url(), |spec| {
                spec["operations"] = json!([
                    { "method": "GET", "path": "/none", "upgrades": [] },
                    { "method": "GET", "path": "/other", "upgrades": ["chat/2"] },
                    { "method": "POST", "path": "/post" },
                    { "method": "GET", "path": "/default" },
                ]);
            }),
        ])
        .await;
    for (line, extra) in [
        ("GET /plain/none", ""),
        ("GET /plain/other", ""),
        ("POST /plain/post", "content-length: 0\r\n"),
        // Bytes that the policy would have to see.
        ("GET /seen/x", ""),
        // What comes before the switch could hide anything.
        ("GET /plain/default", "content-length: 3\r\n"),
    ] {
        let tail = if extra.contains("3") { "abc" } else { "" };
        let bytes = format!("{line} HTTP/1.1\r\n{HANDSHAKE}{extra}\r\n{tail}GET /x HTTP/1.0\r\n\r\n");
        let answer = raw(gateway.http, bytes.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{line}: {answer}");
        assert!(!answer.contains("\"upgrade\"") && !answer.contains("\"connection\""), "{line}: {answer}");
        assert!(answer.contains("sec-websocket-key"), "the rest passes: {line}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_must_switch_to_what_was_asked_for() {
    let gateway = Gateway::start().await;
    let other = Backend::scripted(&[&[
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
    ]])
    .await;
    let half =
        Backend::scripted(&[&["HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n"]]).await;
    let unasked = Backend::scripted(&[&[
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    ]])
    .await;
    let declines =
        Backend::scripted(&[&["HTTP/1.1 426 Upgrade Required\r\ncontent-length: 2\r\n\r\nno"]]).await;
    gateway
        .deploy(&[
            api("/other", &other.url(), |_| {}),
            api("/half", &half.url(), |_| {}),
            api("/unasked", &unasked.url(), |_| {}),
            api("/declines", &declines.url(), |_| {}),
        ])
        .await;
    for (context, headers, status) in [
        ("other", HANDSHAKE, "502"),
        ("half", HANDSHAKE, "502"),
        ("unasked", "host: h\r\n", "502"),
        ("declines", HANDSHAKE, "426"),
    ] {
        let bytes = format!("GET /{context}/x HTTP/1.1\r\n{headers}\r\nGET /x HTTP/1.0\r\n\r\n");
        let answer = raw(gateway.http, bytes.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{context}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_tunnel_ends_by_the_idle_timeout_and_not_by_the_requests() {
    let (gateway, upstream) = (Gateway::start().await, echo_server().await);
    let resilience = json!({ "timeout": "300ms", "idleTimeout": "1s" });
    gateway.deploy(&[api("/ws", &upstream.url(), move |spec| spec["resilience"] = resilience)]).await;
    let (mut socket, _) = open(&gateway, "/ws/x").await;
    let began = std::time::Instant::now();
    assert_eq!(next(&mut socket).await, "/x none");
    while began.elapsed() < Duration::from_millis(700) {
        socket.send(Message::text("still here")).await.expect("past the request's timeout");
        assert_eq!(next(&mut socket).await, "still here");
    }
    // Silence now: the gateway ends it.
    let end = tokio::time::timeout(PATIENCE, socket.next()).await.expect("an end in time");
    assert!(end.is_none_or(|message| message.is_err()));
    let lines = gateway.log_lines(1).await;
    assert_eq!(
        ending(&lines[0]),
        (&json!(101), &json!("stream_idle_timeout"), &json!("the tunnel was idle"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_waits_for_tunnels_up_to_its_deadline() {
    let gateway = Gateway::start_with(|config| config.drain_deadline = Duration::from_millis(300)).await;
    let upstream = echo_server().await;
    gateway.deploy(&[api("/ws", &upstream.url(), |_| {})]).await;
    let (mut socket, _) = open(&gateway, "/ws/x").await;
    assert_eq!(next(&mut socket).await, "/x none");
    let readiness = gateway.running().readiness().clone();
    let mut stopping = JoinSet::new();
    stopping.spawn(gateway.shutdown());
    eventually("the drain", || !readiness.is_ready()).await;
    socket.send(Message::text("while draining")).await.expect("a sent message");
    assert_eq!(next(&mut socket).await, "while draining");
    let drained = stopping.join_next().await.expect("a shutdown").expect("its report");
    assert_eq!(drained.cut_off, 1);
    let end = tokio::time::timeout(PATIENCE, socket.next()).await.expect("an end in time");
    assert!(end.is_none_or(|message| message.is_err()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_answers_late_takes_the_switch_back() {
    let (gateway, upstream) = (Gateway::start().await, echo_server().await);
    let late = probes(&[json!({ "do": "answer-late", "value": "no tunnel" })]);
    gateway.deploy(&[api("/ws", &upstream.url(), move |spec| spec["policies"] = late)]).await;
    let bytes = format!("GET /ws/x HTTP/1.1\r\n{HANDSHAKE}\r\nGET /x HTTP/1.0\r\n\r\n");
    let answer = raw(gateway.http, bytes.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 418 ") && answer.contains("no tunnel"), "{answer}");
    assert_eq!(gateway.get("/none").await.status, StatusCode::NOT_FOUND, "all else goes on");
}
