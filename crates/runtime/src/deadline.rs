// SPDX-License-Identifier: Apache-2.0
//! The two clocks of a request (contract 3.4): how long the whole may take, and how long
//! nothing may move. A timer exists only while something is waited for. `upstream` bounds
//! its waits with it, the bodies of `response` take it along.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::access_log::Traffic;
use crate::error::{Failure, Reason};
use crate::router::Timeouts;

/// The deadlines of one request.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// When the whole must be over.
    pub whole: Option<Instant>,
    /// The longest silence.
    pub idle: Option<Duration>,
}

/// A timer for a body: armed at the first wait, moved only when it fires too early.
#[derive(Default)]
pub struct BodyTimer(Option<Pin<Box<Sleep>>>);

impl Deadlines {
    /// Those of a route's request that began at this time.
    #[must_use]
    pub fn of(timeouts: Timeouts, started: std::time::Instant) -> Deadlines {
        let whole = timeouts.request.and_then(|limit| Instant::from_std(started).checked_add(limit));
        Deadlines { whole, idle: timeouts.idle }
    }

    /// When to look again, and what it means if nothing has moved by then.
    fn next(&self, traffic: &Traffic) -> Option<(Instant, Reason)> {
        let idle = self.idle.and_then(|idle| traffic.last_moved.get().checked_add(idle));
        // A client that stopped sending is told so; an upstream that stopped is a gateway timeout.
        let awaits_client = traffic.client_silent.get() && !traffic.request_complete.get();
        let (late, silent) = match awaits_client {
            true => (Reason::RequestTimeout, Reason::RequestTimeout),
            false => (Reason::UpstreamTimeout, Reason::StreamIdleTimeout),
        };
        match (self.whole, idle) {
            (Some(whole), Some(idle)) if idle < whole => Some((idle, silent)),
            (Some(whole), _) => Some((whole, late)),
            (None, Some(idle)) => Some((idle, silent)),
            (None, None) => None,
        }
    }

    /// Awaits `work`, but not beyond the deadlines. What it drops is cancelled.
    ///
    /// # Errors
    /// When a deadline passed first.
    pub async fn bound<T>(&self, traffic: &Traffic, work: impl Future<Output = T>) -> Result<T, Failure> {
        let mut work = pin!(work);
        loop {
            let Some((at, _)) = self.next(traffic) else { return Ok(work.await) };
            match tokio::time::timeout_at(at, work.as_mut()).await {
                Ok(done) => return Ok(done),
                Err(_) => {
                    // If something moved meanwhile, the idle deadline is a later one now; and who
                    // is waited for may be another.
                    if let Some((now, reason)) = self.next(traffic)
                        && now <= at
                    {
                        return Err(Failure::new(reason));
                    }
                }
            }
        }
    }

    /// For a body that must wait: whether a deadline has passed.
    pub fn poll_overdue(
        &self,
        timer: &mut BodyTimer,
        traffic: &Traffic,
        cx: &mut Context<'_>,
    ) -> Poll<Reason> {
        let Some((at, _)) = self.next(traffic) else { return Poll::Pending };
        let timer = timer.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        loop {
            std::task::ready!(timer.as_mut().poll(cx));
            match self.next(traffic) {
                Some((at, reason)) if at <= Instant::now() => return Poll::Ready(reason),
                Some((at, _)) => timer.as_mut().reset(at),
                None => return Poll::Pending,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::Deadlines;
    use crate::access_log::Traffic;
    use crate::error::Reason;

    #[tokio::test(start_paused = true)]
    async fn the_first_deadline_to_pass_names_the_reason() {
        let seconds = Duration::from_secs;
        for (whole, idle, complete, expected) in [
            (Some(1), Some(5), true, Some(Reason::UpstreamTimeout)),
            (Some(5), Some(1), true, Some(Reason::StreamIdleTimeout)),
            (Some(5), Some(1), false, Some(Reason::RequestTimeout)),
            (Some(1), Some(5), false, Some(Reason::RequestTimeout)),
            (None, None, true, None),
        ] {
            let traffic = Traffic::default();
            traffic.request_complete.set(complete);
            traffic.client_silent.set(true);
            let deadlines =
                Deadlines { whole: whole.map(|s| Instant::now() + seconds(s)), idle: idle.map(seconds) };
            let result = deadlines.bound(&traffic, sleep(seconds(10))).await;
            assert_eq!(result.err().map(|failure| failure.reason), expected, "{whole:?} {idle:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn movement_moves_the_idle_deadline() {
        let traffic = Traffic::default();
        traffic.request_complete.set(true);
        let deadlines = Deadlines { whole: None, idle: Some(Duration::from_secs(2)) };
        let work = async {
            for _ in 0..5 {
                sleep(Duration::from_secs(1)).await;
                traffic.moved();
            }
        };
        assert!(deadlines.bound(&traffic, work).await.is_ok());
        let silence = sleep(Duration::from_secs(3));
        assert!(deadlines.bound(&traffic, silence).await.is_err());
    }
}
