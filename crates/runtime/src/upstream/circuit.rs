// SPDX-License-Identifier: Apache-2.0
//! How much an endpoint is given at once: requests under way, open connections, and
//! requests that wait for one. [`Load`] counts for all workers of the process; limits come
//! from the target that asks, so that a new limit holds for what is already counted. A
//! waiter is told when a connection ends; connections kept idle make room for waiters, so
//! that they turn no request away.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Notify;

use super::states::EndpointState;
use crate::error::{Failure, Reason};

/// What one endpoint has in hand.
#[derive(Default)]
pub struct Load {
    requests: AtomicU32,
    connections: AtomicU32,
    /// Those of `connections` that no request uses.
    idle: AtomicU32,
    pending: AtomicU32,
    freed: Notify,
}

/// One counted connection; ends with it.
pub struct Connection {
    state: Arc<EndpointState>,
    idle: Cell<bool>,
}

/// One request waiting for a connection.
struct Pending<'s>(&'s EndpointState);

impl Load {
    /// Requests under way.
    #[must_use]
    pub fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Connections counted: only of endpoints that have a limit.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Requests waiting for a connection.
    #[must_use]
    pub fn pending(&self) -> u32 {
        self.pending.load(Ordering::Relaxed)
    }

    /// Whether every connection is in use and nobody may wait for one.
    #[must_use]
    pub fn is_taken(&self, connections: Option<u32>, pending: Option<u32>) -> bool {
        let full = |count: u32, limit: Option<u32>| limit.is_some_and(|limit| count >= limit);
        let idle = self.idle.load(Ordering::Acquire);
        full(self.connections(), connections) && idle == 0 && full(self.pending(), pending)
    }

    /// Counts a request, unless that many are under way.
    pub(super) fn try_enter(&self, limit: Option<u32>) -> bool {
        take(&self.requests, limit)
    }

    pub(super) fn leave(&self) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connection {
    /// Counts a connection that is about to be opened; waits for another to end while the
    /// limit is reached, among at most `max_pending` that wait and one more for each idle
    /// connection, which its worker closes for them. The caller's deadline bounds the wait.
    ///
    /// # Errors
    /// When too many wait already.
    pub(super) async fn admit(
        state: &Arc<EndpointState>,
        limit: Option<u32>,
        max_pending: Option<u32>,
    ) -> Result<Connection, Failure> {
        let load = &state.load;
        let admitted = || {
            let is_admitted = take(&load.connections, limit);
            is_admitted.then(|| Connection { state: state.clone(), idle: Cell::new(false) })
        };
        if let Some(connection) = admitted() {
            return Ok(connection);
        }
        let idle = load.idle.load(Ordering::Acquire);
        if !take(&load.pending, max_pending.map(|most| most.saturating_add(idle))) {
            // An idle one may have ended between the two looks.
            let full = || Failure::with(Reason::Overflow, "too many requests wait for a connection");
            return admitted().ok_or_else(full);
        }
        state.events.waiting.fetch_add(1, Ordering::Relaxed);
        let _pending = Pending(state);
        loop {
            // Listening begins before looking, or a connection that ends in between is missed.
            let freed = load.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if let Some(connection) = admitted() {
                return Ok(connection);
            }
            freed.await;
        }
    }

    /// Whether somebody waits for it to end.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.waiting() > 0
    }

    /// Requests, of all workers, that wait for a connection to this endpoint.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.state.load.pending()
    }

    /// Notes whether a request uses it.
    pub fn set_idle(&self, idle: bool) {
        if self.idle.replace(idle) == idle {
            return;
        }
        if idle {
            self.state.load.idle.fetch_add(1, Ordering::Release);
        } else {
            self.state.load.idle.fetch_sub(1, Ordering::Release);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.state.load.connections.fetch_sub(1, Ordering::Relaxed);
        // After it is gone from the count, so that who misses it here finds room there.
        self.set_idle(false);
        self.state.load.freed.notify_one();
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.load.pending.fetch_sub(1, Ordering::Relaxed);
        self.0.events.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Adds one, unless that many are counted.
fn take(count: &AtomicU32, limit: Option<u32>) -> bool {
    let limit = limit.unwrap_or(u32::MAX);
    count
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < limit).then(|| count + 1))
        .is_ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::Connection;
    use crate::error::Reason;
    use crate::upstream::states::EndpointState;

    #[test]
    fn requests_are_taken_up_to_the_limit() {
        let state = EndpointState::new(Instant::now());
        assert!(state.load.try_enter(Some(2)) && state.load.try_enter(Some(2)));
        assert!(!state.load.try_enter(Some(2)));
        assert!(state.load.try_enter(None), "without a limit everything is");
        state.load.leave();
        state.load.leave();
        assert!(state.load.try_enter(Some(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_a_connection_to_end_among_so_many() {
        let state = Arc::new(EndpointState::new(Instant::now()));
        let open = Connection::admit(&state, Some(1), Some(1)).await.expect("the first");
        assert!(!open.is_wanted());
        let waiter = state.clone();
        let mut waiting = Box::pin(async move { Connection::admit(&waiter, Some(1), Some(1)).await });
        let nothing_yet = tokio::time::timeout(Duration::from_secs(1), waiting.as_mut()).await;
        assert!(nothing_yet.is_err() && open.is_wanted());
        let third = Connection::admit(&state, Some(1), Some(1)).await;
        assert_eq!(third.err().map(|failure| failure.reason), Some(Reason::Overflow));
        drop(open);
        let second = waiting.await.expect("its turn");
        assert_eq!((state.load.connections(), state.load.pending()), (1, 0));
        drop(second);
        assert_eq!(state.load.connections(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_turns_no_request_away() {
        let state = Arc::new(EndpointState::new(Instant::now()));
        let open = Connection::admit(&state, Some(1), Some(0)).await.expect("the first");
        let refused = Connection::admit(&state, Some(1), Some(0)).await;
        assert_eq!(refused.err().map(|failure| failure.reason), Some(Reason::Overflow));
        open.set_idle(true);
        let waiter = state.clone();
        let mut waiting = Box::pin(async move { Connection::admit(&waiter, Some(1), Some(0)).await });
        let nothing_yet = tokio::time::timeout(Duration::from_secs(1), waiting.as_mut()).await;
        assert!(nothing_yet.is_err() && open.is_wanted());
        let another = Connection::admit(&state, Some(1), Some(0)).await;
        assert_eq!(another.err().map(|failure| failure.reason), Some(Reason::Overflow), "one for each");
        drop(open);
        let second = waiting.await.expect("its turn");
        let refused = Connection::admit(&state, Some(1), Some(0)).await;
        assert!(refused.is_err(), "the idle one is gone from the count");
        drop(second);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_that_gives_up_passes_its_turn_on() {
        let state = Arc::new(EndpointState::new(Instant::now()));
        let open = Connection::admit(&state, Some(1), None).await.expect("the first");
        let admit = |state: Arc<EndpointState>| {
            Box::pin(async move { Connection::admit(&state, Some(1), None).await })
        };
        let (mut gives_up, mut stays) = (admit(state.clone()), admit(state.clone()));
        let moment = Duration::from_millis(1);
        assert!(tokio::time::timeout(moment, gives_up.as_mut()).await.is_err());
        assert!(tokio::time::timeout(moment, stays.as_mut()).await.is_err());
        drop(open);
        drop(gives_up);
        assert!(tokio::time::timeout(moment, stays).await.expect("not forgotten").is_ok());
    }
}
