// SPDX-License-Identifier: Apache-2.0
//! What must not wait for more: events, trailers, hints, and the word to go on.

use std::sync::Arc;
use std::sync::Mutex;

use bytes::Bytes;
use ferrogate_runtime::config::Http1Codec;
use http_body_util::{BodyExt, Full};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::CODEC;
use crate::support::backend::Backend;
use crate::support::{Gateway, PATIENCE, api, probes, raw};

/// Reads until the text ends so.
async fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(end.as_bytes()) {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut byte)).await;
        match read.expect("the next byte in time").expect("an open connection") {
            0 => break,
            _ => seen.push(byte[0]),
        }
    }
    String::from_utf8_lossy(&seen).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_event_arrives_before_the_second_is_made() {
    let backend = Backend::listen(|mut stream, control| async move {
        until(&mut stream, "\r\n\r\n").await;
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        let first = format!("{head}b\r\ndata: one\n\n\r\n");
        stream.write_all(first.as_bytes()).await.expect("an open connection");
        control.gate.acquire().await.expect("an open gate").forget();
        stream.write_all(b"b\r\ndata: two\n\n\r\n0\r\n\r\n").await.expect("an open connection");
        until(&mut stream, "\r\n\r\n").await;
    })
    .await;
    let gateway = Gateway::start().await;
    gateway.deploy(&[api("/events", &backend.url(), |_| {})]).await;
    let mut client = TcpStream::connect(gateway.http).await.expect("a connection");
    client.write_all(b"GET /events/x HTTP/1.1\r\nhost: h\r\n\r\n").await.expect("a sent request");
    let first = until(&mut client, "data: one\n\n").await;
    assert!(first.starts_with("HTTP/1.1 200 ") && !first.contains("two"), "{first}");
    backend.control.gate.add_permits(1);
    until(&mut client, "data: two\n\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_pass_in_both_directions() {
    let seen = Arc::new(Mutex::new(String::new()));
    let own = seen.clone();
    let backend = Backend::listen(move |mut stream, _| {
        let seen = own.clone();
        async move {
            let head = until(&mut stream, "\r\n\r\n").await;
            let body = until(&mut stream, "0\r\nx-up: 7\r\n\r\n").await;
            seen.lock().expect("no panic").push_str(&format!("{head}{body}"));
            let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-down\r\n\r\n\
                          2\r\nok\r\n0\r\nx-down: 8\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.expect("an open connection");
            until(&mut stream, "never").await;
        }
    })
    .await;
    let gateway = Gateway::start().await;
    gateway.deploy(&[api("/t", &backend.url(), |_| {})]).await;
    let sent = "POST /t/x HTTP/1.1\r\nhost: h\r\nconnection: te\r\nte: trailers\r\ntrailer: x-up\r\n\
                transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-up: 7\r\n\r\nGET /n HTTP/1.0\r\n\r\n";
    let answer = raw(gateway.http, sent.as_bytes()).await;
    assert!(answer.contains("0\r\nx-down: 8\r\n\r\n"), "{answer:?}");
    let seen = seen.lock().expect("no panic").clone();
    assert!(seen.contains("trailer: x-up\r\n") && seen.ends_with("0\r\nx-up: 7\r\n\r\n"), "{seen:?}");
}

/// Trailers of every kind, behind a head that declares most of them.
const TRAILING: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum, host\r\n\
    trailer: set-cookie, content-length\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\nhost: evil\r\n\
    set-cookie: a=1\r\ncontent-length: 5\r\nx-undeclared: 9\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_that_belong_to_a_head_do_not_pass() {
    let (gateway, backend) = (Gateway::start().await, Backend::scripted(&[&[TRAILING]]).await);
    gateway.deploy(&[api("/t", &backend.url(), |_| {})]).await;
    let ask = b"GET /t/x HTTP/1.1\r\nhost: h\r\nte: trailers\r\nconnection: te, close\r\n\r\n";
    let answer = raw(gateway.http, ask).await.to_ascii_lowercase();
    assert!(answer.ends_with("2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n"), "{answer}");

    let stream = TcpStream::connect(gateway.http).await.expect("a connection");
    let executor = hyper_util::rt::TokioExecutor::new();
    let stream = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, stream).await.expect("HTTP/2");
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { drop(connection.await) });
    let request = http::Request::get("http://h/t/x").body(Full::new(Bytes::new())).expect("a request");
    let answer =
        tokio::time::timeout(PATIENCE, sender.send_request(request)).await.expect("an answer in time");
    let body = answer.expect("an answer").into_body().collect().await.expect("a whole body");
    let trailers = body.trailers().expect("trailers");
    let mut names: Vec<&str> = trailers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    // HTTP/2 declares nothing: they come in a frame of their own.
    assert_eq!(names, ["x-sum", "x-undeclared"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_asks_first_is_told_to_go_on_only_when_its_body_is_wanted() {
    let (gateway, backend) = (Gateway::start().await, Backend::start().await);
    let refusing = probes(&[json!({ "do": "answer", "value": "no" })]);
    gateway
        .deploy(&[
            api("/wanted", &backend.url(), |_| {}),
            api("/refused", &backend.url(), move |spec| spec["policies"] = refusing),
        ])
        .await;
    let ask = |context: &str| {
        format!("POST /{context}/x HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
    };
    let mut client = TcpStream::connect(gateway.http).await.expect("a connection");
    client.write_all(ask("wanted").as_bytes()).await.expect("a sent head");
    assert_eq!(until(&mut client, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"abc").await.expect("a sent body");
    let answer = until(&mut client, "}").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("\"expect\""), "{answer}");

    let mut client = TcpStream::connect(gateway.http).await.expect("a connection");
    client.write_all(ask("refused").as_bytes()).await.expect("a sent head");
    let answer = until(&mut client, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 418 "), "the policy's word comes first: {answer}");
}

/// Hints at two files, and answers when the test lets it; then once more.
async fn hinting() -> Backend {
    const HINTS: &str = "HTTP/1.1 102 Processing\r\n\r\n\
        HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nx-inner: 1\r\n\r\n\
        HTTP/1.1 103 Early Hints\r\nLink: </b.js>\r\n\r\n";
    Backend::listen(|mut stream, control| async move {
        while until(&mut stream, "\r\n\r\n").await.contains(" HTTP/1.1\r\n") {
            stream.write_all(HINTS.as_bytes()).await.expect("an open connection");
            control.gate.acquire().await.expect("an open gate").forget();
            let answer = "HTTP/1.1 200 OK\r\nlink: </a.css>\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(answer.as_bytes()).await.expect("an open connection");
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn early_hints_arrive_before_their_answer_is_made() {
    let (gateway, backend) = (Gateway::start().await, hinting().await);
    let tagging = probes(&[json!({ "do": "tag", "value": "final" })]);
    gateway.deploy(&[api("/h", &backend.url(), move |spec| spec["policies"] = tagging)]).await;
    let mut client = TcpStream::connect(gateway.http).await.expect("a connection");
    for _ in 0..2 {
        client.write_all(b"GET /h/x HTTP/1.1\r\nhost: h\r\n\r\n").await.expect("a sent request");
        // hyper has no way to send them.
        if CODEC == Http1Codec::Own {
            for link in ["</a.css>; rel=preload", "</b.js>"] {
                let hint = until(&mut client, "\r\n\r\n").await;
                assert_eq!(hint, format!("HTTP/1.1 103 Early Hints\r\nlink: {link}\r\n\r\n"));
            }
        }
        backend.control.gate.add_permits(1);
        let answer = until(&mut client, "\r\n\r\nok").await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("x-tag: final"), "{answer}");
    }
    let lines = gateway.log_lines(2).await;
    assert!(lines.iter().all(|line| line["respCd"] == 200), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_http_1_0_get_no_interim_answer() {
    let (gateway, backend) = (Gateway::start().await, hinting().await);
    gateway.deploy(&[api("/h", &backend.url(), |_| {})]).await;
    backend.control.gate.add_permits(1);
    let answer = raw(gateway.http, b"GET /h/x HTTP/1.0\r\nhost: h\r\nexpect: 100-continue\r\n\r\n").await;
    assert!(answer.contains(" 200 ") && answer.ends_with("\r\n\r\nok"), "{answer}");
    assert!(!answer.contains("103") && !answer.contains("100"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hint_comes_after_the_word_to_go_on_and_before_the_body_is_sent() {
    let (gateway, backend) = (Gateway::start().await, hinting().await);
    gateway.deploy(&[api("/h", &backend.url(), |_| {})]).await;
    let mut client = TcpStream::connect(gateway.http).await.expect("a connection");
    let head = "POST /h/x HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n";
    client.write_all(head.as_bytes()).await.expect("a sent head");
    assert_eq!(until(&mut client, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    if CODEC == Http1Codec::Own {
        assert!(until(&mut client, "\r\n\r\n").await.starts_with("HTTP/1.1 103 "));
        assert!(until(&mut client, "\r\n\r\n").await.starts_with("HTTP/1.1 103 "));
    }
    client.write_all(b"abc").await.expect("a sent body");
    backend.control.gate.add_permits(1);
    let answer = until(&mut client, "\r\n\r\nok").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}
