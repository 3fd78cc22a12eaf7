// SPDX-License-Identifier: Apache-2.0
//! From admitted documents to a committed batch. Whether a write may happen is decided
//! by its guards inside the store's transaction, never by what a snapshot says, for the
//! snapshot may be a moment old. A commit whose answer was lost is asked about until the
//! store tells; it is never guessed. The management API calls it and turns its failures
//! into answers.

pub mod admit;
mod certificates;
pub mod dangling;
pub mod secrets;

use std::sync::Arc;
use std::time::Duration;

use ferrogate_base::clock::Clock;
use ferrogate_model::{Position, ResourceName, Revision};
use ferrogate_store::{Batch, Commit, CommitError, Committed, Expect, Guard, Store, StoreError, Write};
use tokio::time::Instant;
use uuid::Uuid;

use crate::replicate::{Replica, StoreState};
use crate::snapshot::Snapshot;
pub use admit::{Admission, Admitted, Refusal, kind_of};
pub use secrets::Secrets;

/// The longest a commit may take before its outcome counts as unknown. Longer than the
/// store's own deadlines, so that it matters only when those fail.
const COMMIT_DEADLINE: Duration = Duration::from_secs(30);
/// How long to ask what became of a commit whose answer was lost.
const OUTCOME_DEADLINE: Duration = Duration::from_secs(5);
/// The pause between two such questions.
const OUTCOME_PAUSE: Duration = Duration::from_millis(100);
/// How long a writer waits to see its own write here; it is committed either way.
const OWN_WRITE_DEADLINE: Duration = Duration::from_secs(3);

/// Commits batches.
#[derive(Clone)]
pub struct Deployer {
    store: Arc<dyn Store>,
    replica: Arc<Replica>,
    clock: Arc<dyn Clock>,
}

/// A batch to commit.
pub struct Deployment {
    /// The batch id: the client's idempotency key, or a fresh one.
    pub id: Uuid,
    /// Who deploys.
    pub author: String,
    /// In order; never empty, one write per artifact.
    pub writes: Vec<Planned>,
    /// What must hold besides.
    pub expects: Vec<Expect>,
}

/// One write.
pub struct Planned {
    /// Which artifact.
    pub name: ResourceName,
    /// What must hold.
    pub guard: Guard,
    /// What to write; `None` deletes.
    pub content: Option<Admitted>,
}

/// A committed deployment.
#[derive(Clone, Debug)]
pub struct Deployed {
    /// Its revisions.
    pub committed: Committed,
    /// When it was written, microseconds.
    pub at: i64,
    /// The first snapshot here that contains it; `None` when this replica is not there yet.
    pub snapshot: Option<Arc<Snapshot>>,
}

/// Why a batch was not committed, or may not have been.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// A guard did not hold.
    #[error("{name} does not meet the precondition")]
    Guard {
        /// Which artifact.
        name: ResourceName,
        /// The revision it has, `None` when it does not exist.
        found: Option<Revision>,
    },
    /// Another artifact holds a claim.
    #[error("{holder} already holds {claim}")]
    Claimed {
        /// Who wanted it.
        name: ResourceName,
        /// The claim.
        claim: String,
        /// Who holds it.
        holder: ResourceName,
    },
    /// What the batch was made from has changed meanwhile.
    #[error("{name} has changed since the batch was planned")]
    Moved {
        /// The artifact that differs.
        name: ResourceName,
    },
    /// Nothing was written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nobody knows yet.
    #[error("the outcome of batch {0} is unknown")]
    Unknown(Uuid),
}

impl Deployed {
    /// The position after it.
    #[must_use]
    pub const fn position(&self) -> Position {
        Position::new(self.committed.epoch, self.committed.last)
    }

    /// The revision of the write with this index.
    #[must_use]
    pub fn revision(&self, index: usize) -> Revision {
        Revision(self.committed.first.0.saturating_add(u64::try_from(index).unwrap_or(u64::MAX)))
    }
}

impl Deployer {
    /// Commits through this store and sees its own writes through this replica.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, replica: Arc<Replica>, clock: Arc<dyn Clock>) -> Deployer {
        Deployer { store, replica, clock }
    }

    /// Where it commits.
    #[must_use]
    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// What stands, as this replica sees it.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Commits and waits, bounded, until this replica serves it.
    ///
    /// # Errors
    /// When it was not committed, or nobody can say.
    pub async fn deploy(&self, deployment: Deployment) -> Result<Deployed, DeployError> {
        // The feed asks at least every second whether the store is back: a client that is
        // refused at once can retry sooner than one that waits out a connection attempt.
        match self.replica.store_state() {
            StoreState::Unavailable { reason } => return Err(StoreError::Unavailable(reason).into()),
            // What this replica would seal, the others might not be able to open.
            StoreState::Sealed { what, key } => return Err(StoreError::Sealed { what, key }.into()),
            StoreState::Starting | StoreState::Available => {}
        }
        let at = self.clock.now_micros();
        let id = deployment.id;
        let writes = deployment.writes.into_iter().map(commit).collect();
        let batch = Batch { id, author: deployment.author, at, writes, expects: deployment.expects };
        let answer = tokio::time::timeout(COMMIT_DEADLINE, self.store.commit(batch)).await;
        let mut committed = match answer {
            Ok(Ok(committed)) => committed,
            Ok(Err(CommitError::Guard { name, found })) => return Err(DeployError::Guard { name, found }),
            Ok(Err(CommitError::Claimed { name, claim, holder })) => {
                return Err(DeployError::Claimed { name, claim, holder });
            }
            Ok(Err(CommitError::Moved { name })) => return Err(DeployError::Moved { name }),
            Ok(Err(CommitError::Store(error))) => return Err(error.into()),
            Ok(Err(CommitError::Unknown(_))) | Err(_) => self.resolve(id).await?,
        };
        let mut snapshot = self.seen(&committed).await;
        // A failover since the commit may have lost it: the line of the new epoch tells.
        if snapshot.as_ref().is_some_and(|seen| seen.position().epoch != committed.epoch) {
            committed = self.resolve(id).await?;
            snapshot = self.seen(&committed).await.filter(|seen| seen.position().epoch == committed.epoch);
        }
        tracing::info!(batch = %id, first = %committed.first, last = %committed.last, "batch committed");
        Ok(Deployed { committed, at, snapshot })
    }

    /// Waits, bounded, for this replica to be at least as far.
    async fn seen(&self, committed: &Committed) -> Option<Arc<Snapshot>> {
        self.replica.reached(Position::new(committed.epoch, committed.last), OWN_WRITE_DEADLINE).await
    }

    /// Waits, bounded, until this replica has seen all that is committed now.
    ///
    /// # Errors
    /// When the store cannot say where its line ends.
    pub async fn catch_up(&self) -> Result<(), StoreError> {
        let head = self.store.head().await?.position;
        // Whoever goes on without having caught up plans on old knowledge and is refused.
        self.replica.reached(head, OWN_WRITE_DEADLINE).await;
        Ok(())
    }

    async fn resolve(&self, id: Uuid) -> Result<Committed, DeployError> {
        tracing::warn!(batch = %id, "a commit's answer, or the database that gave it, was lost; asking what became of it");
        let deadline = Instant::now() + OUTCOME_DEADLINE;
        loop {
            match tokio::time::timeout_at(deadline, self.store.outcome(id)).await {
                Ok(Ok(Some(committed))) => return Ok(committed),
                Ok(Ok(None)) => {
                    let reason =
                        "the database was lost before it had the commit for good; nothing was written";
                    return Err(StoreError::Unavailable(reason.to_owned()).into());
                }
                Ok(Err(StoreError::Unavailable(_))) if Instant::now() + OUTCOME_PAUSE < deadline => {
                    tokio::time::sleep(OUTCOME_PAUSE).await;
                }
                Ok(Err(_)) | Err(_) => return Err(DeployError::Unknown(id)),
            }
        }
    }
}

/// From a planned write to one for the store, which seals the payload: see `crate::seal`.
fn commit(planned: Planned) -> Commit {
    let write = match planned.content {
        None => Write::Delete,
        Some(admitted) => Write::Put {
            source: admitted.source.to_string(),
            payload: admitted.payload,
            uuid: admitted.uuid.unwrap_or_else(Uuid::new_v4),
            claims: admitted.claims,
            references: admitted.references,
        },
    };
    Commit { name: planned.name, guard: planned.guard, write }
}
