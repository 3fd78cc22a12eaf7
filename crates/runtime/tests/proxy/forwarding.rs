// SPDX-License-Identifier: Apache-2.0
//! Who the client is, through proxies and load balancers, and what the upstream is told.

use ferrogate_runtime::config::Forwarding;
use serde_json::{Value, json};

use crate::support::backend::Backend;
use crate::support::{Gateway, api, raw};

async fn gateway(edit: impl FnOnce(&mut ferrogate_runtime::config::Config)) -> (Gateway, Backend) {
    let (gateway, backend) = (Gateway::start_with(edit).await, Backend::start().await);
    gateway.deploy(&[api("/f", &backend.url(), |_| {})]).await;
    (gateway, backend)
}

/// The headers that arrived, and the answer's head.
async fn seen(gateway: &Gateway, before: &str, headers: &str) -> (Value, String) {
    let bytes = format!("{before}GET /f/x HTTP/1.1\r\nhost: h\r\n{headers}\r\nGET /n HTTP/1.0\r\n\r\n");
    let answer = raw(gateway.http, bytes.as_bytes()).await;
    let (head, rest) = answer.split_once("\r\n\r\n").expect("an answer");
    let mut bodies = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
    let body = bodies.next().expect("a body").expect("a JSON body");
    (body["headers"].clone(), head.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unconfigured_the_contract_holds() {
    let (gateway, _backend) = gateway(|_| {}).await;
    let (headers, head) = seen(&gateway, "", "x-forwarded-for: 1.1.1.1\r\nforwarded: for=1.1.1.1\r\n").await;
    assert_eq!(headers["x-forwarded-for"], json!(["1.1.1.1"]));
    assert_eq!(headers["forwarded"], json!(["for=1.1.1.1"]));
    assert!(headers.get("via").is_none() && !head.contains("via:"), "{headers} {head}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_proxy_and_via() {
    let forwarding = Forwarding { trusted_hops: Some(1), rfc7239: true, via: Some("edge".to_owned()) };
    let (gateway, _backend) = gateway(move |config| config.forwarding = forwarding).await;
    let (headers, head) = seen(&gateway, "", "x-forwarded-for: 6.6.6.6, 1.1.1.1\r\nvia: 1.0 inner\r\n").await;
    assert_eq!(headers["x-forwarded-for"], json!(["1.1.1.1, 127.0.0.1"]));
    assert_eq!(headers["x-forwarded-host"], json!(["h"]));
    assert_eq!(headers["forwarded"], json!(["for=127.0.0.1;host=\"h\";proto=http"]));
    assert_eq!(headers["via"], json!(["1.0 inner, 1.1 edge"]));
    assert!(head.contains("via: 1.1 edge"), "{head}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_balancer_tells_by_the_proxy_protocol() {
    let (gateway, _backend) = gateway(|config| {
        config.listen.proxy_protocol = true;
        config.forwarding.trusted_hops = Some(0);
    })
    .await;
    let v2 = "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x01\x02\x03\x04";
    for (header, client) in [
        ("PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n", "192.0.2.7"),
        ("PROXY TCP6 2001:db8::7 2001:db8::1 56324 443\r\n", "2001:db8::7"),
        (v2, "1.2.3.4"),
        // A health check of the balancer's own.
        ("PROXY UNKNOWN\r\n", "127.0.0.1"),
    ] {
        let (headers, _) = seen(&gateway, header, "").await;
        assert_eq!(headers["x-forwarded-for"], json!([client]), "{header:?}");
    }
    // Whoever may leave it out may also make it up.
    for bytes in ["GET /f/x HTTP/1.1\r\nhost: h\r\n\r\n", "PROXY TCP4 x y 1 2\r\nGET / HTTP/1.0\r\n\r\n"] {
        assert_eq!(raw(gateway.http, bytes.as_bytes()).await, "", "{bytes:?}");
    }
    let metrics = gateway.door(gateway.running().addresses().metrics, "/metrics").await;
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(metrics.contains("ferrogate_runtime_proxy_header_failures_total 2"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sticky_cookie_that_was_given_over_tls_is_never_sent_in_the_clear() {
    let (gateway, backend) = gateway(|_| {}).await;
    let other = Backend::start().await;
    let upstreams = json!([{ "url": backend.url() }, { "url": other.url() }]);
    let balancing = json!({ "policy": "sticky-cookie" });
    let definition = json!([{ "name": "d", "upstreams": upstreams, "loadBalancing": balancing }]);
    let sticky = api("/f", "http://unused", |spec| {
        spec["upstreamDefinitions"] = definition;
        spec["upstream"] = json!({ "main": { "ref": "d" } });
    });
    gateway.deploy(&[sticky]).await;
    for (headers, secure) in [("", false), ("x-forwarded-proto: https\r\n", true)] {
        let (_, head) = seen(&gateway, "", headers).await;
        let cookie = head.lines().find(|line| line.starts_with("set-cookie: ")).expect("a cookie");
        assert_eq!(cookie.ends_with("; Secure"), secure, "{cookie}");
    }
}
