// SPDX-License-Identifier: Apache-2.0
//! One update on its way out: from what the runtime holds to a catalog, cut into
//! responses that stay far below the size of a message. Made by the session, which has
//! at most one of these at a time and knows what the answer to it means.

use std::collections::{BTreeSet, VecDeque};

use ferrogate_model::{Digest, Position, ResourceName};

use super::observer::Sent;
use crate::catalog::{Catalog, Delta, Encoded};
use crate::protocol::DeltaDiscoveryResponse;
use crate::wire::mark::{self, Mark};
use crate::wire::{self, SUBSCRIPTION};

/// How much fits into one response. A single resource that is larger travels alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkLimits {
    /// Payload bytes.
    pub bytes: usize,
    /// Resources and removals, each.
    pub resources: usize,
}

impl Default for ChunkLimits {
    fn default() -> ChunkLimits {
        ChunkLimits { bytes: 512 * 1024, resources: 1000 }
    }
}

/// What the runtime holds, as it stated or acknowledged.
#[derive(Clone, Hash)]
pub(super) struct Base {
    pub(super) position: Position,
    /// The catalog's digest at that position, `None` when everything must be sent.
    pub(super) line_digest: Option<Digest>,
    /// As stated to the runtime.
    pub(super) digest: Digest,
    /// Refused earlier, to be sent again with the first update.
    pub(super) resend: Vec<ResourceName>,
    /// Confirmed by an answer on this stream.
    pub(super) confirmed: bool,
}

/// An update being sent, or sent and not answered yet.
#[derive(Clone, Hash)]
pub(super) struct Flight {
    pub(super) position: Position,
    /// The digest of what the runtime will then hold: the catalog's, less what is withheld.
    pub(super) digest: Digest,
    /// The catalog's own digest, to find the way from here to the next update.
    pub(super) line_digest: Digest,
    pub(super) full: bool,
    /// The refused resources that are in it again, or gone: their refusal ends with the answer.
    pub(super) settles: Vec<String>,
    upserts: VecDeque<Encoded>,
    removes: VecDeque<ResourceName>,
    last_nonce: Option<String>,
    sent: Sent,
}

impl Base {
    /// What leads from the base to the catalog, the refused resources again included; `None`
    /// when the base is not a place on this catalog's line, or no longer known.
    pub(super) fn delta(&self, catalog: &dyn Catalog) -> Option<Delta> {
        let here = catalog.position();
        let stated = self.line_digest?;
        if here.epoch != self.position.epoch {
            return None;
        }
        let revision = self.position.revision;
        let (held, mut delta) = if here.revision == revision {
            (catalog.digest() == stated, Delta::default())
        } else {
            (catalog.had(revision, stated), catalog.changes_since(revision)?)
        };
        if !held {
            return None;
        }
        if !self.resend.is_empty() {
            let changed: BTreeSet<_> = delta.upserts.iter().map(|upsert| upsert.name.clone()).collect();
            let again = self.resend.iter().filter(|name| !changed.contains(*name));
            delta.upserts.extend(again.filter_map(|name| catalog.resource(name)));
        }
        Some(delta)
    }
}

impl Flight {
    pub(super) fn new(
        mark: Mark,
        line_digest: Digest,
        upserts: Vec<Encoded>,
        removes: Vec<ResourceName>,
    ) -> Flight {
        let sent = Sent {
            position: mark.position,
            full: mark.full,
            upserts: upserts.len(),
            removes: removes.len(),
            ..Sent::default()
        };
        Flight {
            position: mark.position,
            digest: mark.digest,
            line_digest,
            full: mark.full,
            settles: Vec::new(),
            upserts: upserts.into(),
            removes: removes.into(),
            last_nonce: None,
            sent,
        }
    }

    /// Whether responses remain to be sent.
    pub(super) fn unsent(&self) -> bool {
        self.last_nonce.is_none()
    }

    /// Whether an answer with this nonce is the answer to the whole update.
    pub(super) fn is_answered_by(&self, nonce: &str) -> bool {
        self.last_nonce.as_deref() == Some(nonce)
    }

    /// The next response, and what was sent in all when it is the last. `None` when
    /// everything has been sent.
    pub(super) fn next(
        &mut self,
        limits: ChunkLimits,
        nonce: String,
    ) -> Option<(DeltaDiscoveryResponse, Option<Sent>)> {
        if !self.unsent() {
            return None;
        }
        let mut chunk = Vec::new();
        let mut bytes = 0_usize;
        while let Some(next) = self.upserts.front() {
            let fits =
                bytes.saturating_add(next.bytes.len()) <= limits.bytes && chunk.len() < limits.resources;
            // At least one goes into every response, or a large one would stop the line.
            if !fits && !chunk.is_empty() {
                break;
            }
            bytes = bytes.saturating_add(next.bytes.len());
            chunk.extend(self.upserts.pop_front());
        }
        let removes = self.removes.drain(..self.removes.len().min(limits.resources.max(1)));
        let removed_resources = removes.map(|name| name.to_string()).collect();
        let last = self.upserts.is_empty() && self.removes.is_empty();
        self.sent.responses += 1;
        self.sent.bytes = self.sent.bytes.saturating_add(bytes);
        if last {
            self.last_nonce = Some(nonce.clone());
        }
        let mark = Mark { position: self.position, digest: self.digest, full: self.full, last };
        let mut resources = Vec::with_capacity(chunk.len() + 1);
        resources.push(mark::to_message(&mark));
        resources.extend(chunk.iter().map(wire::to_message));
        let response = DeltaDiscoveryResponse {
            system_version_info: self.position.to_string(),
            resources,
            type_url: SUBSCRIPTION.to_owned(),
            nonce,
            removed_resources,
        };
        Some((response, last.then_some(self.sent)))
    }
}
