// SPDX-License-Identifier: Apache-2.0
//! HTTP/2 clients of HTTP/1.1 upstreams: where an answer ends, what becomes of its connection, and
//! when a request goes a second time.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::backend::{Backend, read_head};
use crate::support::{Gateway, PATIENCE, api, probes};

/// A client's connection.
struct Client {
    sender: SendRequest<Full<Bytes>>,
    _connection: JoinSet<()>,
}

impl Client {
    async fn connect(gateway: &Gateway) -> Client {
        let stream = TcpStream::connect(gateway.http).await.expect("a connection");
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = handshake.await.expect("HTTP/2");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { drop(connection.await) });
        Client { sender, _connection: tasks }
    }

    /// None when the answer breaks off: its head may be lost with it.
    async fn try_call(&mut self, method: &str, body: impl Into<Bytes>) -> Option<(StatusCode, Bytes)> {
        let request = Request::builder().method(method).uri("http://h/d/x").body(Full::new(body.into()));
        let sent = self.sender.send_request(request.expect("a request"));
        let (head, body) = timeout(PATIENCE, sent).await.expect("an answer in time").ok()?.into_parts();
        let body = timeout(PATIENCE, body.collect()).await.expect("a body in time").ok()?;
        Some((head.status, body.to_bytes()))
    }

    async fn call(&mut self, method: &str, body: impl Into<Bytes>) -> (StatusCode, Bytes) {
        self.try_call(method, body).await.expect("a whole answer")
    }
}

async fn gateway(backend: &Backend) -> Gateway {
    let gateway = Gateway::start_with(|config| config.workers = 1).await;
    gateway.deploy(&[api("/d", &backend.url(), |_| {})]).await;
    gateway
}

/// What an upstream says, and the body that is in it; none when it breaks off.
type Answer = (&'static [&'static [&'static str]], &'static str, Option<&'static str>);

const ANSWERS: &[Answer] = &[
    (&[&["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"]], "GET", Some("ok")),
    (
        &[&["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;x=y\r\no\r\n1\r\nk\r\n0\r\n\r\n"]],
        "GET",
        Some("ok"),
    ),
    (&[&["HTTP/1.0 200 OK\r\n\r\nok"]], "GET", Some("ok")),
    (&[&["HTTP/1.1 200 OK\r\n\r\nok"]], "GET", Some("ok")),
    (&[&["HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"]], "HEAD", Some("")),
    (
        &[&["HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n\
             HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"]],
        "GET",
        Some("ok"),
    ),
    (&[&["HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok"]], "GET", None),
    (&[&["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n"]], "GET", None),
    (&[&["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nokx"]], "GET", None),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_ends_where_its_framing_says() {
    for (script, method, expected) in ANSWERS {
        let backend = Backend::scripted(script).await;
        let gateway = gateway(&backend).await;
        let mut client = Client::connect(&gateway).await;
        let answer = client.try_call(method, "").await;
        let expected = expected.map(|body| (StatusCode::OK, Bytes::from_static(body.as_bytes())));
        assert_eq!(answer, expected, "{script:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_kept_and_one_found_stale_replaced_only_where_that_is_safe() {
    let backend = Backend::start().await;
    let echoing = gateway(&backend).await;
    let mut client = Client::connect(&echoing).await;
    for _ in 0..3 {
        assert_eq!(client.call("GET", "").await.0, StatusCode::OK);
    }
    assert_eq!(backend.connections.load(Ordering::SeqCst), 1);

    const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    // Each connection answers once and closes when it sees a second request.
    let backend = Backend::scripted(&[&[ANSWER, ""]]).await;
    let gateway = gateway(&backend).await;
    let mut client = Client::connect(&gateway).await;
    for round in 1..=3 {
        assert_eq!(client.call("GET", "").await.1.as_ref(), b"ok", "round {round}");
    }
    assert_eq!(backend.connections.load(Ordering::SeqCst), 3);
    // The upstream may have acted on a POST before it closed.
    let (status, body) = client.call("POST", "").await;
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!((status.as_u16(), &body["reason"]), (503, &json!("upstream_reset")));
    assert_eq!(backend.connections.load(Ordering::SeqCst), 3);
}

/// More than sockets hold between two processes.
const LARGE: usize = 16_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_answers_early_still_gets_the_rest() {
    let backend = Backend::listen(|mut stream, _| async move {
        let Some(head) = read_head(&mut stream).await else { return };
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n").await.expect("an open connection");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length = length.and_then(|length| length.parse().ok()).expect("a length");
        let read = tokio::io::copy(&mut (&mut stream).take(length), &mut tokio::io::sink()).await;
        assert!(read.is_ok_and(|read| read == length), "the rest of the request");
        stream.write_all(b"done").await.expect("an open connection");
    })
    .await;
    let gateway = Gateway::start_with(|config| config.limits.body_buffer_bytes = 2 * LARGE).await;
    // A policy that wants it whole has it in memory before it is sent.
    let holding = probes(&[json!({ "do": "buffer-request" })]);
    gateway.deploy(&[api("/d", &backend.url(), move |spec| spec["policies"] = holding)]).await;
    let mut client = Client::connect(&gateway).await;
    let answer = client.call("POST", vec![b'x'; LARGE]).await;
    assert_eq!(answer, (StatusCode::OK, Bytes::from_static(b"done")));
}
