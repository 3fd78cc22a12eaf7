// SPDX-License-Identifier: Apache-2.0
//! Policies in every phase, over real messages (contract 5.1).

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::backend::Backend;
use crate::support::{Gateway, Reply, api, get, probes, read, request};

async fn with(policies: &[Value]) -> (Gateway, Backend) {
    let (gateway, backend) = (Gateway::start().await, Backend::start().await);
    let list = probes(policies);
    gateway.deploy(&[api("/p", &backend.url(), |spec| spec["policies"] = list)]).await;
    (gateway, backend)
}

/// A POST whose body comes in three chunks of unknown total length.
async fn chunked(gateway: &Gateway, path: &str) -> Reply {
    let stream = TcpStream::connect(gateway.http).await.expect("a connection");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { drop(connection.await) });
    let frames =
        ["one ", "two ", "three"].map(|text| Ok::<_, std::io::Error>(Frame::data(Bytes::from(text))));
    let body = BodyExt::boxed(StreamBody::new(futures::stream::iter(frames)));
    let sent = Request::post(path).header("host", "h").body(body).expect("a request");
    read(sender.send_request(sent).await.expect("a response")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_policies_run_forwards_and_response_policies_backwards() {
    let (gateway, _backend) =
        with(&[json!({ "do": "tag", "value": "first" }), json!({ "do": "tag", "value": "second" })]).await;
    let reply = gateway.get("/p/x").await;
    assert_eq!(reply.json()["headers"]["x-tag"], json!(["second"]));
    assert_eq!(reply.header("x-tag"), Some("first"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_ends_the_chain_before_the_upstream() {
    let (gateway, backend) = with(&[
        json!({ "do": "tag", "value": "outer" }),
        json!({ "do": "answer", "value": "tea" }),
        json!({ "do": "fail" }),
    ])
    .await;
    let reply = gateway.call(request("POST", "/p/x", "ignored")).await;
    assert_eq!((reply.status, reply.body.as_ref()), (StatusCode::IM_A_TEAPOT, &b"tea"[..]));
    assert_eq!(reply.header("x-policy"), Some("answered"));
    assert_eq!(reply.header("x-tag"), None, "no response policy runs on an answer");
    assert_eq!(backend.connections.load(Ordering::SeqCst), 0);
    assert_eq!(gateway.log_lines(1).await[0]["policy"], "probe");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_policy_fails_closed_and_tells_the_client_nothing() {
    for (what, reaches) in [("fail", 0), ("fail-late", 1)] {
        let (gateway, backend) = with(&[json!({ "do": what })]).await;
        let reply = gateway.get("/p/x").await;
        assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR, "{what}");
        let id = reply.header("x-error-id").expect("an error id").to_owned();
        assert_eq!(reply.json(), json!({ "error": "Internal Server Error", "error_id": id }), "{what}");
        assert_eq!(backend.connections.load(Ordering::SeqCst), reaches, "{what}");
        let line = &gateway.log_lines(1).await[0];
        assert_eq!((&line["reason"], &line["errorId"]), (&json!("policy_failed"), &json!(id)));
        assert!(line["respCdDtl"].as_str().is_some_and(|detail| detail.contains("secret detail")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_answer_replaces_the_upstreams() {
    let (gateway, backend) = with(&[json!({ "do": "answer-late", "value": "instead" })]).await;
    let reply = gateway.get("/p/x").await;
    assert_eq!((reply.status, reply.body.as_ref()), (StatusCode::IM_A_TEAPOT, &b"instead"[..]));
    assert_eq!(backend.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_change_path_method_host_and_upstream() {
    let (gateway, backend) = (Gateway::start().await, Backend::start().await);
    let policies = probes(&[
        json!({ "do": "path", "value": "/c/other?x=1" }),
        json!({ "do": "method", "value": "DELETE" }),
        json!({ "do": "host", "value": "inner.example" }),
        json!({ "do": "upstream", "value": "blue" }),
    ]);
    let dangling =
        probes(&[json!({ "do": "upstream", "value": "green" }), json!({ "do": "tag", "value": "seen" })]);
    let url = backend.url();
    let definitions = json!([{ "name": "blue", "basePath": "/blue", "upstreams": [{ "url": url }] }]);
    gateway
        .deploy(&[
            api("/c", "http://unused.invalid", |spec| {
                spec["policies"] = policies;
                spec["upstreamDefinitions"] = definitions;
            }),
            api("/d", &backend.url(), |spec| spec["policies"] = dangling),
        ])
        .await;
    let echoed = gateway.get("/c/x").await.json();
    assert_eq!((&echoed["method"], &echoed["path"]), (&json!("DELETE"), &json!("/blue/other?x=1")));
    assert_eq!(echoed["headers"]["host"], json!(["inner.example"]));
    assert_eq!(echoed["headers"]["x-envoy-original-path"], json!(["/c/x"]));
    // Response policies see what stands in for an upstream's answer.
    let reply = gateway.get("/d/x").await;
    assert_eq!((reply.status.as_u16(), reply.reason().as_str()), (503, "upstream_unknown"));
    assert_eq!(reply.header("x-tag"), Some("seen"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_can_ask_what_the_client_sent() {
    let (gateway, _backend) = with(&[json!({ "do": "original" })]).await;
    let mut sent = get("/p//x/?q=1");
    sent.headers_mut().insert("x-client", "mine".parse().expect("a value"));
    let reply = gateway.call(sent).await;
    assert_eq!(reply.json()["headers"]["x-client"], json!(["overwritten"]));
    assert_eq!(
        (reply.header("x-original"), reply.header("x-original-path")),
        (Some("mine"), Some("/p/x/?q=1"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_may_ask_someone_first_within_the_deadline() {
    let (gateway, backend) = (Gateway::start().await, Backend::start().await);
    let asks = |context: &str, value: &str| {
        let policies = probes(&[json!({ "do": "outbound", "value": value })]);
        api(context, &backend.url(), move |spec| {
            spec["policies"] = policies;
            spec["resilience"] = json!({ "timeout": "300ms" });
        })
    };
    gateway.deploy(&[asks("/soon", ""), asks("/never", "never")]).await;
    assert_eq!(gateway.get("/soon/x").await.json()["headers"]["x-outbound"], json!(["asked"]));
    let late = gateway.get("/never/x").await;
    assert_eq!((late.status.as_u16(), late.reason().as_str()), (504, "upstream_timeout"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_bodies_are_changed_and_framed_anew() {
    let (gateway, _backend) =
        with(&[json!({ "do": "buffer-request" }), json!({ "do": "buffer-response" })]).await;
    for reply in [gateway.call(request("POST", "/p/x", "hello")).await, chunked(&gateway, "/p/x").await] {
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        assert!(text.ends_with("|END") && text.contains("|END\",\"HEADERS\""), "{text}");
        assert_eq!(reply.header("content-length"), Some(reply.body.len().to_string().as_str()));
        assert_eq!(reply.header("x-changed"), Some("1"));
    }
    // Without a body the hooks run all the same, once, with nothing.
    let none = gateway.get("/p/x").await;
    assert!(String::from_utf8_lossy(&none.body).contains(r#""X-BODY-BYTES":["0"]"#));
    let head = gateway.call(request("HEAD", "/p/x", "")).await;
    assert_eq!((head.status, head.body.len(), head.header("x-changed")), (StatusCode::OK, 0, Some("1")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_pass_their_policies_chunk_by_chunk() {
    let (gateway, _backend) = with(&[json!({ "do": "stream-both" })]).await;
    // The mirror sends back what it gets: changed on the way there, and marked again on the way back.
    let reply = chunked(&gateway, "/p/mirror").await;
    assert_eq!(reply.body.as_ref(), b"ONE TWO THREE|END|END");
    assert_eq!(reply.header("content-length"), None);
    let events = gateway.get("/p/events").await;
    assert_eq!(events.body.as_ref(), b"DATA: ONE\n\nDATA: TWO\n\nDATA: THREE\n\n|END");
    // A body of known length is not a stream: it is gathered.
    let whole = gateway.call(request("POST", "/p/x", "abc")).await;
    assert_eq!(whole.header("content-length"), Some(whole.body.len().to_string().as_str()));
    let lines = gateway.log_lines(3).await;
    let mirrored = lines.iter().find(|line| line["path"] == "/p/mirror").expect("the mirror's line");
    assert_eq!((&mirrored["bytesRx"], &mirrored["bytesTx"]), (&json!(13), &json!(21)));
    assert!(lines.iter().all(|line| line["respCdDtl"].is_null()), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_cannot_change_the_framing() {
    let (gateway, _backend) = with(&[json!({ "do": "framing" })]).await;
    let mut client = crate::support::Client::connect(gateway.http).await;
    // On one connection: a wrong length would show in the next exchange at the latest.
    for _ in 0..2 {
        let reply = client.call(request("POST", "/p/x", "hello")).await;
        assert_eq!(reply.json()["body"], "hello");
        assert_eq!(reply.json()["headers"]["content-length"], json!(["5"]));
        assert!(reply.json()["headers"]["x-target-upstream"].is_null(), "it is the gateway's own");
        assert_eq!(reply.header("content-length"), Some(reply.body.len().to_string().as_str()));
        assert_eq!(client.call(get("/p/large/2")).await.body.len(), 128 * 1024);
        assert_eq!(client.call(request("HEAD", "/p/x", "")).await.status, StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_can_stop_a_stream() {
    let (gateway, _backend) = with(&[json!({ "do": "stop-request" })]).await;
    let reply = chunked(&gateway, "/p/x").await;
    assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(reply.header("x-error-id").is_some());

    let (gateway, _backend) = with(&[json!({ "do": "stop-response" })]).await;
    let mut client = crate::support::Client::connect(gateway.http).await;
    let response = client.send(get("/p/large/3")).await.expect("a head");
    assert!(response.into_body().collect().await.is_err(), "a stopped body must not look complete");
    let line = &gateway.log_lines(1).await[0];
    assert_eq!((&line["reason"], &line["policy"]), (&json!("policy_failed"), &json!("probe")));
    assert!(line["respCdDtl"].as_str().is_some_and(|detail| detail.contains("not this body")), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_refused_in_the_same_words_whole_or_in_parts() {
    for (what, status) in [
        ("stop-whole", StatusCode::INTERNAL_SERVER_ERROR),
        ("stop-request", StatusCode::INTERNAL_SERVER_ERROR),
        ("answer-whole", StatusCode::IM_A_TEAPOT),
        ("answer-body", StatusCode::IM_A_TEAPOT),
    ] {
        let (gateway, _backend) = with(&[json!({ "do": what, "value": "tea" })]).await;
        assert_eq!(chunked(&gateway, "/p/x").await.status, status, "{what}");
        assert_eq!(gateway.log_lines(1).await[0]["policy"], "probe", "{what}");
        let metrics = gateway.door(gateway.running().addresses().metrics, "/metrics").await;
        let answered = u32::from(status == StatusCode::IM_A_TEAPOT);
        let line = format!("ferrogate_runtime_short_circuits_total {answered}\n");
        assert!(String::from_utf8_lossy(&metrics.body).contains(&line), "{what}: no {line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_come_after_the_last_word_of_the_policies() {
    let (gateway, _backend) = with(&[json!({ "do": "stream-request" })]).await;
    let sent = "POST /p/x HTTP/1.1\r\nhost: h\r\nconnection: close\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n";
    let answer = crate::support::raw(gateway.http, sent.as_bytes()).await;
    assert!(answer.contains(r#""body":"ABC|END""#), "{answer:?}");
}
