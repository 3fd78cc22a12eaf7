// SPDX-License-Identifier: Apache-2.0
//! Requests that are sent again, divided, copied, delayed and failed on purpose.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::backend::Backend;
use crate::support::{Client, Gateway, PATIENCE, api, eventually, get, request};

const UNAVAILABLE: &str = "HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// An API over definitions, each with one target, of which `main` names some.
fn over(context: &str, definitions: &[(&str, String)], main: &Value, resilience: &Value) -> Value {
    let definitions: Vec<Value> = definitions
        .iter()
        .map(|(name, url)| json!({ "name": name, "upstreams": [{ "url": url }] }))
        .collect();
    api(context, "http://unused", |spec| {
        spec["upstreamDefinitions"] = json!(definitions);
        spec["upstream"] = json!({ "main": main });
        spec["resilience"] = resilience.clone();
    })
}

fn retrying(context: &str, url: String, retry: &Value) -> Value {
    over(context, &[("d", url)], &json!({ "ref": "d" }), &json!({ "retry": retry }))
}

async fn one_worker() -> Gateway {
    Gateway::start_with(|config| config.workers = 1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_that_is_listed_is_tried_again_where_that_changes_nothing() {
    let gateway = one_worker().await;
    let recovers = Backend::scripted(&[&[UNAVAILABLE], &[UNAVAILABLE], &[OK]]).await;
    let retry = json!({ "maxRetries": 2, "statusCodes": [503], "backoff": { "base": "1ms" } });
    gateway.deploy(&[retrying("/again", recovers.url(), &retry)]).await;
    // A POST may have been acted on.
    let once = gateway.call(request("POST", "/again/x", "once")).await;
    assert_eq!((once.status, once.body.as_ref()), (StatusCode::SERVICE_UNAVAILABLE, b"busy".as_slice()));
    assert_eq!(recovers.connections.load(Ordering::SeqCst), 1);
    let answered = gateway.call(request("PUT", "/again/x", "twice")).await;
    assert_eq!((answered.status, answered.body.as_ref()), (StatusCode::OK, b"ok".as_slice()));
    assert_eq!(recovers.connections.load(Ordering::SeqCst), 3);
    let never = Backend::scripted(&[&[UNAVAILABLE]]).await;
    gateway.deploy(&[retrying("/never", never.url(), &retry)]).await;
    assert_eq!(gateway.get("/never/x").await.body.as_ref(), b"busy", "the last answer counts");
    assert_eq!(never.connections.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_endpoint_is_tried_and_sees_the_whole_request_under_its_own_name() {
    let (gateway, sound) = (one_worker().await, Backend::start().await);
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    let two = |context: &str, balancing: Value| {
        api(context, "http://unused", |spec| {
            // Most turns are the dead one's, so that two in a row come up.
            let gone = json!({ "url": format!("http://{gone}"), "weight": 75 });
            spec["upstreamDefinitions"] = json!([{
                "name": "d",
                "upstreams": [gone, { "url": sound.url(), "weight": 25 }],
                "loadBalancing": balancing,
            }]);
            spec["upstream"] = json!({ "main": { "ref": "d" } });
            spec["resilience"] = json!({ "retry": { "backoff": { "base": "1ms" } } });
        })
    };
    let least = json!({ "policy": "least-request" });
    gateway.deploy(&[two("/least", least), two("/turns", json!({ "policy": "round-robin" }))]).await;
    for round in 0..8 {
        for path in ["/least/x", "/turns/x"] {
            // Nothing was sent where nobody listens, so even a POST goes on elsewhere.
            let reply = gateway.call(request("POST", path, "the body")).await;
            assert_eq!(reply.status, StatusCode::OK, "{path} {round}: {reply:?}");
            assert_eq!(reply.json()["headers"]["host"][0], sound.address.to_string());
            assert_eq!(reply.json()["body"], "the body");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_takes_too_long_is_given_up_for_the_next() {
    let gateway = one_worker().await;
    let hangs_once = Backend::scripted(&[&["", "never"], &[OK]]).await;
    let retry = json!({ "perTryTimeout": "200ms", "backoff": { "base": "1ms" } });
    gateway.deploy(&[retrying("/slow", hangs_once.url(), &retry)]).await;
    let begun = Instant::now();
    assert_eq!(gateway.get("/slow/x").await.body.as_ref(), b"ok");
    assert!(begun.elapsed() >= Duration::from_millis(200));
    assert_eq!(hangs_once.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_slowly_does_not_use_up_an_attempt() {
    let (gateway, backend) = (one_worker().await, Backend::start().await);
    gateway.deploy(&[retrying("/slow", backend.url(), &json!({ "perTryTimeout": "100ms" }))]).await;
    let mut client = TcpStream::connect(gateway.http).await.expect("a connection");
    let begun = b"POST /slow/x HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
    client.write_all(begun).await.expect("sent");
    eventually("the request at its upstream", || backend.control.requests.load(Ordering::SeqCst) == 1).await;
    let mut reply = vec![0; 4096];
    // Longer than an attempt may take.
    let early = tokio::time::timeout(Duration::from_millis(400), client.read(&mut reply)).await;
    assert!(early.is_err(), "{}", String::from_utf8_lossy(&reply));
    client.write_all(b"0\r\n\r\n").await.expect("sent");
    let read = tokio::time::timeout(PATIENCE, client.read(&mut reply)).await.expect("an answer");
    let reply = String::from_utf8_lossy(&reply[..read.expect("an answer")]).into_owned();
    assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_budget_means_no_retry() {
    let gateway = one_worker().await;
    let busy = Backend::scripted(&[&[UNAVAILABLE]]).await;
    let retry = json!({ "maxRetries": 5, "statusCodes": [503], "budget": { "percent": 0, "minimum": 0 } });
    gateway.deploy(&[retrying("/none", busy.url(), &retry)]).await;
    assert_eq!(gateway.get("/none/x").await.body.as_ref(), b"busy");
    assert_eq!(busy.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_divided_and_a_key_stays_on_its_side() {
    let gateway = one_worker().await;
    let (stable, canary) = (Backend::start().await, Backend::start().await);
    let definitions = [("stable", stable.url()), ("canary", canary.url())];
    let split = json!([{ "ref": "stable", "weight": 70 }, { "ref": "canary", "weight": 30 }]);
    let by_user = json!({ "split": split, "hashOn": "header", "name": "x-user" });
    gateway
        .deploy(&[
            over("/split", &definitions, &json!({ "split": split }), &json!({})),
            over("/sticky", &definitions, &by_user, &json!({})),
        ])
        .await;
    let mut client = Client::connect(gateway.http).await;
    for _ in 0..200 {
        assert_eq!(client.call(get("/split/x")).await.status, StatusCode::OK);
    }
    let on_canary = canary.control.requests.load(Ordering::SeqCst);
    assert!((30..=90).contains(&on_canary), "{on_canary} of 200 at 30 percent");
    let mut sides = std::collections::BTreeSet::new();
    for user in 0..20 {
        let mut hosts = std::collections::BTreeSet::new();
        for _ in 0..3 {
            let mut sent = get("/sticky/x");
            sent.headers_mut().insert("x-user", format!("user-{user}").parse().expect("a value"));
            hosts.insert(client.call(sent).await.json()["headers"]["host"][0].to_string());
        }
        assert_eq!(hosts.len(), 1, "user {user}");
        sides.extend(hosts);
    }
    assert_eq!(sides.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_reaches_the_mirror_and_the_client_does_not_notice() {
    let gateway = one_worker().await;
    let (main, shadow) = (Backend::start().await, Backend::start().await);
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    let definitions = [("main", main.url()), ("shadow", shadow.url()), ("gone", format!("http://{gone}"))];
    let mirrored = |to: &str| json!({ "ref": "main", "mirror": { "ref": to } });
    gateway
        .deploy(&[
            over("/copied", &definitions, &mirrored("shadow"), &json!({})),
            over("/lost", &definitions, &mirrored("gone"), &json!({})),
        ])
        .await;
    let reply = gateway.call(request("POST", "/copied/x", "twice")).await;
    assert_eq!(reply.json()["headers"]["host"][0], main.address.to_string());
    eventually("the copy", || shadow.control.requests.load(Ordering::SeqCst) == 1).await;
    // A mirror that hangs or is not there costs nothing.
    main.control.gate.add_permits(10);
    for _ in 0..10 {
        assert_eq!(gateway.get("/copied/gate").await.status, StatusCode::OK);
        assert_eq!(gateway.get("/lost/x").await.status, StatusCode::OK);
    }
    // A body too long to hold goes to the upstream alone.
    let long = gateway.call(request("POST", "/copied/x", vec![b'x'; 70_000])).await;
    assert_eq!(long.status, StatusCode::OK);
    let metrics = gateway.door(gateway.running().addresses().metrics, "/metrics").await;
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(text.contains("ferrogate_runtime_mirror_dropped_total 1"), "{text}");
    assert!(text.contains("ferrogate_runtime_mirrored_total 21"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_delay_and_answer_instead_of_the_upstream() {
    let (gateway, backend) = (one_worker().await, Backend::start().await);
    let fault = |fault: Value| json!({ "fault": fault });
    let definitions = [("d", backend.url())];
    let main = json!({ "ref": "d" });
    gateway
        .deploy(&[
            over("/fails", &definitions, &main, &fault(json!({ "abort": { "status": 429 } }))),
            over("/slow", &definitions, &main, &fault(json!({ "delay": { "duration": "150ms" } }))),
            over("/no", &definitions, &main, &fault(json!({ "abort": { "status": 500, "percent": 0 } }))),
        ])
        .await;
    let failed = gateway.get("/fails/x").await;
    assert_eq!((failed.status.as_u16(), failed.reason().as_str()), (429, "fault_injected"));
    assert_eq!(failed.json()["error"], "Too Many Requests");
    assert_eq!(backend.control.requests.load(Ordering::SeqCst), 0);
    let begun = Instant::now();
    assert_eq!(gateway.get("/slow/x").await.status, StatusCode::OK);
    assert!(begun.elapsed() >= Duration::from_millis(150));
    assert_eq!(gateway.get("/no/x").await.status, StatusCode::OK);
}
