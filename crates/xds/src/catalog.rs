// SPDX-License-Identifier: Apache-2.0
//! What the serving end reads: the controller's snapshot, through the questions a
//! stream asks of it. A catalog is immutable; a newer one replaces it in a watch.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use ferrogate_model::{Digest, Position, ResourceName, Revision};
use prost::bytes::Bytes;

/// One immutable snapshot, ready to be sent.
pub trait Catalog: Send + Sync + 'static {
    /// Where in the line this snapshot stands.
    fn position(&self) -> Position;

    /// The digest of the whole set at this snapshot's position.
    fn digest(&self) -> Digest;

    /// Whether the set had this digest at an earlier revision of this epoch. Never so where
    /// that is no longer remembered.
    fn had(&self, revision: Revision, digest: Digest) -> bool;

    /// What changed after `revision`, each resource once at its latest version;
    /// `None` when that is no longer known, so that everything must be sent.
    fn changes_since(&self, revision: Revision) -> Option<Delta>;

    /// Everything.
    fn everything(&self) -> Vec<Encoded>;

    /// One resource, for resending what a runtime refused or lost.
    fn resource(&self, name: &ResourceName) -> Option<Encoded>;
}

/// Two catalogs of one position and digest say the same, whatever each remembers of the past.
impl Hash for dyn Catalog {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.position(), self.digest()).hash(state);
    }
}

/// The difference between two revisions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    /// New or changed, in revision order.
    pub upserts: Vec<Encoded>,
    /// Gone.
    pub removes: Vec<ResourceName>,
}

/// A resource encoded once and shared by every stream that sends it.
#[derive(Clone, Debug, PartialEq, Hash)]
pub struct Encoded {
    /// Which artifact.
    pub name: Arc<ResourceName>,
    /// The revision that gave it this content.
    pub version: Revision,
    /// The protobuf bytes of its `Any` payload (see `wire`).
    pub bytes: Bytes,
}
