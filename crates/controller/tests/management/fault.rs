// SPDX-License-Identifier: Apache-2.0
//! A store that can be told to fail in the ways a database does.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use async_trait::async_trait;
use ferrogate_model::{Epoch, GatewayId, Position, ResourceName, Revision};
use ferrogate_store::{
    Batch, Change, Changes, Cluster, CommitError, Committed, ControllerLease, Head, Hints, Options, Payload,
    Rewrite, RuntimeLease, State, Store, StoreError, StoredArtifact, open,
};
use uuid::Uuid;

/// How the store behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// As it should.
    Sound,
    /// It does not answer.
    Down,
    /// A later version has migrated it.
    Newer,
    /// Commits go through, their answers are lost.
    LoseAnswers,
    /// Connections are lost before the commit.
    LoseCommits,
    /// Commits go through, their answers are lost, and nobody can ask afterwards.
    LoseAnswersAndHide,
    /// Commits are answered by a database that a failover then loses, and they with it.
    LoseInFailover,
    /// Commits are answered by a database that fails over, and they survive.
    FailOver,
    /// The change log is cut between any two looks at it.
    CutLog,
}

/// A sound store with a switch.
pub struct Faulty {
    inner: Arc<dyn Store>,
    mode: AtomicU8,
}

impl Faulty {
    pub fn over(dir: &Path) -> Arc<Faulty> {
        let url = format!("sqlite://{}", dir.join("faulty.db").display());
        let inner = open(&url, &GatewayId::from("g"), &Options::default()).expect("a URL");
        Arc::new(Faulty { inner, mode: AtomicU8::new(Mode::Sound as u8) })
    }

    /// The same database as somebody sees it whom no fault meets.
    pub fn elsewhere(&self) -> Arc<dyn Store> {
        Arc::clone(&self.inner)
    }

    pub fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::SeqCst);
    }

    fn is(&self, mode: Mode) -> bool {
        self.mode.load(Ordering::SeqCst) == mode as u8
    }

    fn up(&self) -> Result<&dyn Store, StoreError> {
        if self.is(Mode::Down) {
            Err(StoreError::Unavailable("told to be".to_owned()))
        } else if self.is(Mode::Newer) {
            Err(StoreError::Corrupt("a newer ferrogate has migrated it".to_owned()))
        } else {
            Ok(self.inner.as_ref())
        }
    }
}

#[async_trait]
impl Store for Faulty {
    async fn head(&self) -> Result<Head, StoreError> {
        self.up()?.head().await
    }

    async fn load(&self) -> Result<State, StoreError> {
        self.up()?.load().await
    }

    async fn changes_since(&self, after: Position, limit: usize) -> Result<Changes, StoreError> {
        if self.is(Mode::CutLog) {
            return Ok(Changes::Resync(self.inner.head().await?));
        }
        self.up()?.changes_since(after, limit).await
    }

    async fn subscribe(&self) -> Result<Hints, StoreError> {
        self.up()?.subscribe().await
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        let id = batch.id;
        if self.is(Mode::LoseCommits) {
            return Err(CommitError::Unknown(id));
        }
        // What the epoch before this one would have answered.
        let before = |epoch: Epoch| Epoch(epoch.0 - 1);
        if self.is(Mode::LoseInFailover) {
            let Head { position, .. } = self.inner.head().await?;
            let (epoch, next) = (before(position.epoch), Revision(position.revision.0 + 1));
            return Ok(Committed { epoch, first: next, last: next });
        }
        let committed = self.up()?.commit(batch).await;
        if self.is(Mode::FailOver) {
            return committed.map(|one| Committed { epoch: before(one.epoch), ..one });
        }
        if self.is(Mode::LoseAnswers) || self.is(Mode::LoseAnswersAndHide) {
            return Err(CommitError::Unknown(id));
        }
        committed
    }

    async fn outcome(&self, batch_id: Uuid) -> Result<Option<Committed>, StoreError> {
        if self.is(Mode::LoseAnswersAndHide) {
            return Err(StoreError::Unavailable("told to be".to_owned()));
        }
        self.up()?.outcome(batch_id).await
    }

    async fn revisions(
        &self,
        name: &ResourceName,
        before: Option<Revision>,
        limit: usize,
    ) -> Result<Vec<Change>, StoreError> {
        self.up()?.revisions(name, before, limit).await
    }

    async fn artifact_at(
        &self,
        name: &ResourceName,
        at: Revision,
    ) -> Result<Option<StoredArtifact>, StoreError> {
        self.up()?.artifact_at(name, at).await
    }

    async fn state_at(&self, at: Revision) -> Result<State, StoreError> {
        self.up()?.state_at(at).await
    }

    async fn referrers(&self, name: &ResourceName) -> Result<Vec<ResourceName>, StoreError> {
        self.up()?.referrers(name).await
    }

    async fn note(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.up()?.note(name).await
    }

    async fn put_note(&self, name: &str, expected: Option<&str>, text: &str) -> Result<String, StoreError> {
        self.up()?.put_note(name, expected, text).await
    }

    async fn payloads(
        &self,
        after: Revision,
        limit: usize,
        except: &str,
    ) -> Result<Vec<Payload>, StoreError> {
        self.up()?.payloads(after, limit, except).await
    }

    async fn rewrite(&self, rewrites: &[Rewrite]) -> Result<u64, StoreError> {
        self.up()?.rewrite(rewrites).await
    }

    async fn prune(&self, floor: Revision) -> Result<u64, StoreError> {
        self.up()?.prune(floor).await
    }

    async fn report(
        &self,
        controller: &ControllerLease,
        runtimes: &[RuntimeLease],
    ) -> Result<(), StoreError> {
        self.up()?.report(controller, runtimes).await
    }

    async fn cluster(&self) -> Result<Cluster, StoreError> {
        self.up()?.cluster().await
    }
}
