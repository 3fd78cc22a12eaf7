// SPDX-License-Identifier: Apache-2.0
//! The hot path: HTTP/1.1 from the client to an HTTP/1.1 upstream on a codec of our own,
//! behind the same router, policies, deadlines, log and failure table as the walk in
//! `crate::request`. One task serves a connection; a request costs no allocation beyond what
//! its policies make, no task, no timer, and two system calls on either side. Everything
//! unusual is handed to hyper. Read `connection`, `intake`, `arrival`, `exchange`, `wires`,
//! `flow`;
//! why it exists stands in `docs/adr/0007-a-hot-path-of-our-own.md`.

pub mod answer;
pub mod arrival;
pub mod buffer;
pub mod chunked;
pub mod compose;
pub mod connection;
pub mod date;
pub mod due;
pub mod exchange;
pub mod fields;
pub mod flow;
pub mod framing;
pub mod handover;
pub mod intake;
pub mod interim;
pub mod line;
pub mod parse;
pub mod policies;
pub mod pool;
pub mod request_head;
pub mod response_head;
pub mod timer;
pub mod wire;
pub mod wires;

use std::rc::Rc;
use std::time::Instant;

use ferrogate_base::clock::Clock;

use self::buffer::Stock;
use self::date::Date;
use self::pool::Pool;
use self::timer::{Span, Ticker};
use crate::config::Config;
use crate::upstream::pool::PoolLimits;

/// What a worker keeps for this path.
pub struct H1 {
    /// The coarse clock.
    pub ticker: Rc<Ticker>,
    /// Buffers nobody uses.
    pub stock: Stock,
    /// Kept upstream connections.
    pub pool: Rc<Pool>,
    /// The date of responses.
    pub date: Date,
    /// From a head's first byte to its last.
    pub head_timeout: Span,
    /// Without a request.
    pub idle_timeout: Span,
    /// Without the client taking a byte that waits for it.
    pub write_stall: Span,
    /// Bytes of a request's target.
    pub max_target: usize,
    /// Bytes of a request's body.
    pub max_body: u64,
    /// Requests of a connection.
    pub max_requests: u64,
}

impl H1 {
    /// A worker's, empty.
    #[must_use]
    pub fn new(config: &Config, clock: &dyn Clock, limits: PoolLimits) -> H1 {
        let ticker = Ticker::new();
        H1 {
            pool: Rc::new(Pool::new(limits, ticker.clone())),
            ticker,
            stock: Stock::default(),
            date: Date::new(clock),
            head_timeout: Span::of(config.limits.head_timeout),
            idle_timeout: Span::of(config.limits.idle_timeout),
            write_stall: Span::of(config.limits.write_stall_timeout),
            max_target: config.limits.max_uri_bytes,
            max_body: config.limits.max_request_body_bytes.unwrap_or(u64::MAX),
            max_requests: config.limits.max_requests_per_connection.unwrap_or(u64::MAX),
        }
    }

    /// Called at every tick of the coarse clock.
    pub fn tick(&self, clock: &dyn Clock, draining: bool) {
        self.ticker.tick(Instant::now(), draining);
        self.date.renew(clock);
    }
}
