// SPDX-License-Identifier: Apache-2.0
//! Revisioned storage: the single source of truth. One trait over PostgreSQL and
//! SQLite, one conformance suite that both pass, and [`feed`], which turns a store
//! into a contiguous line of changes. It must never serve REST or speak xDS; the
//! controller commits through [`Store`] and learns of every change, its own
//! included, from the feed.
#![warn(missing_docs)]

pub mod error;
mod fault;
pub mod feed;
pub mod history;
pub mod lease;
mod migrate;
pub mod open;
mod plan;
mod postgres;
mod read;
mod ready;
mod rows;
mod sql;
mod sqlite;
pub mod types;

use async_trait::async_trait;
use ferrogate_model::{Position, ResourceName, Revision};

pub use error::{CommitError, StoreError};
pub use feed::{Feed, FeedEvent};
pub use lease::{Cluster, ControllerLease, RuntimeLease};
pub use open::{OpenError, Options, check, open};
pub use plan::{ID_CLAIM, id_claim};
pub use read::resync_needed;
pub use types::{
    Batch, Change, Changes, Commit, Committed, Expect, Guard, Head, Hints, Payload, Rewrite, State,
    StoredArtifact, Write,
};

/// What a gateway's storage can do. Every method has the deadline the store was opened with.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Where the change line stands, and where its readable part begins.
    async fn head(&self) -> Result<Head, StoreError>;

    /// Every current artifact, consistent at one position.
    async fn load(&self) -> Result<State, StoreError>;

    /// The changes that follow `after`, whole batches only and at most about `limit` of
    /// them; [`Changes::Resync`] when `after` is below the floor, ahead of the head or
    /// of another epoch.
    async fn changes_since(&self, after: Position, limit: usize) -> Result<Changes, StoreError>;

    /// A stream of hints that the line may have moved. Subscribe first, then read:
    /// a hint may be lost, late or spurious; truth is [`Store::changes_since`].
    async fn subscribe(&self) -> Result<Hints, StoreError>;

    /// Applies a batch in one transaction: state, change rows, revisions, notice.
    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError>;

    /// What became of the batch with this id, whose answer was lost: its revisions when it
    /// was committed, `None` when it was not and never will be.
    async fn outcome(&self, batch_id: uuid::Uuid) -> Result<Option<Committed>, StoreError>;

    /// One artifact's revisions still readable, newest first; with `before`, those below it only:
    /// the page that follows one whose last revision that was.
    async fn revisions(
        &self,
        name: &ResourceName,
        before: Option<Revision>,
        limit: usize,
    ) -> Result<Vec<Change>, StoreError>;

    /// One artifact as of a revision: `None` when it did not exist then.
    async fn artifact_at(
        &self,
        name: &ResourceName,
        at: Revision,
    ) -> Result<Option<StoredArtifact>, StoreError>;

    /// Every artifact as of a revision at or above the floor.
    async fn state_at(&self, at: Revision) -> Result<State, StoreError>;

    /// The artifacts that refer to this one, whether it exists or not.
    async fn referrers(&self, name: &ResourceName) -> Result<Vec<ResourceName>, StoreError>;

    /// A note: a text that the controllers of a gateway share outside the revision line.
    async fn note(&self, name: &str) -> Result<Option<String>, StoreError>;

    /// Writes a note if the one that stands is `expected` (`None`: there is none), and answers
    /// the one that stands afterwards. Of replicas that write at once, one wins and all learn
    /// what it wrote.
    async fn put_note(&self, name: &str, expected: Option<&str>, text: &str) -> Result<String, StoreError>;

    /// The payloads of the `limit` changes that follow `after`, in order, without the text of
    /// those that begin with `except`.
    async fn payloads(&self, after: Revision, limit: usize, except: &str)
    -> Result<Vec<Payload>, StoreError>;

    /// Rewrites payloads in one transaction, in the change and in the artifact whose content it
    /// still is, and answers how many. The line does not move and nobody is told: whoever
    /// rewrites must not change what a payload means.
    async fn rewrite(&self, rewrites: &[Rewrite]) -> Result<u64, StoreError>;

    /// Drops change rows that no revision at or above `floor` needs, and records the floor.
    async fn prune(&self, floor: Revision) -> Result<u64, StoreError>;

    /// Renews this controller's lease and those of the runtimes connected to it. Not part
    /// of the revision line: no change row, no notice on the change channel.
    async fn report(&self, controller: &ControllerLease, runtimes: &[RuntimeLease])
    -> Result<(), StoreError>;

    /// Every lease known, expired ones included, with the time the database has now.
    async fn cluster(&self) -> Result<Cluster, StoreError>;
}
