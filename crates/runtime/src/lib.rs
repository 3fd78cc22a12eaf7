// SPDX-License-Identifier: Apache-2.0
//! The data plane: it proxies requests under the current snapshot, and keeps that
//! snapshot current. Two halves meet in [`state`]: the request walk reads it, [`sync`]
//! writes it. It never sees the store, the controller or a concrete policy; those are
//! handed in when it starts.

// The state side: what is served.
pub mod lkg;
pub mod prepare;
pub mod router;
pub mod state;
pub mod sync;

// The proxy side: how it is served.
pub mod access_log;
pub mod admin;
pub mod coding;
pub mod config;
pub mod conn;
pub mod deadline;
pub mod dns;
pub mod error;
pub mod executor;
pub mod forwarded;
pub mod grpc;
pub mod h1;
pub mod handover;
pub mod head;
pub mod hop;
pub mod listener;
pub mod metrics;
pub mod request;
pub mod response;
pub mod run;
pub mod settle;
pub mod tls;
pub mod upgrade;
pub mod upstream;
pub mod worker;
