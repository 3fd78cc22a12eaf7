// SPDX-License-Identifier: Apache-2.0
//! One controller's connection to the simulated database, behind the store's own trait.
//! Every call takes simulated time, may be late, lost or never answered, and keeps the
//! deadline that a real store has. It knows the points at which a controller can be
//! killed within a commit.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ferrogate_model::{Position, ResourceName, Revision};
use ferrogate_store::history::Seen;
use ferrogate_store::{
    Batch, Change, Changes, Cluster, CommitError, Committed, ControllerLease, Head, Hints, Payload, Rewrite,
    RuntimeLease, State, Store, StoreError, StoredArtifact,
};
use futures::StreamExt;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

use super::database::Database;
use super::trouble::{Point, Trouble};

/// The deadline of a call, as the product's own.
const DEADLINE: Duration = Duration::from_secs(5);
/// How often a call looks whether the database that said nothing is back.
const PAUSE: Duration = Duration::from_millis(20);

/// What all connections share.
pub struct Server {
    database: Mutex<Database>,
    /// The gateway's row: whoever writes holds it until its transaction ends.
    row: Arc<tokio::sync::Mutex<()>>,
}

/// See the module.
pub struct SimStore {
    server: Arc<Server>,
    trouble: Arc<Trouble>,
    host: String,
    seen: Mutex<Seen>,
}

impl Server {
    pub fn new() -> Arc<Server> {
        Arc::new(Server { database: Mutex::new(Database::new()), row: Arc::default() })
    }

    pub fn database(&self) -> MutexGuard<'_, Database> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SimStore {
    pub fn new(server: Arc<Server>, trouble: Arc<Trouble>, host: String) -> SimStore {
        SimStore { server, trouble, host, seen: Mutex::default() }
    }

    /// The way there and back, and what the database does with a call.
    async fn call<T>(&self, act: impl FnOnce(&mut Database, &mut Seen) -> T) -> Result<T, StoreError> {
        let answer = timeout(DEADLINE, async {
            sleep(self.trouble.latency()).await;
            self.reach().await?;
            let answer = {
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                act(&mut self.server.database(), &mut seen)
            };
            // Old news by the time it arrives.
            sleep(self.trouble.latency()).await;
            Ok(answer)
        });
        answer.await.unwrap_or_else(|_| Err(unavailable("no answer in time")))
    }

    /// Waits while the database is frozen; an error while it is away.
    async fn reach(&self) -> Result<(), StoreError> {
        loop {
            let (down, paused) = {
                let database = self.server.database();
                (database.down, database.paused)
            };
            if down || self.trouble.cut_off(&self.host) {
                return Err(unavailable("the connection is refused"));
            }
            if !paused {
                return Ok(());
            }
            sleep(PAUSE).await;
        }
    }

    async fn transaction(&self, batch: &Batch) -> Result<Committed, CommitError> {
        sleep(self.trouble.latency()).await;
        self.reach().await?;
        let _row = Arc::clone(&self.server.row).lock_owned().await;
        let generation = self.server.database().generation();
        // State and changes are written; nothing of it is committed yet.
        sleep(self.trouble.latency()).await;
        self.trouble.reached(&self.host, Point::BeforeCommit).await;
        self.reach().await?;
        sleep(self.trouble.commit_delay()).await;
        if self.trouble.loses_commit() {
            return Err(CommitError::Unknown(batch.id));
        }
        let committed = {
            let mut database = self.server.database();
            if database.generation() != generation {
                return Err(CommitError::Unknown(batch.id));
            }
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            database.commit(batch, &mut seen)?
        };
        self.trouble.reached(&self.host, Point::AfterCommit).await;
        if self.trouble.loses_answer() {
            return Err(CommitError::Unknown(batch.id));
        }
        sleep(self.trouble.latency()).await;
        Ok(committed)
    }
}

#[async_trait]
impl Store for SimStore {
    async fn head(&self) -> Result<Head, StoreError> {
        self.call(Database::access).await
    }

    async fn load(&self) -> Result<State, StoreError> {
        self.call(Database::load).await
    }

    async fn changes_since(&self, after: Position, limit: usize) -> Result<Changes, StoreError> {
        self.call(|database, seen| database.changes_since(after, limit, seen)).await
    }

    async fn subscribe(&self) -> Result<Hints, StoreError> {
        let hints = self.call(|database, _| database.subscribe()).await?;
        Ok(Box::pin(ReceiverStream::new(hints).map(Some)))
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        let id = batch.id;
        timeout(DEADLINE, self.transaction(&batch)).await.unwrap_or(Err(CommitError::Unknown(id)))
    }

    async fn outcome(&self, batch_id: Uuid) -> Result<Option<Committed>, StoreError> {
        // Whoever may still commit it holds the row.
        let row = timeout(DEADLINE, Arc::clone(&self.server.row).lock_owned()).await;
        let _row = row.map_err(|_| unavailable("the gateway's row is locked"))?;
        let answer = self.call(|database, seen| {
            database.access(seen);
            database.committed(batch_id)
        });
        answer.await
    }

    async fn revisions(
        &self,
        _: &ResourceName,
        _: Option<Revision>,
        _: usize,
    ) -> Result<Vec<Change>, StoreError> {
        Err(unavailable("not part of the simulation"))
    }

    async fn referrers(&self, _: &ResourceName) -> Result<Vec<ResourceName>, StoreError> {
        Err(unavailable("not part of the simulation"))
    }

    async fn note(&self, _: &str) -> Result<Option<String>, StoreError> {
        Err(unavailable("not part of the simulation"))
    }

    async fn put_note(&self, _: &str, _: Option<&str>, _: &str) -> Result<String, StoreError> {
        Err(unavailable("not part of the simulation"))
    }

    async fn artifact_at(&self, _: &ResourceName, _: Revision) -> Result<Option<StoredArtifact>, StoreError> {
        Err(unavailable("not part of the simulation"))
    }

    async fn state_at(&self, at: Revision) -> Result<State, StoreError> {
        self.call(|database, seen| database.state_at(at, seen)).await?
    }

    async fn payloads(&self, _: Revision, _: usize, _: &str) -> Result<Vec<Payload>, StoreError> {
        Err(unavailable("not part of the simulation"))
    }

    async fn rewrite(&self, _: &[Rewrite]) -> Result<u64, StoreError> {
        Err(unavailable("not part of the simulation"))
    }

    async fn prune(&self, _: Revision) -> Result<u64, StoreError> {
        Err(unavailable("not part of the simulation"))
    }

    async fn report(
        &self,
        controller: &ControllerLease,
        runtimes: &[RuntimeLease],
    ) -> Result<(), StoreError> {
        let now = self.trouble.now_micros();
        self.call(|database, _| database.report(controller, runtimes, now)).await
    }

    async fn cluster(&self) -> Result<Cluster, StoreError> {
        let now = self.trouble.now_micros();
        let (controllers, runtimes) = self.call(|database, _| database.leases()).await?;
        Ok(Cluster { controllers, runtimes, now })
    }
}

fn unavailable(reason: &str) -> StoreError {
    StoreError::Unavailable(reason.to_owned())
}
