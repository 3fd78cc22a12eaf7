// SPDX-License-Identifier: Apache-2.0
//! The data plane end to end: real sockets in front of and behind a runtime whose state is
//! fed through its sink. The same tests run over hyper's codec in `proxy_hyper.rs`.

use ferrogate_runtime::config::Http1Codec;

/// Who speaks HTTP/1 with the clients here.
const CODEC: Http1Codec = Http1Codec::Own;

mod answers;
mod coded;
mod direct;
mod failures;
mod forwarding;
mod grpc;
mod handover;
mod http2;
mod lifecycle;
mod limits;
mod names;
mod observed;
mod policies;
mod repeated;
mod steering;
mod streams;
mod support;
mod tls;
mod upgrades;
mod upstreams;
mod walk;
