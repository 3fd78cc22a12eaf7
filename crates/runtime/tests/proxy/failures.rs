// SPDX-License-Identifier: Apache-2.0
//! Everything that can go wrong has its status, body and reason (contract 4.8).

use std::sync::atomic::Ordering;
use std::time::Duration;

use ferrogate_runtime::config::Http1Codec;
use http::StatusCode;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::backend::{Backend, read_head};
use crate::support::{Client, Gateway, PATIENCE, api, get, probes, raw, request};

async fn check(gateway: &Gateway, path: &str, status: u16, reason: &str) {
    let reply = gateway.get(path).await;
    assert_eq!(reply.status.as_u16(), status, "{path}: {reply:?}");
    assert_eq!(reply.reason(), reason, "{path}");
    let id = reply.json()["error_id"].as_str().map(str::to_owned);
    assert_eq!(reply.header("x-error-id"), id.as_deref(), "{path}");
    assert!(id.is_some(), "{path}");
}

/// A port that nobody listens on.
async fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("an address").port()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_first_configuration_there_is_no_404() {
    let gateway = Gateway::start().await;
    check(&gateway, "/any", 503, "not_ready").await;
    gateway.deploy(&[]).await;
    assert_eq!(gateway.get("/any").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_cannot_be_reached() {
    let gateway =
        Gateway::start_with(|config| config.upstream.connect_timeout = Duration::from_millis(500)).await;
    let port = closed_port().await;
    gateway
        .deploy(&[
            api("/refused", &format!("http://127.0.0.1:{port}"), |_| {}),
            api("/tls", &format!("https://127.0.0.1:{}", Backend::start().await.address.port()), |_| {}),
        ])
        .await;
    check(&gateway, "/refused/x", 503, "upstream_connect_failed").await;
    check(&gateway, "/tls/x", 503, "upstream_connect_failed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_is_not_tls() {
    let (gateway, backend) = (Gateway::start().await, Backend::start().await);
    gateway.deploy(&[api("/tls", &format!("https://{}", backend.address), |_| {})]).await;
    check(&gateway, "/tls/x", 503, "upstream_tls_failed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_breaks_off_or_talks_nonsense() {
    let gateway = Gateway::start().await;
    let closes = Backend::scripted(&[&[""]]).await;
    let nonsense = Backend::scripted(&[&["SMTP ready\r\n\r\n"]]).await;
    let switches = Backend::scripted(&[&["HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n"]]).await;
    let coded = Backend::scripted(&[&[
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    ]])
    .await;
    let cut = Backend::scripted(&[&["HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"]]).await;
    gateway
        .deploy(&[
            api("/closes", &closes.url(), |_| {}),
            api("/nonsense", &nonsense.url(), |_| {}),
            api("/switches", &switches.url(), |_| {}),
            api("/coded", &coded.url(), |_| {}),
            api("/cut", &cut.url(), |_| {}),
        ])
        .await;
    check(&gateway, "/closes/x", 503, "upstream_reset").await;
    for context in ["nonsense", "switches", "coded"] {
        check(&gateway, &format!("/{context}/x"), 502, "upstream_protocol").await;
    }
    // Once the head is out, only a broken body can tell the client.
    let response = Client::connect(gateway.http).await.send(get("/cut/x")).await.expect("a head");
    assert_eq!(response.status(), StatusCode::OK);
    assert!(http_body_util::BodyExt::collect(response.into_body()).await.is_err());
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_that_turn_out_to_be_none_are_told_while_that_is_possible() {
    let gateway = Gateway::start().await;
    let at_once = Backend::listen(|mut stream, _| async move {
        read_head(&mut stream).await;
        let all = format!("{CHUNKED}3\r\nabc\r\nzz\r\n");
        stream.write_all(all.as_bytes()).await.expect("an open connection");
        read_head(&mut stream).await;
    })
    .await;
    let later = Backend::listen(|mut stream, control| async move {
        read_head(&mut stream).await;
        stream.write_all(CHUNKED.as_bytes()).await.expect("an open connection");
        control.gate.acquire().await.expect("an open gate").forget();
        stream.write_all(b"3\r\nabc\r\nzz\r\n").await.expect("an open connection");
        read_head(&mut stream).await;
    })
    .await;
    gateway.deploy(&[api("/once", &at_once.url(), |_| {}), api("/later", &later.url(), |_| {})]).await;
    if crate::CODEC == Http1Codec::Own {
        check(&gateway, "/once/x", 502, "upstream_protocol").await;
        let lines = gateway.log_lines(1).await;
        assert_eq!((&lines[0]["respCd"], &lines[0]["respFlg"]), (&502.into(), &"UPE".into()), "{lines:?}");
    }
    let mut client = TcpStream::connect(gateway.http).await.expect("a connection");
    client.write_all(b"GET /later/x HTTP/1.1\r\nhost: h\r\n\r\n").await.expect("a sent request");
    let head = read_head(&mut client).await.expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    later.control.gate.add_permits(1);
    let mut rest = Vec::new();
    let read = tokio::time::timeout(PATIENCE, client.read_to_end(&mut rest)).await;
    read.expect("the end in time").expect("an orderly one");
    // What was a chunk may pass; the body must not look whole.
    let rest = String::from_utf8_lossy(&rest);
    assert!(!rest.contains("0\r\n\r\n"), "{rest:?}");
    if crate::CODEC == Http1Codec::Own {
        assert_eq!(rest, "3\r\nabc\r\n");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_refused_half_way_ends_its_connection_and_says_so() {
    let gateway = Gateway::start().await;
    let refusing = Backend::listen(|mut stream, _| async move {
        read_head(&mut stream).await;
        // All that was sent of the body, which ends like a head: closed over unread bytes, the
        // answer could be lost.
        read_head(&mut stream).await;
        let answer = "HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.expect("an open connection");
    })
    .await;
    gateway.deploy(&[api("/up", &refusing.url(), |_| {})]).await;
    let chunk = "5\r\nabc\r\n\r\n";
    for (framing, body) in [("content-length: 1000", "abc\r\n\r\n"), ("transfer-encoding: chunked", chunk)] {
        let sent = format!("POST /up/x HTTP/1.1\r\nhost: h\r\n{framing}\r\n\r\n{body}");
        let answer = raw(gateway.http, sent.as_bytes()).await.to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 413 ") && answer.contains("connection: close\r\n"), "{answer}");
    }
    // One that was sent whole costs no connection.
    let sent =
        "POST /up/x HTTP/1.1\r\nhost: h\r\ncontent-length: 7\r\n\r\nabc\r\n\r\nGET /none HTTP/1.0\r\n\r\n";
    let answers = raw(gateway.http, sent.as_bytes()).await.to_ascii_lowercase();
    assert!(answers.contains(" 413 ") && answers.contains(" 404 "), "{answers}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timeouts_name_what_took_too_long() {
    let (gateway, backend) = (Gateway::start().await, Backend::start().await);
    let within = |context: &str, timeout: &str, idle: &str| {
        let resilience = json!({ "timeout": timeout, "idleTimeout": idle });
        api(context, &backend.url(), move |spec| spec["resilience"] = resilience)
    };
    gateway.deploy(&[within("/whole", "200ms", "0s"), within("/idle", "0s", "200ms")]).await;
    check(&gateway, "/whole/never", 504, "upstream_timeout").await;
    check(&gateway, "/idle/never", 504, "stream_idle_timeout").await;
    for path in ["/whole/stall", "/idle/stall"] {
        let response = Client::connect(gateway.http).await.send(get(path)).await.expect("a head");
        let body = http_body_util::BodyExt::collect(response.into_body());
        assert!(tokio::time::timeout(PATIENCE, body).await.expect("an end").is_err(), "{path}");
    }
    // A client that stops sending is told so, not the upstream blamed.
    let mut stream = TcpStream::connect(gateway.http).await.expect("a connection");
    let head = "POST /idle/x HTTP/1.1\r\nhost: h\r\ncontent-length: 10\r\n\r\nabc";
    stream.write_all(head.as_bytes()).await.expect("a sent head");
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("an end").expect("text");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains(r#""reason":"request_timeout""#), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_connection_is_replaced_only_where_that_is_safe() {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    // Each connection answers once and closes when it sees a second request.
    let backend = Backend::scripted(&[&[ANSWER, ""]]).await;
    let gateway = Gateway::start_with(|config| config.workers = 1).await;
    gateway.deploy(&[api("/stale", &backend.url(), |_| {})]).await;
    for round in 1..=3 {
        assert_eq!(gateway.get("/stale/x").await.body.as_ref(), b"ok", "round {round}");
    }
    assert_eq!(backend.connections.load(Ordering::SeqCst), 3);
    // The upstream may have acted on a POST before it closed: sending it twice is not ours to decide.
    let reply = gateway.call(request("POST", "/stale/x", "once")).await;
    assert_eq!((reply.status.as_u16(), reply.reason().as_str()), (503, "upstream_reset"));
    assert_eq!(backend.connections.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_too_large_to_hold() {
    let (gateway, backend) = (
        Gateway::start_with(|config| config.limits.body_buffer_bytes = 100_000).await,
        Backend::start().await,
    );
    let with = |context: &str, what: &str| {
        let policies = probes(&[json!({ "do": what })]);
        api(context, &backend.url(), move |spec| spec["policies"] = policies)
    };
    gateway.deploy(&[with("/in", "buffer-request"), with("/out", "buffer-response")]).await;
    let large = gateway.call(request("POST", "/in/x", vec![b'x'; 100_001])).await;
    assert_eq!((large.status.as_u16(), large.reason().as_str()), (413, "request_body_too_large"));
    assert_eq!(large.json()["error"], "Payload Too Large");
    let fits = gateway.call(request("POST", "/in/x", vec![b'x'; 1000])).await;
    assert_eq!(fits.json()["headers"]["x-body-bytes"], json!(["1000"]));
    check(&gateway, "/out/large/2", 500, "response_body_too_large").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_cannot_be_built_poisons_its_route_and_no_other() {
    let (gateway, backend) = (Gateway::start().await, Backend::start().await);
    let poisoned = api("/p", &backend.url(), |spec| {
        spec["operations"] = json!([
            { "method": "GET", "path": "/good" },
            { "method": "GET", "path": "/bad", "policies": [{ "name": "unheard-of", "version": "v1" }] },
        ]);
    });
    gateway.deploy(&[poisoned]).await;
    assert_eq!(gateway.get("/p/good").await.status, StatusCode::OK);
    let bad = gateway.get("/p/bad").await;
    assert_eq!(bad.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(bad.body.as_ref(), br#"{"error":"Internal Server Error"}"#);
    assert_eq!(backend.connections.load(Ordering::SeqCst), 1, "a poisoned route reaches no upstream");
    let lines = gateway.log_lines(2).await;
    assert!(lines.iter().any(|line| line["reason"] == "route_poisoned"), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn escaped_slashes_follow_the_configured_action() {
    use ferrogate_runtime::router::EscapedSlashes;
    let backend = Backend::start().await;
    for (action, status, detail) in [
        (EscapedSlashes::KeepUnchanged, 200, "/a%2Fb"),
        (EscapedSlashes::Reject, 400, "escaped_slash"),
        (EscapedSlashes::UnescapeAndRedirect, 307, "/s/a/b?q=1"),
        (EscapedSlashes::UnescapeAndForward, 200, "/a/b"),
    ] {
        for disabled in [false, true] {
            let gateway = Gateway::start_with(|config| {
                config.path.escaped_slashes = action;
                config.path.disable_normalisation = disabled;
            })
            .await;
            gateway.deploy(&[api("/s", &backend.url(), |_| {})]).await;
            let reply = gateway.get("/s/a%2Fb?q=1").await;
            assert_eq!(reply.status.as_u16(), status, "{action:?} {disabled}");
            match status {
                200 => assert_eq!(reply.json()["path"], format!("{detail}?q=1"), "{action:?} {disabled}"),
                307 => assert_eq!(reply.header("location"), Some(detail), "{action:?} {disabled}"),
                _ => assert_eq!(reply.reason(), detail, "{action:?} {disabled}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_is_ended_by_its_route_s_clocks() {
    let (gateway, backend) = (Gateway::start().await, Backend::start().await);
    let within = |context: &str, timeout: &str, idle: &str| {
        let resilience = json!({ "timeout": timeout, "idleTimeout": idle });
        api(context, &backend.url(), move |spec| spec["resilience"] = resilience)
    };
    gateway.deploy(&[within("/whole", "700ms", "0s"), within("/idle", "0s", "700ms")]).await;
    // More than every buffer on the way holds together.
    let mut held = Vec::new();
    for context in ["whole", "idle"] {
        let mut stream = TcpStream::connect(gateway.http).await.expect("a connection");
        let head = format!("GET /{context}/large/1000 HTTP/1.1\r\nhost: h\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("a sent head");
        held.push(stream);
    }
    let mut tasks = tokio::task::JoinSet::new();
    let mut streams = Vec::new();
    for context in ["whole", "idle"] {
        let io = hyper_util::rt::TokioIo::new(TcpStream::connect(gateway.http).await.expect("a connection"));
        let handshake = hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io);
        let (mut sender, connection) = handshake.await.expect("a handshake");
        tasks.spawn(async move { drop(connection.await) });
        let asked = http::Request::get(format!("http://h/{context}/large/1000"));
        let body = http_body_util::Full::<bytes::Bytes>::default();
        let response = sender.send_request(asked.body(body).expect("a request")).await.expect("a head");
        streams.push((sender, response));
    }
    let lines = gateway.log_lines(4).await;
    for (proto, path, reason) in [
        ("HTTP/1.1", "/whole/large/1000", "upstream_timeout"),
        ("HTTP/1.1", "/idle/large/1000", "stream_idle_timeout"),
        ("HTTP/2", "/whole/large/1000", "upstream_timeout"),
        ("HTTP/2", "/idle/large/1000", "stream_idle_timeout"),
    ] {
        let line = lines.iter().find(|line| line["proto"] == proto && line["path"] == path).expect("a line");
        assert_eq!((&line["reason"], &line["respCd"]), (&json!(reason), &json!(200)), "{line}");
        assert_eq!(line["respCdDtl"], "the client took nothing of the response", "{line}");
    }
    // Only the stream is reset: its connection takes another request.
    for (mut sender, response) in streams {
        assert!(http_body_util::BodyExt::collect(response.into_body()).await.is_err());
        let body = http_body_util::Full::<bytes::Bytes>::default();
        let again = http::Request::get("http://h/idle/x").body(body).expect("a request");
        assert_eq!(sender.send_request(again).await.expect("a head").status(), StatusCode::OK);
    }
    drop(held);
}
