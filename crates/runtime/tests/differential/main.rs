// SPDX-License-Identifier: Apache-2.0
//! Our HTTP/1 codec against hyper's: the same bytes on two connections, one to a gateway with
//! each. What reaches the upstream and what comes back must be the same, or both refuse. Where
//! ours is stricter or laxer on purpose the case stands in a list with its reason.

use ferrogate_runtime::config::Http1Codec;

/// What gateways speak here unless they are told otherwise.
const CODEC: Http1Codec = Http1Codec::Own;

mod answers;
mod corpus;
mod random;
#[path = "../proxy/support/mod.rs"]
#[allow(dead_code)]
mod support;
