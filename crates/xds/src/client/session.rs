// SPDX-License-Identifier: Apache-2.0
//! One stream at the receiving end, without IO: responses and outcomes in, requests and
//! updates out. It puts the chunks of an update together, decodes each resource by
//! itself, and refuses whatever would lead back. [`super::run`] drives it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ferrogate_model::{Digest, Position, Reject, Resource, ResourceName};

use crate::node::NodeInfo;
use crate::protocol::{self, DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use crate::sink::{Held, Outcome, Update};
use crate::wire::answer::{self, Answer};
use crate::wire::mark::{self, Mark};
use crate::wire::{self, hello};

/// The most resources and removals an update may have; a larger one ends the stream
/// before it fills the memory.
const MAX_UPDATE_RESOURCES: usize = 2_000_000;

/// What follows from a response.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Nothing yet.
    Wait,
    /// The position is confirmed: send this answer.
    Confirmed(DeltaDiscoveryRequest),
    /// Apply this, then tell [`Session::finish`] the outcome.
    Apply(Update),
}

/// Why a session must end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ending {
    /// The controller would lead back; another one must be asked.
    #[error("the controller sent {offered}, which is before {held}")]
    Backward {
        /// The position it sent.
        offered: Position,
        /// What is held.
        held: Position,
    },
    /// What is held is not what the controller says: everything must be sent again.
    #[error("the set held is not the controller's at {0}")]
    Diverged(Position),
    /// The update is served but not persisted, so it must not be acknowledged.
    #[error("the update could not be persisted: {0}")]
    NotPersisted(String),
    /// The controller does not keep to the protocol.
    #[error("the controller broke the protocol: {0}")]
    Protocol(&'static str),
    /// The mark of a response cannot be read.
    #[error("the response has no usable mark: {0}")]
    Mark(#[source] wire::WireError),
}

/// A receiving session.
#[derive(Clone, Debug, Hash)]
pub struct Session {
    position: Position,
    digest: Digest,
    /// Delivered on this stream in a form this version cannot decode, by name. While there
    /// are any, the set's digest cannot be checked, so a difference means nothing.
    undecodable: BTreeSet<String>,
    assembling: Option<Assembling>,
    applying: Option<Applying>,
}

/// The chunks of an update so far.
#[derive(Clone, Debug, Hash)]
struct Assembling {
    mark: Mark,
    upserts: Vec<Resource>,
    removes: Vec<ResourceName>,
    rejects: BTreeMap<String, Reject>,
}

/// An update at the sink.
#[derive(Clone, Debug, Hash)]
struct Applying {
    nonce: String,
    position: Position,
    digest: Digest,
    rejects: BTreeMap<String, Reject>,
}

impl Session {
    /// A session of a runtime that holds this, and its first request. With `distrust` it
    /// asks for everything.
    #[must_use]
    pub fn open(node: &NodeInfo, held: &Held, distrust: bool) -> (Session, DeltaDiscoveryRequest) {
        let session = Session {
            position: held.position,
            digest: held.digest,
            undecodable: BTreeSet::new(),
            assembling: None,
            applying: None,
        };
        (session, hello::to_message(node, held, distrust))
    }

    /// Takes a response.
    ///
    /// # Errors
    /// When the stream must end; what was received of an unfinished update is dropped.
    pub fn receive(&mut self, response: DeltaDiscoveryResponse) -> Result<Step, Ending> {
        if self.applying.is_some() {
            return Err(Ending::Protocol("a response before the answer to the last one"));
        }
        let mut resources = response.resources.into_iter();
        let first = resources.next().ok_or(Ending::Protocol("a response without a mark"))?;
        let mark = mark::from_message(&first).map_err(Ending::Mark)?;
        if mark.position < self.position {
            return Err(Ending::Backward { offered: mark.position, held: self.position });
        }
        let mut assembling = match self.assembling.take() {
            None => Assembling::new(mark),
            Some(begun) if begun.continues_with(&mark) => begun,
            Some(_) => return Err(Ending::Protocol("an update within an update")),
        };
        for resource in resources {
            self.take(&mut assembling, resource);
        }
        for name in response.removed_resources {
            self.undecodable.remove(&name);
            // A name this version cannot read was never held either.
            assembling.removes.extend(name.parse::<ResourceName>());
        }
        if assembling.upserts.len().saturating_add(assembling.removes.len()) > MAX_UPDATE_RESOURCES {
            return Err(Ending::Protocol("an update with too many resources"));
        }
        if !mark.last {
            self.assembling = Some(assembling);
            return Ok(Step::Wait);
        }
        self.complete(assembling, response.nonce)
    }

    /// Takes the outcome of the update that [`Session::receive`] gave out, and makes the answer.
    ///
    /// # Errors
    /// When the update must not be acknowledged.
    pub fn finish(&mut self, outcome: Outcome) -> Result<DeltaDiscoveryRequest, Ending> {
        let applying = self.applying.take().ok_or(Ending::Protocol("an outcome without an update"))?;
        if let Some(reason) = outcome.not_persisted {
            return Err(Ending::NotPersisted(reason));
        }
        if outcome.diverged && self.undecodable.is_empty() {
            return Err(Ending::Diverged(applying.position));
        }
        self.position = applying.position;
        self.digest = applying.digest;
        let mut rejects = applying.rejects;
        for reject in outcome.rejects {
            // What could not be decoded is refused for that reason, whatever came of it later.
            rejects.entry(reject.resource.clone()).or_insert(reject);
        }
        Ok(answer::to_message(Answer { nonce: applying.nonce, rejects: rejects.into_values().collect() }))
    }

    /// The last position confirmed or applied.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    fn take(&mut self, assembling: &mut Assembling, message: protocol::Resource) {
        match wire::from_message(&message) {
            Ok(resource) => {
                self.undecodable.remove(&message.name);
                assembling.upserts.push(resource);
            }
            Err(error) => {
                let version = wire::stated_version(&message);
                let reject =
                    Reject { resource: message.name.clone(), revision: version.0, reason: error.to_string() };
                assembling.rejects.insert(message.name.clone(), reject);
                // Delivered without content, so that the sink refuses it and keeps the last
                // good version: were it left out, a full update would drop that one.
                let empty = |name| Resource { name, version, payload: Bytes::new() };
                assembling.upserts.extend(message.name.parse().map(empty));
                self.undecodable.insert(message.name);
            }
        }
    }

    fn complete(&mut self, assembling: Assembling, nonce: String) -> Result<Step, Ending> {
        let Assembling { mark, upserts, removes, rejects } = assembling;
        let empty = upserts.is_empty() && removes.is_empty();
        if !mark.full && empty && rejects.is_empty() && mark.position == self.position {
            if mark.digest != self.digest && self.undecodable.is_empty() {
                return Err(Ending::Diverged(mark.position));
            }
            return Ok(Step::Confirmed(answer::to_message(Answer { nonce, rejects: Vec::new() })));
        }
        if mark.full && !removes.is_empty() {
            return Err(Ending::Protocol("removals in a full update"));
        }
        self.applying = Some(Applying { nonce, position: mark.position, digest: mark.digest, rejects });
        let Mark { position, digest, full, .. } = mark;
        Ok(Step::Apply(Update { position, digest, full, upserts, removes }))
    }
}

impl Assembling {
    fn new(mark: Mark) -> Assembling {
        Assembling { mark, upserts: Vec::new(), removes: Vec::new(), rejects: BTreeMap::new() }
    }

    fn continues_with(&self, mark: &Mark) -> bool {
        let Mark { position, digest, full, last: _ } = *mark;
        (self.mark.position, self.mark.digest, self.mark.full) == (position, digest, full)
    }
}
