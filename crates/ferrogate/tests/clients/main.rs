// SPDX-License-Identifier: Apache-2.0
//! The built binary and the clients that the field uses: curl, nghttp, h2load, `openssl s_client`,
//! gRPC and WebSocket clients, with real upstreams behind it. Deployed is what stands in
//! `examples/`, so that each that a test names is seen to do what it says. `docs/traffic.md` says which
//! module shows what.

mod certificates;
mod gateway;
mod graceful;
mod grpc;
mod handover;
mod http2;
mod limits;
mod names;
mod pki;
mod protocols;
mod streams;
mod tls;
mod tools;
mod upstream;
mod upstreams;
mod websocket;
