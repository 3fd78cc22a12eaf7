// SPDX-License-Identifier: Apache-2.0
//! The questions the config stream asks of a snapshot. Undeployed artifacts exist for the
//! management API only: to a runtime they are gone. Of kinds that stay with the controllers a
//! runtime does not even learn the names.

use std::ops::Bound;

use ferrogate_model::{Digest, Position, ResourceName, Revision};
use ferrogate_xds::catalog::Encoded;
use ferrogate_xds::{Catalog, Delta};

use super::{Past, Snapshot};

impl Catalog for Snapshot {
    fn position(&self) -> Position {
        self.position
    }

    fn digest(&self) -> Digest {
        self.digest
    }

    fn had(&self, revision: Revision, digest: Digest) -> bool {
        let found = self.past.binary_search_by_key(&revision, |past| past.revision).ok();
        found.and_then(|index| self.past.get(index)) == Some(&Past::new(revision, digest))
    }

    fn changes_since(&self, revision: Revision) -> Option<Delta> {
        if revision < self.known_from || revision > self.position.revision {
            return None;
        }
        let later = (Bound::Excluded(revision), Bound::Unbounded);
        let mut delta = Delta::default();
        for (_, entry) in self.by_revision.range(later) {
            match &entry.encoded {
                Some(encoded) => delta.upserts.push(encoded.clone()),
                None if entry.stored.name.kind.is_served() => delta.removes.push(entry.stored.name.clone()),
                None => {}
            }
        }
        let buried = self.tombstones.range(later).map(|(_, name)| name.as_ref());
        delta.removes.extend(buried.filter(|name| name.kind.is_served()).cloned());
        Some(delta)
    }

    fn everything(&self) -> Vec<Encoded> {
        self.by_name.values().filter_map(|entry| entry.encoded.clone()).collect()
    }

    fn resource(&self, name: &ResourceName) -> Option<Encoded> {
        self.by_name.get(name)?.encoded.clone()
    }
}
