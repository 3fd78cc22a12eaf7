// SPDX-License-Identifier: Apache-2.0
//! What reaches the upstream, and what comes back.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use ferrogate_runtime::config::Http1Codec;
use futures::StreamExt;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::backend::{Backend, read_head};
use crate::support::{Client, Gateway, api, get, probes, raw, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_in_chunks_reaches_its_upstream_whatever_the_method() {
    let (gateway, backend) = (Gateway::start().await, Backend::start().await);
    let guarded = api("/guarded", "http://unused", |spec| {
        let breaker = json!({ "maxRequests": 10 });
        spec["upstreamDefinitions"] =
            json!([{ "name": "d", "upstreams": [{ "url": backend.url() }], "circuitBreaker": breaker }]);
        spec["upstream"] = json!({ "main": { "ref": "d" } });
    });
    let changed = api("/changed", &backend.url(), |spec| {
        spec["policies"] = probes(&[json!({ "do": "stream-request" })]);
    });
    gateway.deploy(&[api("/plain", &backend.url(), |_| {}), guarded, changed]).await;
    for method in ["GET", "POST", "DELETE"] {
        for (context, expected) in [("plain", "abc"), ("guarded", "abc"), ("changed", "ABC|END")] {
            let sent = format!(
                "{method} /{context}/x HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\
                 transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            );
            let answer = raw(gateway.http, sent.as_bytes()).await;
            let body = format!("\"body\":\"{expected}\"");
            assert!(answer.contains(&body), "{method} {context}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_path_is_rewritten_and_the_query_kept() {
    let (gateway, backend) = (Gateway::start().await, Backend::start().await);
    gateway
        .deploy(&[
            api("/w/v1.0", &format!("{}/api/v2", backend.url()), |spec| {
                spec["operations"] = json!([
                    { "method": "GET", "path": "/us/{city}" },
                    { "method": "GET", "path": "/" },
                    { "method": "GET", "path": "/any/*" },
                ]);
            }),
            api("/plain", &backend.url(), |_| {}),
        ])
        .await;
    for (path, upstream) in [
        ("/w/v1.0/us/seattle?a=1&b=%20", "/api/v2/us/seattle?a=1&b=%20"),
        ("/w/v1.0", "/api/v2/"),
        ("/w/v1.0/", "/api/v2/"),
        ("/w/v1.0/any/x/../y", "/api/v2/any/y"),
        ("/w//v1.0/./any", "/api/v2/any"),
        ("/plain", "/"),
        ("/plain/a%2Fb", "/a%2Fb"),
    ] {
        let reply = gateway.get(path).await;
        assert_eq!(reply.status, StatusCode::OK, "{path}");
        assert_eq!(reply.json()["path"], upstream, "{path}");
        assert_eq!(reply.json()["headers"]["x-envoy-original-path"][0], path);
    }
    // No method is implied, and nothing beside the patterns is served.
    for (method, path) in
        [("POST", "/w/v1.0/us/x"), ("GET", "/w/v1.0/us/x/y"), ("GET", "/w"), ("OPTIONS", "/plain")]
    {
        let reply = gateway.call(request(method, path, "")).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{method} {path}");
        assert_eq!(reply.body.as_ref(), br#"{"error":"Not Found"}"#);
        assert_eq!(reply.header("content-type"), Some("application/json"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_follow_the_contract_in_both_directions() {
    let (gateway, backend) = (Gateway::start().await, Backend::start().await);
    gateway.deploy(&[api("/h", &backend.url(), |_| {})]).await;
    let mut sent = get("/h/x");
    for (name, value) in [
        ("connection", "keep-alive, x-private"),
        ("x-private", "1"),
        ("keep-alive", "timeout=1"),
        ("te", "trailers"),
        ("x-envoy-original-path", "/forged"),
        ("x-envoy-expected-rq-timeout-ms", "1"),
        ("x-target-upstream", "forged"),
        ("x-forwarded-for", "198.51.100.7"),
        ("x-request-id", "my-id"),
        ("x-kept", "a"),
        ("x-kept", "b"),
    ] {
        sent.headers_mut().append(name, value.parse().expect("a value"));
    }
    let reply = gateway.call(sent).await;
    let seen = &reply.json()["headers"];
    for (name, values) in [
        ("host", json!([backend.address.to_string()])),
        ("x-envoy-original-path", json!(["/h/x"])),
        ("x-envoy-expected-rq-timeout-ms", json!(["60000"])),
        ("x-forwarded-for", json!(["198.51.100.7"])),
        ("x-forwarded-proto", json!(["http"])),
        ("x-request-id", json!(["my-id"])),
        ("x-kept", json!(["a", "b"])),
    ] {
        assert_eq!(seen[name], values, "{name}");
    }
    for name in ["x-private", "keep-alive", "te", "x-target-upstream", "connection", "transfer-encoding"] {
        assert!(seen[name].is_null(), "{name} reached the upstream");
    }
    assert_eq!(reply.header("server"), Some("ferrogate"));
    assert_eq!(reply.header("x-backend"), Some("1"));
    assert!(reply.header("date").is_some() && reply.header("x-envoy-upstream-service-time").is_some());
    assert!(reply.header("x-hop").is_none() && reply.header("connection").is_none());
    // Without an id of the client's one is made.
    let made = gateway.get("/h/x").await.json();
    assert_eq!(made["headers"]["x-request-id"][0].as_str().map(str::len), Some(36));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_host_passes_when_the_artifact_says_so() {
    let (gateway, backend) = (Gateway::start().await, Backend::start().await);
    let manual = api("/m", &backend.url(), |spec| spec["upstream"]["main"]["hostRewrite"] = json!("manual"));
    gateway.deploy(&[manual]).await;
    assert_eq!(gateway.get("/m/x").await.json()["headers"]["host"], json!(["books.example"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_and_status_passes() {
    let (gateway, backend) = (Gateway::start().await, Backend::start().await);
    gateway.deploy(&[api("/s", &backend.url(), |_| {})]).await;
    let mut client = Client::connect(gateway.http).await;
    for method in ["GET", "POST", "PUT", "DELETE"] {
        let reply = client.call(request(method, "/s/x", "hello")).await;
        assert_eq!(reply.json()["method"], method);
        assert_eq!(reply.json()["body"], "hello");
    }
    let head = client.call(request("HEAD", "/s/x", "")).await;
    assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
    assert!(head.header("content-length").is_some());
    for status in [201, 204, 301, 304, 404, 500, 503] {
        let reply = client.call(get(&format!("/s/status/{status}"))).await;
        assert_eq!(reply.status.as_u16(), status);
    }
    // All of it on few upstream connections: at most one per request would be no pool.
    assert!(backend.connections.load(Ordering::SeqCst) <= 2, "{:?}", backend.connections);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_body_streams_both_ways_at_the_readers_pace() {
    const CHUNKS: usize = 512;
    let (gateway, backend) = (Gateway::start().await, Backend::start().await);
    gateway.deploy(&[api("/b", &backend.url(), |_| {})]).await;
    let chunk = Bytes::from(vec![b'y'; 64 * 1024]);
    let frames = futures::stream::iter((0..CHUNKS).map({
        let chunk = chunk.clone();
        move |_| Ok::<_, std::io::Error>(Frame::data(chunk.clone()))
    }));
    let stream = TcpStream::connect(gateway.http).await.expect("a connection");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { drop(connection.await) });
    let sent = Request::post("/b/mirror").header("host", "h").body(BodyExt::boxed(StreamBody::new(frames)));
    // The mirror answers before it has the whole body: 32 MiB are never in memory at once.
    let response = sender.send_request(sent.expect("a request")).await.expect("a response");
    let mut body = response.into_body().into_data_stream();
    let mut bytes = 0;
    while let Some(data) = body.next().await {
        bytes += data.expect("a chunk").len();
    }
    assert_eq!(bytes, CHUNKS * chunk.len());
    let large = gateway.get("/b/large/256").await;
    assert_eq!(large.body.len(), 256 * 64 * 1024);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_choose_their_routes_without_fallback() {
    let (gateway, backend) = (Gateway::start().await, Backend::start().await);
    let on = |context: &str, hosts: &str, base: &str| {
        let hosts = hosts.to_owned();
        api(context, &format!("{}{base}", backend.url()), move |spec| {
            spec["vhosts"] = json!({ "main": hosts })
        })
    };
    gateway.deploy(&[on("/a", "api.example.com", "/exact"), on("/b", "*.example.com", "/suffix")]).await;
    let call = async |host: &str, path: &str| {
        let mut sent = get(path);
        sent.headers_mut().insert("host", host.parse().expect("a host"));
        gateway.call(sent).await
    };
    assert_eq!(call("API.example.com:8080", "/a/x").await.json()["path"], "/exact/x");
    assert_eq!(call("other.example.com", "/b/x").await.json()["path"], "/suffix/x");
    assert_eq!(call("api.example.com", "/b/x").await.status, StatusCode::NOT_FOUND);
    assert_eq!(call("nowhere.test", "/a/x").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_definitions_targets_take_turns_by_weight() {
    let (gateway, one, two) = (Gateway::start().await, Backend::start().await, Backend::start().await);
    let split = api("/split", "http://unused.invalid", |spec| {
        spec["upstream"]["main"] = json!({ "ref": "both" });
        spec["upstreamDefinitions"] = json!([{
            "name": "both",
            "basePath": "/base",
            "upstreams": [{ "url": one.url(), "weight": 3 }, { "url": two.url(), "weight": 1 }],
        }]);
    });
    gateway.deploy(&[split]).await;
    // One client connection, so one worker and one schedule.
    let mut client = Client::connect(gateway.http).await;
    let mut shares = [0, 0];
    for _ in 0..40 {
        let echoed = client.call(get("/split/x")).await.json();
        assert_eq!(echoed["path"], "/base/x");
        let host = echoed["headers"]["host"][0].as_str().unwrap_or_default().to_owned();
        shares[usize::from(host == two.address.to_string())] += 1;
    }
    assert_eq!(shares, [30, 10]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_by_prior_knowledge_reaches_the_same_routes() {
    let (gateway, backend) = (Gateway::start().await, Backend::start().await);
    gateway.deploy(&[api("/h2", &backend.url(), |_| {})]).await;
    let stream = TcpStream::connect(gateway.http).await.expect("a connection");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("h2");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { drop(connection.await) });
    let sent = Request::post("http://books.example/h2/x")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(http_body_util::Full::new(Bytes::from_static(b"over h2")));
    let reply =
        crate::support::read(sender.send_request(sent.expect("a request")).await.expect("a response")).await;
    assert_eq!(reply.json()["body"], "over h2");
    assert_eq!(reply.json()["headers"]["cookie"], json!(["a=1; b=2"]));
    let line = &gateway.log_lines(1).await[0];
    assert_eq!((&line["host"], &line["proto"]), (&json!("books.example"), &json!("HTTP/2")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ambiguous_requests_are_refused() {
    let (gateway, backend) = (Gateway::start().await, Backend::start().await);
    gateway.deploy(&[api("/", &backend.url(), |_| {})]).await;
    for bad in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nBad Header: 1\r\n\r\n",
        "GET /caf\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n",
        "not http at all\r\n\r\n",
    ] {
        let answer = raw(gateway.http, bad.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{bad:?} -> {answer:?}");
    }
    let many = "x-many: 1\r\n".repeat(200);
    let answer = raw(gateway.http, format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
    let large = "x".repeat(128 * 1024);
    let answer =
        raw(gateway.http, format!("GET / HTTP/1.1\r\nHost: a\r\nx-large: {large}\r\n\r\n").as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
    // Both framings at once: refused by our own codec. hyper lets the chunks count, the length
    // goes, and either way the connection ends (RFC 9112, 6.1).
    let both = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = raw(gateway.http, both.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer:?}");
    if crate::CODEC == Http1Codec::Own {
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer:?}");
        return;
    }
    assert!(answer.contains(r#""body":"ok""#), "{answer:?}");
    assert!(!answer.contains(r#""content-length""#), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_goes_on_as_it_came() {
    let gateway = Gateway::start().await;
    let backend = Backend::listen(|mut stream, _| async move {
        let head = read_head(&mut stream).await.unwrap_or_default();
        let line = head.lines().next().unwrap_or_default();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{line}", line.len());
        drop(stream.write_all(answer.as_bytes()).await);
    })
    .await;
    let looked_into = json!([{ "name": "probe", "version": "v1", "params": { "do": "buffer-request" } }]);
    gateway
        .deploy(&[
            api("/plain", &backend.url(), |_| {}),
            api("/looked", &backend.url(), |spec| spec["policies"] = looked_into),
        ])
        .await;
    let own = crate::CODEC == Http1Codec::Own;
    for (query, plain, looked) in [
        ("q={a:`b`|c}", Some("q={a:`b`|c}"), Some("q={a:`b`|c}")),
        ("q=caf\u{e9}", Some("q=caf\u{e9}"), Some("q=caf\u{e9}")),
        // hyper, which reads bodies for policies, knows no such query: it is given the escapes.
        ("q=<\"b\">", own.then_some("q=<\"b\">"), own.then_some("q=%3C%22b%22%3E")),
    ] {
        for (context, expected) in [("plain", plain), ("looked", looked)] {
            let sent = format!("GET /{context}/x?{query} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
            let answer = raw(gateway.http, sent.as_bytes()).await;
            let seen = answer.split_once("GET /x?").map(|(_, rest)| rest.trim_end_matches(" HTTP/1.1"));
            assert_eq!(seen, expected, "{context} {query}: {answer}");
        }
    }
    let path = raw(gateway.http, b"GET /plain/<x> HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await;
    assert!(path.starts_with("HTTP/1.1 400 "), "{path}");
}
