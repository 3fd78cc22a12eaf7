// SPDX-License-Identifier: Apache-2.0
//! What the receiving end drives: the runtime's state, through what a stream tells it.

use std::collections::BTreeMap;

use async_trait::async_trait;
use ferrogate_model::{Digest, Position, Reject, Resource, ResourceName, Revision};

/// The receiver of updates. One update at a time; the next is not delivered before the
/// outcome of this one is known.
#[async_trait]
pub trait Sink: Send + Sync + 'static {
    /// What is held now, stated on every connect.
    fn held(&self) -> Held;

    /// Compiles, swaps and persists an update, in that order, and only then returns:
    /// what it returns is acknowledged, and an acknowledgement outlives a crash.
    async fn apply(&self, update: Update) -> Outcome;

    /// The stream to this controller is up (`Some`) or gone (`None`).
    fn connected(&self, controller: Option<&str>);
}

/// What a runtime holds: one position, one digest, and the exceptions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Held {
    /// The last update applied and persisted.
    pub position: Position,
    /// The digest of the set *as delivered* at that position: refused versions count, as
    /// if they had been taken, so that one refusal does not make the whole set look foreign.
    pub digest: Digest,
    /// Delivered but refused, and so to be sent again to a runtime that reconnects.
    pub rejected: BTreeMap<ResourceName, Revision>,
    /// Serving from the last-known-good snapshot, no controller heard since the start.
    pub from_cache: bool,
}

/// One step from one position to a later one.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// The position after it.
    pub position: Position,
    /// The digest of the delivered set after it; a mismatch makes the client ask for everything.
    pub digest: Digest,
    /// The upserts are the whole set: drop what is not among them.
    pub full: bool,
    /// New or changed.
    pub upserts: Vec<Resource>,
    /// Gone. Empty when `full`.
    pub removes: Vec<ResourceName>,
}

/// What became of an update.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Resources refused, each with its reason. Its last good version, if any, stays; its
    /// siblings are applied.
    pub rejects: Vec<Reject>,
    /// The delivered set's digest does not equal the update's: everything must be sent again.
    pub diverged: bool,
    /// The update is served but could not be written to disk, and why. It is then not
    /// acknowledged: the stream ends and is opened again with the position that was persisted.
    pub not_persisted: Option<String>,
}
