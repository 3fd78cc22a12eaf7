// SPDX-License-Identifier: Apache-2.0
//! A store as a contiguous line of changes: every replica follows it, the writer of a
//! change included, and learns of changes in no other way. It listens before its first
//! read and polls besides, so a lost hint costs latency, never a change. It must never
//! skip, repeat or reorder; what it does with each answer is decided in [`Cursor`].

mod cursor;

use std::sync::Arc;
use std::time::Duration;

use ferrogate_base::backoff::Backoff;
use ferrogate_model::Position;
use futures::{FutureExt, StreamExt};
use tokio::time::{Instant, sleep_until};

pub use cursor::{Ask, Cursor, Step};

use crate::{Change, Hints, State, Store, StoreError};

/// How many changes are read at once; a longer line is handed out in parts.
const CHANGES_PER_READ: usize = 512;

/// How long a change may take whose hint was lost.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// What happened next.
#[derive(Debug)]
pub enum FeedEvent {
    /// The next changes: contiguous, whole batches, in the epoch of the last position.
    Batch(Vec<Change>),
    /// Everything anew: the first state, and after the line could not be continued.
    Reset(State),
    /// The store cannot be read; said once per outage, and again when it fails in another
    /// way. The feed keeps trying.
    Unavailable(StoreError),
    /// The store can be read again.
    Recovered,
}

/// One follower of one store. See the module.
pub struct Feed {
    store: Arc<dyn Store>,
    cursor: Cursor,
    hints: Option<Hints>,
    poll_interval: Duration,
    /// Whether something may be there to read, so that asking need not wait.
    ask_now: bool,
    /// When to ask again, while there is no reason to ask now.
    next_poll: Instant,
    outage: Option<Backoff>,
    /// How it failed last.
    failing: Option<std::mem::Discriminant<StoreError>>,
    /// An answer that arrived with the news that the store is back, which goes first.
    held_back: Option<FeedEvent>,
}

impl Feed {
    /// A feed that begins with a [`FeedEvent::Reset`], or after `start` when the follower
    /// holds that state already.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, start: Option<Position>) -> Feed {
        Feed {
            store,
            cursor: Cursor::new(start),
            hints: None,
            poll_interval: POLL_INTERVAL,
            ask_now: true,
            next_poll: Instant::now(),
            outage: None,
            failing: None,
            held_back: None,
        }
    }

    /// Sets how often to look without a hint; a second unless set.
    #[must_use]
    pub fn polling_every(mut self, interval: Duration) -> Feed {
        self.poll_interval = interval;
        self
    }

    /// The last position the follower has applied.
    #[must_use]
    pub const fn position(&self) -> Option<Position> {
        self.cursor.position()
    }

    /// The next event. Calling it says that the previous one has been applied: the
    /// position moves only then. A follower that fails to apply an event must go on with a
    /// new feed from the position it holds. Cancel-safe: what was read and not yet
    /// returned is read again.
    pub async fn next(&mut self) -> FeedEvent {
        // Not applied yet: the call before this one was told of the recovery only.
        if let Some(event) = self.held_back.take() {
            return event;
        }
        self.cursor.applied();
        loop {
            if !self.ask_now {
                self.wait().await;
            }
            // Hints up to here are answered by the read that follows.
            self.drain_hints();
            match self.read().await {
                Ok(step) => {
                    if let Some(event) = self.take(step) {
                        return event;
                    }
                }
                Err(error) => {
                    if let Some(event) = self.fail(error) {
                        return event;
                    }
                }
            }
        }
    }

    /// Listens, then reads: a change committed in between is in the read or hinted at.
    async fn read(&mut self) -> Result<Step, StoreError> {
        if self.hints.is_none() {
            self.hints = Some(self.store.subscribe().await?);
        }
        match self.cursor.ask() {
            Ask::Load => self.store.load().await.map(|state| self.cursor.on_state(state)),
            Ask::ChangesSince(position) => {
                let changes = self.store.changes_since(position, CHANGES_PER_READ).await?;
                Ok(self.cursor.on_changes(changes))
            }
        }
    }

    /// Without an await from here to the return, so that nothing handed out is lost.
    fn take(&mut self, step: Step) -> Option<FeedEvent> {
        let recovered = self.outage.take().is_some();
        let (event, ask_now) = match step {
            Step::Batch { changes, more } => (Some(FeedEvent::Batch(changes)), more),
            Step::Reset(state) => (Some(FeedEvent::Reset(state)), true),
            Step::Reload => (None, true),
            Step::Wait => (None, false),
        };
        self.ask_now = ask_now;
        // A tenth of jitter, so that replicas started together do not poll together.
        self.next_poll = Instant::now() + self.poll_interval.mul_f64(0.9 + 0.2 * fastrand::f64());
        if recovered {
            self.held_back = event;
            return Some(FeedEvent::Recovered);
        }
        event
    }

    fn fail(&mut self, error: StoreError) -> Option<FeedEvent> {
        // Another kind of failure is another thing to tell: the database is back, and what it
        // holds cannot be read.
        let kind = std::mem::discriminant(&error);
        let first = self.outage.is_none() || self.failing != Some(kind);
        self.failing = Some(kind);
        let outage = self.outage.get_or_insert_with(Backoff::for_outages);
        self.ask_now = false;
        self.next_poll = Instant::now() + outage.next_delay();
        if first {
            return Some(FeedEvent::Unavailable(error));
        }
        tracing::debug!(%error, "the store is still unavailable");
        None
    }

    /// Until a hint or the time to poll. Both arms are cancel-safe: a hint that is dropped
    /// unread is made up for by the poll. In an outage hints do not shorten the wait.
    async fn wait(&mut self) {
        let time = sleep_until(self.next_poll);
        let hints = match (&mut self.hints, &self.outage) {
            (Some(hints), None) => hints,
            _ => return time.await,
        };
        let ended = tokio::select! {
            biased;
            hint = hints.next() => hint.is_none(),
            () = time => false,
        };
        if ended {
            // The next read subscribes again; polling at its interval keeps this from spinning.
            self.hints = None;
            sleep_until(self.next_poll).await;
        }
    }

    fn drain_hints(&mut self) {
        while let Some(hints) = &mut self.hints {
            match hints.next().now_or_never() {
                Some(Some(_)) => {}
                Some(None) => self.hints = None,
                None => return,
            }
        }
    }
}
