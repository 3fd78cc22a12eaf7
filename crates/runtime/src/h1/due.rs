// SPDX-License-Identifier: Apache-2.0
//! The clocks of one exchange (contract 3.4), on the coarse clock: how long the whole may
//! take, how long nothing may move, and how long a client may take no byte that waits for
//! it. `crate::deadline` has the same rules for hyper's bodies.

use std::task::{Context, Poll};
use std::time::Instant;

use super::timer::{Alarm, Span, Tick};
use crate::error::Reason;
use crate::router::Timeouts;

/// The deadlines of an exchange.
pub struct Due {
    whole: Tick,
    idle: Span,
    moved: Tick,
    stall: Span,
    stalled: Option<Tick>,
}

/// For what an exchange waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// For the upstream, in whatever way.
    Upstream,
    /// For more of the client's body.
    ClientSends,
    /// For the client to take some of the response.
    ClientTakes,
}

/// Which deadline passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// The route's.
    Route(Reason),
    /// The client takes nothing.
    Client,
}

impl Due {
    /// The deadlines of a request that began at this time.
    #[must_use]
    pub fn new(alarm: &Alarm, started: Instant, timeouts: &Timeouts, write_stall: Span) -> Due {
        let ticker = alarm.ticker();
        let began = ticker.at(started);
        Due {
            whole: timeouts.request.map_or(Tick::NEVER, |limit| began.after(Span::of(limit))),
            idle: timeouts.idle.map_or(Span::ENDLESS, Span::of),
            moved: began,
            stall: write_stall,
            stalled: None,
        }
    }

    /// A byte moved.
    pub fn moved(&mut self, alarm: &Alarm) {
        self.moved = alarm.ticker().now();
        self.stalled = None;
    }

    /// Called when the exchange must wait: which deadline has passed, if one has.
    pub fn poll(&mut self, alarm: &Alarm, waits: Waits, cx: &Context<'_>) -> Poll<Late> {
        let now = alarm.ticker().now();
        self.stalled = if waits == Waits::ClientTakes { self.stalled.or(Some(now)) } else { None };
        let stall = self.stalled.map_or(Tick::NEVER, |since| since.after(self.stall));
        let idle = self.moved.after(self.idle);
        if now >= stall {
            return Poll::Ready(Late::Client);
        }
        if now >= self.whole || now >= idle {
            let reason = match waits {
                // A client that stopped sending is told so; an upstream that stopped is a timeout.
                Waits::ClientSends => Reason::RequestTimeout,
                Waits::Upstream | Waits::ClientTakes if now >= self.whole => Reason::UpstreamTimeout,
                Waits::Upstream | Waits::ClientTakes => Reason::StreamIdleTimeout,
            };
            return Poll::Ready(Late::Route(reason));
        }
        alarm.set(self.whole.min(idle).min(stall), cx);
        Poll::Pending
    }

    /// The same for an answer of the gateway's own, which the route's deadlines do not bound.
    pub fn poll_client(&mut self, alarm: &Alarm, cx: &Context<'_>) -> Poll<()> {
        let now = alarm.ticker().now();
        let stall = self.stalled.get_or_insert(now).after(self.stall);
        if now >= stall {
            return Poll::Ready(());
        }
        alarm.set(stall, cx);
        Poll::Pending
    }
}
