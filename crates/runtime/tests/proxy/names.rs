// SPDX-License-Identifier: Apache-2.0
//! Upstreams by names that stand for several addresses, with a name server of the test's own.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;

use ferrogate_testkit::name_server::NameServer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::support::backend::{Backend, serve};
use crate::support::{Gateway, PATIENCE, api, eventually};

/// Loopback addresses that every name stands for here.
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3)];

/// A name server that knows these addresses of every name, for as long as it is held.
async fn name_server() -> NameServer {
    let server = NameServer::start().await.expect("a free port");
    server.says(&ADDRESSES.map(IpAddr::V4));
    server
}

/// An upstream at each of the addresses, on one port.
async fn backends() -> Vec<Backend> {
    loop {
        let first = TcpListener::bind((ADDRESSES[0], 0)).await.expect("a free port");
        let port = first.local_addr().expect("an address").port();
        // Somebody may have the same port on the other address.
        if let Ok(second) = TcpListener::bind((ADDRESSES[1], port)).await {
            let backend = |listener| Backend::over(listener, serve);
            return vec![backend(first), backend(second)];
        }
    }
}

/// An API over `books.example` at this port, with these fields of its definition besides.
fn named(port: u16, fields: &Value) -> Value {
    let url = format!("http://books.example:{port}");
    let mut definition = json!({ "name": "d", "upstreams": [{ "url": url, "weight": 1 }] });
    definition.as_object_mut().expect("a map").extend(fields.as_object().expect("a map").clone());
    api("/n", "http://unused", |spec| {
        spec["upstreamDefinitions"] = json!([definition]);
        spec["upstream"] = json!({ "main": { "ref": "d" } });
    })
}

fn requests(backend: &Backend) -> usize {
    backend.control.requests.load(Ordering::SeqCst)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_address_of_a_name_is_an_endpoint() {
    let (server, mut backends) = (name_server().await, backends().await);
    let gateway = Gateway::start_with(|config| {
        config.workers = 1;
        config.upstream.nameservers = vec![server.address];
    })
    .await;
    let port = backends[0].address.port();
    let fields = json!({
        "endpoints": "per-address",
        "outlierDetection": { "consecutiveFailures": 1, "baseEjectionTime": "1h", "maxEjectionTime": "1h" },
        "healthCheck": { "type": "tcp", "interval": "1h" },
    });
    gateway.deploy(&[named(port, &fields)]).await;
    let each = ADDRESSES.map(|address| json!(format!("http://books.example:{port} at {address}")));
    let listed = async {
        loop {
            let status = gateway.door(gateway.running().addresses().admin, "/status").await.json();
            let checks = status["healthChecks"].as_array().cloned().unwrap_or_default();
            if each.iter().all(|endpoint| checks.iter().any(|check| check["endpoint"] == *endpoint)) {
                break;
            }
        }
    };
    timeout(PATIENCE, listed).await.expect("both addresses are checked");
    // Until its first answer the name is the endpoint.
    let told = ADDRESSES.map(|address| SocketAddr::new(IpAddr::V4(address), port).to_string());
    let served = async {
        let mut asked = 0;
        loop {
            gateway.get("/n/x").await;
            asked += 1;
            let lines = gateway.log_lines(asked).await;
            if lines.iter().any(|line| told.iter().any(|host| line["upHost"] == *host)) {
                return asked;
            }
        }
    };
    let asked = timeout(PATIENCE, served).await.expect("an address of the name serves");
    let before: Vec<usize> = backends.iter().map(requests).collect();
    for _ in 0..10 {
        let reply = gateway.get("/n/x").await;
        assert_eq!(reply.json()["headers"]["host"], json!([format!("books.example:{port}")]));
    }
    for (backend, before) in backends.iter().zip(&before) {
        assert_eq!(requests(backend) - before, 5, "each has its share");
    }
    let lines = gateway.log_lines(asked + 10).await;
    let hosts: BTreeSet<&str> = lines.iter().filter_map(|line| line["upHost"].as_str()).collect();
    assert!(told.iter().all(|host| hosts.contains(host.as_str())), "{hosts:?}");

    // One address fails and is left alone; the name goes on being served by the other.
    drop(backends.remove(0));
    let mut failed = 0;
    for _ in 0..10 {
        failed += usize::from(gateway.get("/n/x").await.status != 200);
    }
    assert!(failed <= 1, "{failed} requests failed before the address was left alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_being_asked_for_a_name_is_one_endpoint() {
    let (server, backends) = (name_server().await, backends().await);
    let gateway = Gateway::start_with(|config| {
        config.workers = 1;
        config.upstream.nameservers = vec![server.address];
    })
    .await;
    gateway.deploy(&[named(backends[0].address.port(), &json!({}))]).await;
    for count in 1..=4 {
        assert_eq!(gateway.get("/n/x").await.status, 200);
        let served = || backends.iter().map(requests).sum::<usize>();
        eventually("request at a backend", || served() == count).await;
    }
    let used = backends.iter().filter(|backend| requests(backend) > 0).count();
    assert_eq!(used, 1, "a kept connection is used while it is there");
}
