// SPDX-License-Identifier: Apache-2.0
//! Upstreams that speak HTTP/2: shared connections, and what happens when they go away, refuse
//! or run out of room.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::Reason;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::support::backend::{Backend, Control, serve, serve_h2};
use crate::support::pki::{self, Authority};
use crate::support::{Gateway, PATIENCE, api, eventually, get, raw, request};

fn speaks(protocol: &str) -> impl FnOnce(&mut Value) {
    let protocol = json!(protocol);
    move |spec| spec["upstream"]["main"]["protocol"] = protocol
}

async fn h2c_backend() -> Backend {
    Backend::listen(|stream, control| async move { serve_h2(stream, control).await }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_share_one_connection() {
    let gateway = Arc::new(Gateway::start_with(|config| config.workers = 1).await);
    let backend = h2c_backend().await;
    gateway.deploy(&[api("/h2", &backend.url(), speaks("http2"))]).await;
    // They begin at once, before there is a connection, and are all open at the same time.
    let mut calls = JoinSet::new();
    for _ in 0..40 {
        let gateway = gateway.clone();
        calls.spawn(async move { gateway.get("/h2/gate/x").await });
    }
    let seen = || backend.control.requests.load(Ordering::SeqCst) == 40;
    eventually("forty requests at the upstream", seen).await;
    assert_eq!(backend.connections.load(Ordering::SeqCst), 1);
    backend.control.gate.add_permits(40);
    while let Some(reply) = calls.join_next().await {
        let reply = reply.expect("a call");
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
        let seen = reply.json();
        assert_eq!(seen["path"], format!("http://{}/gate/x", backend.address));
        for hop in ["connection", "host", "transfer-encoding"] {
            assert!(seen["headers"].get(hop).is_none(), "{hop} in {seen}");
        }
    }
    // Bodies pass in both directions, at each other's pace.
    let body = vec![b'x'; 1_000_000];
    let reply = gateway.call(request("POST", "/h2/mirror", body.clone())).await;
    assert!(reply.status == StatusCode::OK && reply.body == body, "{} bytes", reply.body.len());
    let lines = gateway.log_lines(41).await;
    assert!(lines.iter().all(|line| line["upProto"] == "HTTP/2"), "{lines:?}");
    assert_eq!(backend.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_connection_is_joined_by_another() {
    let gateway = Gateway::start_with(|config| {
        config.workers = 1;
        config.upstream.max_h2_streams = 2;
    })
    .await;
    let (gateway, backend) = (Arc::new(gateway), h2c_backend().await);
    gateway.deploy(&[api("/h2", &backend.url(), speaks("http2"))]).await;
    let mut calls = JoinSet::new();
    for _ in 0..6 {
        let gateway = gateway.clone();
        calls.spawn(async move { gateway.get("/h2/gate").await.status });
    }
    let seen = || backend.control.requests.load(Ordering::SeqCst) == 6;
    eventually("six requests at the upstream", seen).await;
    assert_eq!(backend.connections.load(Ordering::SeqCst), 3);
    backend.control.gate.add_permits(6);
    while let Some(status) = calls.join_next().await {
        assert_eq!(status.expect("a call"), StatusCode::OK);
    }
}

/// What a scripted HTTP/2 upstream does with a request.
#[derive(Clone, Copy)]
enum Act {
    Answer,
    Reset(Reason),
    GoAway,
}

/// An upstream that does these things, one per request, over all connections.
async fn acting(acts: &'static [Act]) -> Backend {
    let turn = Arc::new(AtomicUsize::new(0));
    let act = move |stream: TcpStream, control: Arc<Control>| {
        let turn = turn.clone();
        async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((_request, mut respond))) = connection.accept().await {
                control.requests.fetch_add(1, Ordering::SeqCst);
                match acts[turn.fetch_add(1, Ordering::SeqCst).min(acts.len() - 1)] {
                    Act::Answer => {
                        let mut body =
                            respond.send_response(Response::new(()), false).expect("an open stream");
                        body.send_data(Bytes::from_static(b"ok"), true).expect("an open stream");
                    }
                    Act::Reset(reason) => respond.send_reset(reason),
                    // Nothing was processed: the last stream it knows of is the one before any.
                    Act::GoAway => connection.abrupt_shutdown(Reason::NO_ERROR),
                }
            }
        }
    };
    Backend::listen(act).await
}

/// What comes of a request on a kept connection.
async fn check(acts: &'static [Act], method: &str, expected: &str, requests: usize) {
    let gateway = Gateway::start_with(|config| config.workers = 1).await;
    let backend = acting(acts).await;
    gateway.deploy(&[api("/h2", &backend.url(), speaks("http2"))]).await;
    assert_eq!(gateway.get("/h2/x").await.body.as_ref(), b"ok", "the first makes the connection");
    outcome(&gateway, &backend, method, expected, requests).await;
}

/// What comes of the first request of all.
async fn check_first(acts: &'static [Act], method: &str, expected: &str, requests: usize) {
    let gateway = Gateway::start_with(|config| config.workers = 1).await;
    let backend = acting(acts).await;
    gateway.deploy(&[api("/h2", &backend.url(), speaks("http2"))]).await;
    outcome(&gateway, &backend, method, expected, requests).await;
}

async fn outcome(gateway: &Gateway, backend: &Backend, method: &str, expected: &str, requests: usize) {
    let reply = gateway.call(request(method, "/h2/x", "")).await;
    let outcome = if reply.status == StatusCode::OK { "ok".to_owned() } else { reply.reason() };
    assert_eq!((outcome.as_str(), reply.status.is_success()), (expected, expected == "ok"), "{method}");
    assert_eq!(backend.control.requests.load(Ordering::SeqCst), requests, "{method} {expected}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_stream_is_sent_again_and_a_broken_one_only_where_that_is_safe() {
    use Act::{Answer, Reset};
    // The upstream says that it did nothing: any method may go again, elsewhere.
    check(&[Answer, Reset(Reason::REFUSED_STREAM), Answer], "POST", "ok", 3).await;
    check(&[Answer, Reset(Reason::REFUSED_STREAM), Answer], "GET", "ok", 3).await;
    // It may have acted.
    check(&[Answer, Reset(Reason::INTERNAL_ERROR), Answer], "POST", "upstream_reset", 2).await;
    check(&[Answer, Reset(Reason::INTERNAL_ERROR), Answer], "GET", "ok", 3).await;
    // And once is enough.
    check(&[Answer, Reset(Reason::REFUSED_STREAM)], "POST", "upstream_reset", 3).await;
    // On a new connection as on a kept one; what may have been seen was seen by the only one.
    for method in ["GET", "POST"] {
        check_first(&[Reset(Reason::REFUSED_STREAM), Answer], method, "ok", 2).await;
        check_first(&[Reset(Reason::REFUSED_STREAM)], method, "upstream_reset", 2).await;
        check_first(&[Reset(Reason::INTERNAL_ERROR), Answer], method, "upstream_reset", 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_goes_away_takes_no_new_requests() {
    use Act::{Answer, GoAway};
    check(&[Answer, GoAway, Answer], "GET", "ok", 3).await;
    let gateway = Gateway::start_with(|config| config.workers = 1).await;
    // Each connection answers two requests and says goodbye in the orderly way.
    let backend = Backend::listen(|stream, control| async move {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        let mut left = 2;
        while let Some(Ok((_request, mut respond))) = connection.accept().await {
            control.requests.fetch_add(1, Ordering::SeqCst);
            left -= 1;
            if left == 0 {
                connection.graceful_shutdown();
            }
            respond.send_response(Response::new(()), true).expect("an open stream");
        }
    })
    .await;
    gateway.deploy(&[api("/h2", &backend.url(), speaks("http2"))]).await;
    for round in 0..6 {
        let reply = gateway.call(request("POST", "/h2/x", "")).await;
        assert_eq!(reply.status, StatusCode::OK, "round {round}: {reply:?}");
    }
    assert_eq!(backend.control.requests.load(Ordering::SeqCst), 6, "none was sent twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_settles_the_version_by_alpn() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let authority = Authority::new("theirs");
    let cert = dir.path().join("ca.pem");
    std::fs::write(&cert, authority.pem()).expect("a written certificate");
    let shown = authority.issue(&["localhost"]);
    let acceptor = |protocols: &[&[u8]]| {
        let mut config = pki::server(&shown, None);
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    };
    for (upstream, artifact, expected) in [
        (&[&b"h2"[..], b"http/1.1"][..], "auto", "HTTP/2.0"),
        (&[b"http/1.1"], "auto", "HTTP/1.1"),
        (&[b"h2", b"http/1.1"], "http2", "HTTP/2.0"),
        (&[b"h2", b"http/1.1"], "http1", "HTTP/1.1"),
        (&[b"http/1.1"], "http2", "upstream_tls_failed"),
    ] {
        let acceptor = acceptor(upstream);
        let backend = Backend::listen(move |stream, control| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    serve_h2(stream, control).await;
                } else {
                    serve(stream, control).await;
                }
            }
        })
        .await;
        let trusted = cert.clone();
        let gateway = Gateway::start_with(move |config| {
            config.workers = 1;
            config.upstream.tls.extra_ca_files = vec![trusted];
        })
        .await;
        let url = format!("https://localhost:{}", backend.address.port());
        gateway.deploy(&[api("/t", &url, speaks(artifact))]).await;
        for _ in 0..3 {
            let reply = gateway.get("/t/x").await;
            let found = match reply.status {
                StatusCode::OK => reply.json()["version"].as_str().unwrap_or_default().to_owned(),
                _ => reply.reason(),
            };
            assert_eq!(found, expected, "{artifact}");
        }
        let connections = if expected.starts_with("HTTP") { 1 } else { 3 };
        assert_eq!(backend.connections.load(Ordering::SeqCst), connections, "{artifact}: {expected}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_only_speaks_http2_is_asked_for_no_switch() {
    let (gateway, backend) = (Gateway::start().await, h2c_backend().await);
    gateway.deploy(&[api("/h2", &backend.url(), speaks("http2"))]).await;
    let bytes = "GET /h2/x HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\
                 GET /x HTTP/1.0\r\n\r\n";
    let answer = raw(gateway.http, bytes.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 501 ") && answer.contains("upgrade_refused"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_speaks_no_http2_is_told_apart() {
    let (gateway, backend) = (Gateway::start().await, Backend::start().await);
    gateway.deploy(&[api("/h2", &backend.url(), speaks("http2"))]).await;
    let call = tokio::time::timeout(PATIENCE, gateway.call(get("/h2/x"))).await.expect("an answer in time");
    assert!(call.status.is_server_error(), "{call:?}");
    assert!(call.reason().starts_with("upstream_"), "{call:?}");
}
