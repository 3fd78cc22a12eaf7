// SPDX-License-Identifier: Apache-2.0
//! What goes into a store and what comes out of it.

use std::pin::Pin;

use ferrogate_model::{Epoch, Position, ResourceName, Revision};
use futures::Stream;
use uuid::Uuid;

/// An artifact as stored. Documents are JSON text; nothing here is interpreted by a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredArtifact {
    /// Its key.
    pub name: ResourceName,
    /// The revision that gave it this content.
    pub revision: Revision,
    /// The internal id, stable across replacements.
    pub uuid: Uuid,
    /// The document as the client wrote it (templates unrendered), answered on reads.
    pub source: String,
    /// The canonical payload for the runtimes, made at admission; `None` while undeployed.
    pub payload: Option<String>,
    /// Microseconds since the Unix epoch, by the committing controller's clock: for people only.
    pub created_at: i64,
    /// As `created_at`, of this revision.
    pub updated_at: i64,
}

/// One change: an artifact got this content, or went away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its place in the line.
    pub revision: Revision,
    /// The last revision of the transaction it was part of: snapshots are taken there only.
    pub batch_end: Revision,
    /// Which artifact.
    pub name: ResourceName,
    /// Its new content, or `None` when it was deleted.
    pub artifact: Option<StoredArtifact>,
    /// Who made it.
    pub author: String,
    /// When, in microseconds since the Unix epoch, by the committing controller's clock.
    pub at: i64,
}

/// Where the line stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The last committed change.
    pub position: Position,
    /// The lowest revision from which [`Changes::Line`] can still be read.
    pub floor: Revision,
}

/// Every artifact at one position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The position all of it is consistent at.
    pub position: Position,
    /// The artifacts, in name order.
    pub artifacts: Vec<StoredArtifact>,
}

/// The answer to "what came after?".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changes {
    /// The next changes, starting exactly one revision on; empty when there are none.
    Line {
        /// The epoch they belong to, equal to the one asked about.
        epoch: Epoch,
        /// Contiguous, ending at a batch end.
        changes: Vec<Change>,
        /// The head when they were read: more may follow.
        head: Revision,
    },
    /// The line cannot be continued from there: load the whole state.
    Resync(Head),
}

/// Several writes, all or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Made by the writer, so that a lost answer can be resolved by [`crate::Store::outcome`].
    pub id: Uuid,
    /// Who writes.
    pub author: String,
    /// The writer's clock, microseconds since the Unix epoch.
    pub at: i64,
    /// In order; each takes one revision. Never empty; one write per artifact.
    pub writes: Vec<Commit>,
    /// What the writes were made from, and must still hold inside the transaction.
    pub expects: Vec<Expect>,
}

/// Something that must hold of artifacts besides those a batch writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The artifact has this revision: what was read of it is still so.
    Unchanged {
        /// Which artifact.
        name: ResourceName,
        /// The revision it was read at.
        revision: Revision,
    },
    /// Every artifact that refers to this one is written by the batch, so that none is left
    /// with what the one referred to has been.
    ReferrersWritten {
        /// The artifact referred to.
        name: ResourceName,
    },
}

/// One write of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Which artifact.
    pub name: ResourceName,
    /// What must hold of the stored artifact, checked inside the transaction.
    pub guard: Guard,
    /// What to do.
    pub write: Write,
}

/// What must hold of the stored artifact for a write to go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Anything.
    Any,
    /// It must not exist.
    Absent,
    /// It must exist.
    Present,
    /// It must exist with this revision (`If-Match`).
    AtRevision(Revision),
}

impl Guard {
    /// Whether it lets a write to what is at this revision pass; `None` is what does not exist.
    #[must_use]
    pub fn holds(self, found: Option<Revision>) -> bool {
        match (self, found) {
            (Guard::Any, _) | (Guard::Present, Some(_)) | (Guard::Absent, None) => true,
            (Guard::AtRevision(wanted), Some(found)) => wanted == found,
            (Guard::Absent, Some(_)) | (Guard::Present | Guard::AtRevision(_), None) => false,
        }
    }
}

/// What a write does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Create or replace.
    Put {
        /// The document as the client wrote it.
        source: String,
        /// The canonical payload; `None` while undeployed.
        payload: Option<String>,
        /// The uuid for a new artifact; a replaced one keeps its own.
        uuid: Uuid,
        /// Keys that no other artifact of the gateway may hold, each at most 1 KiB:
        /// `displayName` + version, and one per route. They are replaced with the artifact.
        claims: Vec<String>,
        /// The artifacts whose content went into this payload. They are replaced with the
        /// artifact; one that does not exist any more may still be referred to.
        references: Vec<ResourceName>,
    },
    /// Delete.
    Delete,
}

/// A change's payload as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// The change.
    pub revision: Revision,
    /// Which artifact.
    pub name: ResourceName,
    /// The text; `None` when there is none, or it is one that was not asked for.
    pub text: Option<String>,
}

/// Another text for a payload, which means the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// The change.
    pub revision: Revision,
    /// Which artifact.
    pub name: ResourceName,
    /// What was read; if it is not there any more, nothing is written.
    pub from: String,
    /// What to put in its place.
    pub to: String,
}

/// A committed batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The epoch it was committed in.
    pub epoch: Epoch,
    /// The first write's revision.
    pub first: Revision,
    /// The last write's revision.
    pub last: Revision,
}

/// Hints that the line may have moved, with the revision when known.
pub type Hints = Pin<Box<dyn Stream<Item = Option<Revision>> + Send>>;
