// SPDX-License-Identifier: Apache-2.0
//! What is measured: the traffic of each scenario and which proxies stand for it.

use crate::peers::Kind;

/// How many APIs Ferrogate has deployed; paths of the traffic are spread over them.
pub const APIS: usize = 10_000;

/// One kind of traffic.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// Keep-alive requests for 1 KiB over this many connections.
    KeepAlive(usize),
    /// A new connection for every request.
    NewConnection,
    /// Keep-alive requests over TLS.
    TlsKeepAlive,
    /// A full TLS handshake for every request.
    TlsNew,
    /// A resumed TLS session for every request.
    TlsResumed,
    /// HTTP/2 over TLS.
    Http2,
    /// Responses of 1 MiB.
    BigResponse,
    /// Requests of 1 MiB.
    Upload,
    /// Connections without a request.
    Idle(usize),
}

/// One scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name on the command line and in the tables.
    pub name: &'static str,
    /// In words.
    pub about: &'static str,
    /// What is sent.
    pub traffic: Traffic,
    /// Who is measured.
    pub kinds: &'static [Kind],
}

const ALL: &[Kind] =
    &[Kind::Nginx, Kind::Haproxy, Kind::Envoy, Kind::EnvoyExtProc, Kind::Ferrogate, Kind::FerrogateHeavy];
const PLAIN: &[Kind] = &[Kind::Nginx, Kind::Haproxy, Kind::Envoy, Kind::Ferrogate];

/// Every scenario, in the order of the tables.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "keepalive-64",
        about: "1 KiB responses, 64 keep-alive connections",
        traffic: Traffic::KeepAlive(64),
        kinds: ALL,
    },
    Scenario {
        name: "keepalive-1000",
        about: "1 KiB responses, 1,000 keep-alive connections",
        traffic: Traffic::KeepAlive(1_000),
        kinds: PLAIN,
    },
    Scenario {
        name: "new-connection",
        about: "a new connection for every request, 64 at a time",
        traffic: Traffic::NewConnection,
        kinds: PLAIN,
    },
    Scenario {
        name: "tls-keepalive",
        about: "TLS, 64 keep-alive connections",
        traffic: Traffic::TlsKeepAlive,
        kinds: PLAIN,
    },
    Scenario {
        name: "tls-new",
        about: "a full TLS handshake (ECDSA P-256) for every request",
        traffic: Traffic::TlsNew,
        kinds: PLAIN,
    },
    Scenario {
        name: "tls-resumed",
        about: "a resumed TLS 1.2 session for every request, one client",
        traffic: Traffic::TlsResumed,
        kinds: PLAIN,
    },
    Scenario {
        name: "http2",
        about: "HTTP/2 over TLS, 16 connections of 8 streams",
        traffic: Traffic::Http2,
        kinds: PLAIN,
    },
    Scenario {
        name: "big-response",
        about: "1 MiB responses, 16 connections",
        traffic: Traffic::BigResponse,
        kinds: PLAIN,
    },
    Scenario {
        name: "upload",
        about: "1 MiB requests, 16 connections",
        traffic: Traffic::Upload,
        kinds: PLAIN,
    },
    Scenario {
        name: "idle-10000",
        about: "memory at 10,000 idle keep-alive connections",
        traffic: Traffic::Idle(10_000),
        kinds: PLAIN,
    },
];
