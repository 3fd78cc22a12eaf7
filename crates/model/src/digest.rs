// SPDX-License-Identifier: Apache-2.0
//! The digest of a set of resources, kept up to date in O(one resource).
//!
//! Each resource hashes to four 64-bit lanes; the set's digest is the lane-wise
//! wrapping sum, so adding and removing commute and no order is needed. It answers
//! "do we hold the same set?" between replicas that trust each other, not between
//! adversaries: a sum of hashes is not collision-proof against a chosen set.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Resource, ResourceName, Revision};

/// The digest of a set of resources. The empty set's digest is the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u64; 4]);

impl Digest {
    /// The contribution of one resource.
    #[must_use]
    pub fn of(name: &ResourceName, version: Revision, payload: &[u8]) -> Digest {
        let mut hasher = Sha256::new();
        let name = name.to_string();
        // Length-prefixed, so that no two (name, version, payload) triples share an input.
        hasher.update((name.len() as u64).to_be_bytes());
        hasher.update(name.as_bytes());
        hasher.update(version.0.to_be_bytes());
        hasher.update(payload);
        let hash: [u8; 32] = hasher.finalize().into();
        let mut lanes = [0_u64; 4];
        for (lane, chunk) in lanes.iter_mut().zip(hash.chunks_exact(8)) {
            *lane = chunk.iter().fold(0, |value, byte| (value << 8) | u64::from(*byte));
        }
        Digest(lanes)
    }

    /// The contribution of a resource value.
    #[must_use]
    pub fn of_resource(resource: &Resource) -> Digest {
        Digest::of(&resource.name, resource.version, &resource.payload)
    }

    /// The digest after this resource's contribution is added to the set.
    #[must_use]
    pub fn plus(self, other: Digest) -> Digest {
        self.combine(other, u64::wrapping_add)
    }

    /// The digest after this resource's contribution is taken from the set.
    #[must_use]
    pub fn minus(self, other: Digest) -> Digest {
        self.combine(other, u64::wrapping_sub)
    }

    fn combine(mut self, other: Digest, op: fn(u64, u64) -> u64) -> Digest {
        for (lane, other) in self.0.iter_mut().zip(other.0) {
            *lane = op(*lane, other);
        }
        self
    }

    /// The digest as 32 bytes, big-endian lanes in order: its form on the wire and on disk.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (chunk, lane) in bytes.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&lane.to_be_bytes());
        }
        bytes
    }

    /// The digest with these 32 bytes; `None` for any other length.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Digest> {
        let bytes: &[u8; 32] = bytes.try_into().ok()?;
        let mut lanes = [0_u64; 4];
        for (lane, chunk) in lanes.iter_mut().zip(bytes.chunks_exact(8)) {
            *lane = chunk.iter().fold(0, |value, byte| (value << 8) | u64::from(*byte));
        }
        Some(Digest(lanes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|lane| write!(f, "{lane:016x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::Digest;
    use crate::Revision;

    fn contribution(handle: &str, version: u64, payload: &str) -> Digest {
        let name = format!("rest-apis/{handle}").parse().expect("a well-formed name");
        Digest::of(&name, Revision(version), payload.as_bytes())
    }

    #[test]
    fn order_does_not_matter_and_removal_undoes() {
        let (a, b) = (contribution("a", 1, "x"), contribution("b", 2, "y"));
        let both = Digest::default().plus(a).plus(b);
        assert_eq!(both, Digest::default().plus(b).plus(a));
        assert_eq!(both.minus(a).minus(b), Digest::default());
        assert_eq!(Digest::from_bytes(&both.to_bytes()), Some(both));
    }

    #[test]
    fn every_part_counts() {
        let base = contribution("a", 1, "x");
        for other in [contribution("b", 1, "x"), contribution("a", 2, "x"), contribution("a", 1, "y")] {
            assert_ne!(base, other);
        }
    }
}
