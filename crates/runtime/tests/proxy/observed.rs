// SPDX-License-Identifier: Apache-2.0
//! What an operator sees: side doors, metrics, access log.

use ferrogate_base::networks::Networks;
use ferrogate_runtime::access_log::Format;
use http::StatusCode;
use serde_json::json;

use crate::support::backend::Backend;
use crate::support::{Client, Gateway, api, eventually, get, probes, raw, request};

/// With a trailer, for clients that ask for one.
const WITH_TRAILER: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_side_doors_say_what_is_served() {
    let gateway = Gateway::start().await;
    let doors = gateway.running().addresses();
    assert_eq!(gateway.door(doors.readiness, "/ready").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(gateway.door(doors.admin, "/health").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(gateway.get("/_gateway-health/ready").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(gateway.get("/_gateway-health/healthy").await.json(), json!({ "status": "healthy" }));
    gateway.deploy(&[api("/a", "http://127.0.0.1:9", |_| {})]).await;
    assert_eq!(gateway.door(doors.readiness, "/ready").await.status, StatusCode::OK);
    assert_eq!(gateway.door(doors.admin, "/health").await.json()["status"], "healthy");
    let ready = gateway.get("/_gateway-health/ready").await;
    assert_eq!(
        (ready.json(), ready.header("content-type")),
        (json!({ "status": "ready" }), Some("application/json"))
    );
    let sync = gateway.door(doors.admin, "/xds_sync_status").await.json();
    assert_eq!((&sync["component"], &sync["policy_chain_version"]), (&json!("policy-engine"), &json!("1")));
    let status = gateway.door(doors.admin, "/status").await.json();
    for (key, value) in [
        ("epoch", json!(1)),
        ("revision", json!(1)),
        ("artifacts", json!(1)),
        ("fromCache", json!(false)),
        ("ready", json!(true)),
    ] {
        assert_eq!(status[key], value, "{key} in {status}");
    }
    assert_eq!(gateway.door(doors.admin, "/config_dump").await.status, StatusCode::NOT_FOUND);
    let post = Client::connect(doors.admin.expect("a door")).await.call(request("POST", "/health", "")).await;
    assert_eq!(post.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dump_shows_no_parameters_and_only_to_whom_it_may() {
    let dumping = |allowed: &str| {
        let mut networks = Networks::none();
        networks.add(allowed).expect("an address");
        Gateway::start_with(move |config| {
            config.admin.config_dump = true;
            config.admin.allowed_ips = networks;
        })
    };
    let gateway = dumping("127.0.0.1").await;
    let policies = crate::support::probes(&[json!({ "do": "tag", "value": "hunter2" })]);
    gateway.deploy(&[api("/a", "http://127.0.0.1:9", |spec| spec["policies"] = policies)]).await;
    let dump = gateway.door(gateway.running().addresses().admin, "/config_dump").await;
    let text = String::from_utf8_lossy(&dump.body).into_owned();
    assert!(text.contains("rest-apis/api-a") && text.contains("127.0.0.1:9"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    let closed = dumping("192.0.2.1").await;
    let door = closed.running().addresses().admin;
    assert_eq!(closed.door(door, "/config_dump").await.status, StatusCode::FORBIDDEN);
    assert_eq!(closed.door(door, "/health").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_counted_and_logged_once_each() {
    let (gateway, backend) = (Gateway::start().await, Backend::start().await);
    gateway.deploy(&[api("/l", &backend.url(), |_| {})]).await;
    let mut sent = request("POST", "/l//x?q=1", "12345");
    sent.headers_mut().insert("user-agent", "tests/1".parse().expect("a value"));
    sent.headers_mut().insert("x-request-id", "id-1".parse().expect("a value"));
    let reply = gateway.call(sent).await;
    assert_eq!(reply.status, StatusCode::OK);
    let mut lost = request("GET", "/nowhere", "");
    lost.headers_mut().insert("x-request-id", "id-2".parse().expect("a value"));
    assert_eq!(gateway.call(lost).await.status, StatusCode::NOT_FOUND);
    // A client that leaves is a line as well.
    let mut leaving = Client::connect(gateway.http).await;
    let waiting = tokio::time::timeout(std::time::Duration::from_millis(100), leaving.send(get("/l/never")));
    assert!(waiting.await.is_err());
    drop(leaving);
    let lines = gateway.log_lines(3).await;
    let line = lines.iter().find(|line| line["reqId"] == "id-1").expect("the first request's line");
    for (key, value) in [
        ("meth", json!("POST")),
        ("path", json!("/l//x?q=1")),
        ("proto", json!("HTTP/1.1")),
        ("respCd", json!(200)),
        ("bytesRx", json!(5)),
        ("bytesTx", json!(reply.body.len())),
        ("ua", json!("tests/1")),
        ("host", json!("books.example")),
        ("upHost", json!(backend.address.to_string())),
        ("upPath", json!("/x?q=1")),
        ("route", json!("POST|/l/*|*")),
        ("artifact", json!("rest-apis/api-l")),
        ("revision", json!(1)),
        ("epoch", json!(1)),
    ] {
        assert_eq!(line[key], value, "{key} in {line}");
    }
    assert!(line["dur"].as_f64() >= line["upSvcT"].as_f64() && line["upSvcT"].is_number(), "{line}");
    assert!(
        lines.iter().any(|line| line["reason"] == "route_not_found"
            && line["respCd"] == 404
            && line["reqId"] == "id-2"),
        "{lines:?}"
    );
    assert!(lines.iter().any(|line| line["respCdDtl"] == "client_gone" && line["respCd"] == 0), "{lines:?}");

    let metrics = gateway.door(gateway.running().addresses().metrics, "/metrics").await;
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    for line in [
        "ferrogate_runtime_requests_total{class=\"2xx\"} 1",
        "ferrogate_runtime_requests_total{class=\"4xx\"} 1",
        "ferrogate_runtime_requests_total{class=\"none\"} 1",
        "ferrogate_runtime_failures_total{reason=\"route_not_found\"} 1",
        "ferrogate_runtime_requests_in_flight 0",
        "ferrogate_runtime_revision 1",
        "policy_engine_requests_total 3",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_have_the_configured_form_whoever_served() {
    let format = "%REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% \"%REQ(X-TIER?X-NO)%\" \
                  %RESP(X-BACKEND)% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% \
                  %REQUEST_DURATION% %REQUEST_TX_DURATION% %RESPONSE_DURATION% %RESPONSE_TX_DURATION%";
    let format = Format::of_text(format).expect("a format");
    let gateway = Gateway::start_with(|config| config.access_log.format = format).await;
    let backend = Backend::start().await;
    // The second is served by hyper in either codec.
    let whole = probes(&[json!({ "do": "buffer-request" })]);
    gateway
        .deploy(&[
            api("/f", &backend.url(), |_| {}),
            api("/w", &backend.url(), |spec| spec["policies"] = whole),
        ])
        .await;
    for path in ["/f/x?q=1", "/w/x?q=1"] {
        let mut sent = request("POST", path, "12345");
        sent.headers_mut().insert("x-tier", "go\"ld".parse().expect("a value"));
        assert_eq!(gateway.call(sent).await.status, StatusCode::OK);
    }
    assert_eq!(gateway.get("/nowhere").await.status, StatusCode::NOT_FOUND);
    let read = || std::fs::read_to_string(&gateway.access_log).unwrap_or_default();
    eventually("three lines", || read().lines().count() == 3).await;
    for line in read().lines().filter(|line| line.starts_with("POST")) {
        let times = line.strip_prefix(r#"POST /x?q=1 200 - "go\x22ld" 1 127.0.0.1 "#);
        let times = times.map(|times| times.split(' ').map(str::parse::<u64>).collect::<Result<Vec<_>, _>>());
        assert!(matches!(&times, Some(Ok(times)) if times.len() == 4), "{line}");
    }
    assert!(read().contains("GET /nowhere 404 NR \"-\" - 127.0.0.1 "), "{}", read());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moved_log_is_opened_anew_and_a_long_one_moved_aside() {
    let gateway = Gateway::start_with(|config| config.access_log.rotate_bytes = 1).await;
    gateway.deploy(&[]).await;
    let named = |suffix: &str| {
        let path = format!("{}{suffix}", gateway.access_log.display());
        std::fs::read_to_string(path).unwrap_or_default()
    };
    for path in ["/first", "/second"] {
        gateway.get(path).await;
        eventually("a line", || named("").contains(path)).await;
    }
    assert!(named(".1").contains("/first"), "moved aside when the second came");
    std::fs::rename(&gateway.access_log, gateway.access_log.with_extension("moved")).expect("moved");
    gateway.running().reopen_log().expect("a file").ask();
    eventually("a new file", || gateway.access_log.exists()).await;
    gateway.get("/third").await;
    eventually("a line in it", || named("").contains("/third")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_that_ends_without_its_body_is_complete() {
    let gateway = Gateway::start().await;
    let (echo, trailing) = (Backend::start().await, Backend::scripted(&[&[WITH_TRAILER]]).await);
    let (tea, stream) =
        (probes(&[json!({ "do": "answer", "value": "tea" })]), probes(&[json!({ "do": "stream-response" })]));
    gateway
        .deploy(&[
            api("/echo", &echo.url(), |_| {}),
            api("/tea", &echo.url(), |spec| spec["policies"] = tea),
            api("/trailing", &trailing.url(), |_| {}),
            api("/streamed", &trailing.url(), |spec| spec["policies"] = stream),
        ])
        .await;
    let mut client = Client::connect(gateway.http).await;
    for (path, length) in
        [("/tea/x", "3"), ("/_gateway-health/healthy", "20"), ("/echo/x", ""), ("/echo/status/204", "")]
    {
        let reply = client.call(request("HEAD", path, "")).await;
        assert!(reply.body.is_empty());
        assert!(length.is_empty() || reply.header("content-length") == Some(length), "{path}: {reply:?}");
    }
    for (path, body) in [("/trailing/x", "3\r\nabc\r\n0\r\n"), ("/streamed/x", "|END\r\n0\r\n")] {
        let asked = format!("GET {path} HTTP/1.1\r\nhost: h\r\nte: trailers\r\nconnection: close\r\n\r\n");
        let answer = raw(gateway.http, asked.as_bytes()).await;
        assert!(answer.ends_with(&format!("{body}x-sum: 7\r\n\r\n")), "{path}: {answer:?}");
    }
    let lines = gateway.log_lines(6).await;
    assert!(lines.iter().all(|line| line["respCdDtl"].is_null()), "{lines:?}");
    let metrics = gateway.door(gateway.running().addresses().metrics, "/metrics").await;
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(text.contains("ferrogate_runtime_client_gone_total 0"), "{text}");
}
