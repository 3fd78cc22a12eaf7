// SPDX-License-Identifier: Apache-2.0
//! The tests of `proxy` with the hot path switched off: both codecs keep the same contract.

use ferrogate_runtime::config::Http1Codec;

/// Who speaks HTTP/1 with the clients here.
const CODEC: Http1Codec = Http1Codec::Hyper;

#[path = "proxy/coded.rs"]
mod coded;
#[path = "proxy/direct.rs"]
mod direct;
#[path = "proxy/failures.rs"]
mod failures;
#[path = "proxy/forwarding.rs"]
mod forwarding;
#[path = "proxy/grpc.rs"]
mod grpc;
#[path = "proxy/http2.rs"]
mod http2;
#[path = "proxy/lifecycle.rs"]
mod lifecycle;
#[path = "proxy/limits.rs"]
mod limits;
#[path = "proxy/names.rs"]
mod names;
#[path = "proxy/observed.rs"]
mod observed;
#[path = "proxy/policies.rs"]
mod policies;
#[path = "proxy/repeated.rs"]
mod repeated;
#[path = "proxy/steering.rs"]
mod steering;
#[path = "proxy/streams.rs"]
mod streams;
#[path = "proxy/support/mod.rs"]
mod support;
#[path = "proxy/tls.rs"]
mod tls;
#[path = "proxy/upgrades.rs"]
mod upgrades;
#[path = "proxy/upstreams.rs"]
mod upstreams;
#[path = "proxy/walk.rs"]
mod walk;
