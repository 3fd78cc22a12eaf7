// SPDX-License-Identifier: Apache-2.0
//! The load: public generators, each asked the same of every proxy. What they print is
//! read into one shape; a generator that prints something else is an error, never a zero.

mod h2load;
pub mod idle;
mod s_time;
pub mod streams;
mod wrk;

use std::path::Path;
use std::time::Duration;

use crate::peers::Peer;
use crate::scenario::Traffic;

/// Where and for how long the load runs.
pub struct Plan<'a> {
    /// The core of generator and backend.
    pub core: usize,
    /// How long.
    pub time: Duration,
    /// A folder for scripts.
    pub dir: &'a Path,
    /// Sent as `Authorization` where a proxy wants one.
    pub token: Option<&'a str>,
}

/// What a generator saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Requests answered.
    pub requests: u64,
    /// Failures of any kind.
    pub errors: u64,
    /// Over how long.
    pub seconds: f64,
    /// Latency in microseconds; zero where the generator does not tell.
    pub p50: f64,
    /// As `p50`.
    pub p99: f64,
    /// As `p50`.
    pub p999: f64,
}

/// Sends the traffic of a scenario to a proxy.
pub async fn run(traffic: Traffic, peer: &Peer, plan: &Plan<'_>) -> anyhow::Result<Seen> {
    match traffic {
        Traffic::Http2 => h2load::run(peer, plan).await,
        Traffic::TlsResumed => s_time::run(peer, plan).await,
        Traffic::KeepAlive(_)
        | Traffic::NewConnection
        | Traffic::TlsKeepAlive
        | Traffic::TlsNew
        | Traffic::BigResponse
        | Traffic::Upload => wrk::run(traffic, peer, plan).await,
        // There is nothing to send: the connections are the load.
        Traffic::Idle(_) => Ok(Seen::default()),
    }
}
