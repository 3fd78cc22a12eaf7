// SPDX-License-Identifier: Apache-2.0
//! Envoy with one worker thread, alone or with a policy engine asked over a Unix socket
//! about every request and response head.

use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::{Ground, Peer, free_ports};
use crate::process::Pinned;

/// Beyond any load of the scenarios: the limits themselves are not what is compared.
const UNLIMITED: u32 = 100_000;

pub(super) async fn start(ground: &Ground<'_>, dir: &Path, processor: bool) -> anyhow::Result<Peer> {
    let envoy = ground.envoy.context("Envoy's binary is not known")?;
    let [http, https] = free_ports()?;
    let mut measured = Vec::new();
    let socket = dir.join("ext-proc.sock");
    if processor {
        let own = std::env::current_exe()?;
        let args = ["ext-proc".to_owned(), socket.display().to_string()];
        measured.push(Pinned::start(ground.core, &own, &args, &dir.join("ext-proc.log"))?);
    }
    let processor = processor.then_some(socket.as_path());
    let mut clusters = vec![cluster("backend", &address(ground.backend), false)];
    if let Some(socket) = processor {
        clusters.push(cluster("processor", &json!({ "pipe": { "path": socket } }), true));
    }
    let tls = json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificates": [{
                    "certificate_chain": { "filename": ground.certificate },
                    "private_key": { "filename": ground.key },
                }],
            },
        },
    });
    let listeners = [listener("plain", http, processor, None), listener("tls", https, processor, Some(tls))];
    let config = json!({ "static_resources": { "listeners": listeners, "clusters": clusters } });
    // YAML is a superset of JSON.
    let file = dir.join("envoy.yaml");
    std::fs::write(&file, serde_json::to_string_pretty(&config)?)?;
    let args = [
        "-c",
        &file.display().to_string(),
        "--concurrency",
        "1",
        "--log-level",
        "warn",
        "--use-dynamic-base-id",
    ]
    .map(str::to_owned);
    let mut proxy = Pinned::start(ground.core, envoy, &args, &dir.join("output.log"))?;
    proxy.listening(http).await?;
    measured.push(proxy);
    Ok(Peer { http, https, token: None, measured, _beside: Vec::new() })
}

fn address(address: std::net::SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}

fn cluster(name: &str, address: &Value, http2: bool) -> Value {
    let protocol =
        if http2 { json!({ "http2_protocol_options": {} }) } else { json!({ "http_protocol_options": {} }) };
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": { "thresholds": [{
            "max_connections": UNLIMITED, "max_pending_requests": UNLIMITED, "max_requests": UNLIMITED,
        }] },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": protocol,
            },
        },
        "load_assignment": { "cluster_name": name, "endpoints": [
            { "lb_endpoints": [{ "endpoint": { "address": address } }] },
        ] },
    })
}

fn listener(name: &str, at: std::net::SocketAddr, processor: Option<&Path>, tls: Option<Value>) -> Value {
    let mut filters = Vec::new();
    if processor.is_some() {
        filters.push(json!({
            "name": "envoy.filters.http.ext_proc",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
                "grpc_service": { "envoy_grpc": { "cluster_name": "processor" }, "timeout": "5s" },
                "processing_mode": { "request_header_mode": "SEND", "response_header_mode": "SEND" },
            },
        }));
    }
    filters.push(json!({
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            "suppress_envoy_headers": true,
        },
    }));
    let mut chain = json!({ "filters": [{
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": name,
            "generate_request_id": false,
            // `openssl s_time` speaks HTTP/1.0, which the other proxies take as they come.
            "http_protocol_options": { "accept_http_10": true },
            "http_filters": filters,
            "route_config": { "virtual_hosts": [{
                "name": "all", "domains": ["*"],
                "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "backend" } }],
            }] },
        },
    }] });
    if let (Some(tls), Some(chain)) = (tls, chain.as_object_mut()) {
        chain.insert("transport_socket".to_owned(), tls);
    }
    json!({ "name": name, "address": address(at), "filter_chains": [chain] })
}
