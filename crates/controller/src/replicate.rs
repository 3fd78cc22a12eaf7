// SPDX-License-Identifier: Apache-2.0
//! The replica: runs the change feed and publishes a snapshot for every position it
//! reaches. There is no other way a change gets in, the replica's own writes included,
//! so that nothing can be right here and wrong elsewhere. What follows from each step is
//! decided in [`crate::follow`]. The management API waits on it, the config stream watches
//! it; `run` owns its task.

use std::sync::Arc;
use std::time::Duration;

use ferrogate_base::offload::{Offload, Threads, carry};
use ferrogate_base::watch;
use ferrogate_model::{Position, Revision};
use ferrogate_store::feed::{Feed, FeedEvent};
use ferrogate_store::{State, Store, StoreError};
use ferrogate_xds::Catalog;
use tokio_util::sync::CancellationToken;

use crate::follow::Follower;
use crate::snapshot::{Limits, Snapshot};

/// How far back a controller that starts goes, to know the recent past: a runtime that was
/// last in sync there gets the difference, not everything.
const RECALL: u64 = 5_000;

/// What is published of the change line.
pub struct Replica {
    offload: Arc<dyn Offload>,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    catalogs: watch::Sender<Option<Arc<dyn Catalog>>>,
    store: watch::Sender<StoreState>,
}

/// Whether the store answers, as the feed sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreState {
    /// Nothing has been read yet.
    Starting,
    /// The last read succeeded.
    Available,
    /// What was read does not open: this replica lacks the key.
    Sealed {
        /// What does not open.
        what: String,
        /// The key it needs.
        key: String,
    },
    /// The last read failed; what is served may be behind.
    Unavailable {
        /// Why.
        reason: String,
    },
}

/// The replication task cannot go on as it is.
#[derive(Debug, thiserror::Error)]
pub enum ReplicateError {
    /// Building a snapshot panicked.
    #[error("a snapshot could not be built: {0}")]
    Build(String),
}

impl Replica {
    /// A replica that has read nothing yet.
    #[must_use]
    pub fn new() -> Arc<Replica> {
        Replica::offloading(Arc::new(Threads))
    }

    /// As [`Replica::new`], building snapshots where it is told to.
    #[must_use]
    pub fn offloading(offload: Arc<dyn Offload>) -> Arc<Replica> {
        Arc::new(Replica {
            offload,
            snapshots: watch::Sender::new(None),
            catalogs: watch::Sender::new(None),
            store: watch::Sender::new(StoreState::Starting),
        })
    }

    /// The newest snapshot; `None` before the first.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Snapshot>> {
        self.snapshots.get()
    }

    /// Where the newest snapshot stands.
    #[must_use]
    pub fn position(&self) -> Position {
        self.current().map(|snapshot| snapshot.position()).unwrap_or_default()
    }

    /// Whether the store answers.
    #[must_use]
    pub fn store_state(&self) -> StoreState {
        self.store.get()
    }

    /// Whether the store answers, changed whenever that does.
    #[must_use]
    pub fn store_states(&self) -> watch::Receiver<StoreState> {
        self.store.subscribe()
    }

    /// The same snapshots, for the config stream.
    #[must_use]
    pub fn catalogs(&self) -> watch::Receiver<Option<Arc<dyn Catalog>>> {
        self.catalogs.subscribe()
    }

    /// The newest snapshot, changed whenever one is published.
    #[must_use]
    pub fn snapshots(&self) -> watch::Receiver<Option<Arc<Snapshot>>> {
        self.snapshots.subscribe()
    }

    /// The first snapshot at or after this position; `None` when none came in time.
    pub async fn reached(&self, position: Position, deadline: Duration) -> Option<Arc<Snapshot>> {
        let mut snapshots = self.snapshots.subscribe();
        let there = |snapshot: &Option<Arc<Snapshot>>| {
            snapshot.as_ref().is_some_and(|snapshot| snapshot.position() >= position)
        };
        // Dropping the wait at the deadline loses nothing: it only looks.
        let reached = tokio::time::timeout(deadline, snapshots.wait_for(there)).await;
        reached.ok()?.ok()?
    }

    /// Follows the change line until told to stop. Restarted by its owner after a failure,
    /// it goes on from the snapshot last published.
    ///
    /// # Errors
    /// When a snapshot could not be built.
    pub async fn run(
        self: Arc<Self>,
        store: Arc<dyn Store>,
        limits: Limits,
        token: CancellationToken,
    ) -> Result<(), ReplicateError> {
        let published = self.current();
        let recalled = if published.is_none() { self.recall(store.as_ref(), limits).await } else { None };
        let mut follower = recalled.unwrap_or_else(|| Follower::new(published));
        let mut feed = Feed::new(store, follower.position());
        loop {
            let event = tokio::select! {
                biased;
                () = token.cancelled() => return Ok(()),
                // Dropped only when stopping for good.
                event = feed.next() => event,
            };
            let next = match event {
                FeedEvent::Batch(changes) => {
                    follower.batch(changes).map_err(|error| ReplicateError::Build(error.to_string()))?
                }
                FeedEvent::Reset(state) => {
                    tracing::info!(position = %state.position, artifacts = state.artifacts.len(), "state loaded");
                    follower.reset(self.load(state, limits).await?)
                }
                FeedEvent::Unavailable(StoreError::Sealed { what, key }) => {
                    tracing::error!(
                        what,
                        key,
                        "what is stored is sealed under a key that this controller does not have: give it the \
                         files that controller.encryption names on the others. It serves what it has, takes no \
                         writes and is not ready until then"
                    );
                    self.store.set(StoreState::Sealed { what, key });
                    continue;
                }
                FeedEvent::Unavailable(error) => {
                    if let StoreError::Corrupt(_) = error {
                        tracing::error!(
                            %error,
                            "the store cannot be used as it is, and somebody must look: reads are answered from \
                             memory, writes are refused until then"
                        );
                    } else {
                        tracing::warn!(%error, "the store is unavailable; reads are answered from memory");
                    }
                    self.store.set(StoreState::Unavailable { reason: error.to_string() });
                    continue;
                }
                FeedEvent::Recovered => {
                    tracing::info!("the store is available again");
                    self.store.set(StoreState::Available);
                    continue;
                }
            };
            if let Some(next) = next {
                self.publish(&next);
            }
        }
    }

    /// Shows everybody this snapshot. What may be published, and that it never goes back, is
    /// the follower's to decide.
    pub fn publish(&self, next: &Arc<Snapshot>) {
        tracing::debug!(position = %next.position(), artifacts = next.len(), "snapshot published");
        self.snapshots.set(Some(Arc::clone(next)));
        let catalog: Arc<dyn Catalog> = Arc::clone(next) as Arc<dyn Catalog>;
        self.catalogs.set(Some(catalog));
        self.store.modify(|state| {
            let changed = *state != StoreState::Available;
            *state = StoreState::Available;
            changed
        });
    }

    /// A follower in the recent past, from which the feed leads to the head found there.
    /// `None` when there is no past to go through, or it cannot be read: then the present is
    /// loaded, which is all that is needed to serve.
    async fn recall(&self, store: &dyn Store, limits: Limits) -> Option<Follower> {
        let head = store.head().await.ok()?;
        let start = head.position.revision.0.saturating_sub(RECALL).max(head.floor.0);
        if start >= head.position.revision.0 {
            return None;
        }
        let state = store.state_at(Revision(start)).await.ok()?;
        if state.position.epoch != head.position.epoch {
            return None;
        }
        tracing::info!(from = start, to = head.position.revision.0, "going through the recent past");
        Some(Follower::retracing(self.load(state, limits).await.ok()?, head.position))
    }

    /// Loading encodes everything, which takes seconds for a large gateway.
    async fn load(&self, state: State, limits: Limits) -> Result<Arc<Snapshot>, ReplicateError> {
        let build = move || Arc::new(Snapshot::load(state, limits));
        let built = carry(self.offload.as_ref(), "load", build).await;
        built.map_err(|error| ReplicateError::Build(error.to_string()))
    }
}
