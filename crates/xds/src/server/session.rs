// SPDX-License-Identifier: Apache-2.0
//! One runtime's stream at the serving end, without IO: requests and catalogs in,
//! responses and reports out, time handed in as the duration since the session began.
//! It decides what the runtime lacks, sends that and nothing else, one update at a
//! time, and never sends anything that goes back. [`super::stream`] drives it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_model::{Digest, GatewayId, Position, Reject, ResourceName};

use super::observer::Sent;
use super::update::{Base, ChunkLimits, Flight};
use crate::capabilities::{Capabilities, withheld};
use crate::catalog::{Catalog, Delta, Encoded};
use crate::node::RuntimeInfo;
use crate::protocol::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use crate::wire::answer::AnswerError;
use crate::wire::hello::{Hello, HelloError};
use crate::wire::mark::Mark;
use crate::wire::{self, answer, hello};

/// The session's deadlines and limits.
#[derive(Clone, Copy, Debug, Hash)]
pub struct SessionLimits {
    /// How long the first request may take.
    pub hello_timeout: Duration,
    /// How long a runtime waits here while this controller is behind it, or has loaded
    /// nothing yet, before it is sent to another.
    pub behind_timeout: Duration,
    /// How long a response may stay unsent, or an update unanswered.
    pub ack_timeout: Duration,
    /// With nothing else to send, the position is confirmed this often.
    pub heartbeat: Duration,
    /// How much fits into one response.
    pub chunk: ChunkLimits,
}

impl Default for SessionLimits {
    fn default() -> SessionLimits {
        SessionLimits {
            hello_timeout: Duration::from_secs(10),
            behind_timeout: Duration::from_secs(5),
            ack_timeout: Duration::from_secs(30),
            heartbeat: Duration::from_secs(10),
            chunk: ChunkLimits::default(),
        }
    }
}

/// What a session learned.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// The runtime introduced itself.
    Connected(RuntimeInfo),
    /// The runtime answered the update it was sent.
    Applied {
        /// The position it is at now.
        position: Position,
        /// Everything of that position which it does not run, with reasons.
        rejects: Vec<Reject>,
    },
}

/// Why a session must end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ending {
    /// No first request in time.
    #[error("no first request arrived in time")]
    NoHello,
    /// The first request is not one.
    #[error(transparent)]
    BadHello(#[from] HelloError),
    /// An answer cannot be read.
    #[error(transparent)]
    BadAnswer(#[from] AnswerError),
    /// The runtime belongs to another gateway.
    #[error("this controller does not serve gateway '{0}'")]
    WrongGateway(GatewayId),
    /// The runtime holds more than this controller knows.
    #[error("behind: this controller is at {here}, the runtime holds {there}")]
    Behind {
        /// The catalog's position.
        here: Position,
        /// What the runtime stated.
        there: Position,
    },
    /// Nothing was loaded in time.
    #[error("behind: this controller has not loaded its state yet")]
    NotLoaded,
    /// An update was not taken or not answered in time.
    #[error("the runtime did not take or answer an update in time")]
    NoAnswer,
}

/// A serving session.
#[derive(Clone, Hash)]
pub struct Session {
    gateway: GatewayId,
    limits: SessionLimits,
    catalog: Option<Arc<dyn Catalog>>,
    base: Option<Base>,
    flight: Option<Flight>,
    capabilities: Capabilities,
    /// Refused by the runtime and not sent again since.
    rejects: BTreeMap<String, Reject>,
    /// Kept from the runtime, with what each would have added to the digest.
    withheld: BTreeMap<ResourceName, (Digest, Reject)>,
    nonces: u64,
    /// The deadline of the state the session is in.
    deadline: Duration,
}

impl Session {
    /// A session that waits for its first request. `now` is zero here and in every later
    /// call the time since.
    #[must_use]
    pub fn new(gateway: GatewayId, limits: SessionLimits) -> Session {
        Session {
            gateway,
            limits,
            catalog: None,
            base: None,
            flight: None,
            capabilities: Capabilities::default(),
            rejects: BTreeMap::new(),
            withheld: BTreeMap::new(),
            nonces: 0,
            deadline: limits.hello_timeout,
        }
    }

    /// Takes a request: the first one introduces the runtime, every later one answers.
    ///
    /// # Errors
    /// When the stream must end.
    pub fn receive(
        &mut self,
        now: Duration,
        request: DeltaDiscoveryRequest,
    ) -> Result<Option<Report>, Ending> {
        if self.base.is_none() {
            let hello = hello::from_message(request)?;
            return self.introduce(now, hello).map(|runtime| Some(Report::Connected(runtime)));
        }
        let answer = answer::from_message(request)?;
        // An answer to anything but the last response of the update in flight is stale.
        let Some(flight) = self.flight.take_if(|flight| flight.is_answered_by(&answer.nonce)) else {
            return Ok(None);
        };
        self.base = Some(Base {
            position: flight.position,
            line_digest: Some(flight.line_digest),
            digest: flight.digest,
            resend: Vec::new(),
            confirmed: true,
        });
        self.deadline = now.saturating_add(self.limits.heartbeat);
        if flight.full {
            self.rejects.clear();
        }
        for name in &flight.settles {
            self.rejects.remove(name);
        }
        self.rejects.extend(answer.rejects.into_iter().map(|reject| (reject.resource.clone(), reject)));
        let withheld = self.withheld.values().map(|(_, reject)| reject);
        let rejects = self.rejects.values().chain(withheld).cloned().collect();
        Ok(Some(Report::Applied { position: flight.position, rejects }))
    }

    /// Takes a newer catalog. One that is older than what was sent is kept out of sight
    /// by [`Session::wants_to_send`] until it has caught up.
    pub fn publish(&mut self, now: Duration, catalog: Arc<dyn Catalog>) {
        self.catalog = Some(catalog);
        let waiting = self.base.as_ref().is_some_and(|base| !base.confirmed);
        if waiting && self.flight.is_none() && self.update_is_due() {
            self.deadline = now.saturating_add(self.limits.ack_timeout);
        }
    }

    /// Whether [`Session::next`] has a response to send now.
    #[must_use]
    pub fn wants_to_send(&self, now: Duration) -> bool {
        match &self.flight {
            Some(flight) => flight.unsent(),
            None => self.update_is_due() || self.heartbeat_is_due(now),
        }
    }

    /// The next response, and the whole update's figures with its last one.
    pub fn next(&mut self, now: Duration) -> Option<(DeltaDiscoveryResponse, Option<Sent>)> {
        if self.flight.is_none() {
            self.flight = if self.update_is_due() {
                self.plan()
            } else if self.heartbeat_is_due(now) {
                self.confirmation()
            } else {
                None
            };
        }
        let flight = self.flight.as_mut()?;
        let nonce = self.nonces.to_string();
        let next = flight.next(self.limits.chunk, nonce)?;
        self.nonces = self.nonces.saturating_add(1);
        self.deadline = now.saturating_add(self.limits.ack_timeout);
        Some(next)
    }

    /// Whether no update is under way, so that the stream may end without loss.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.flight.is_none()
    }

    /// When [`Session::tick`] has something to say.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Looks at the clock.
    ///
    /// # Errors
    /// When what the session waits for did not come in time.
    pub fn tick(&self, now: Duration) -> Result<(), Ending> {
        if now < self.deadline {
            return Ok(());
        }
        let Some(base) = &self.base else { return Err(Ending::NoHello) };
        if self.flight.is_some() {
            return Err(Ending::NoAnswer);
        }
        match &self.catalog {
            // The deadline of a confirmed session is its heartbeat.
            _ if base.confirmed => Ok(()),
            None => Err(Ending::NotLoaded),
            Some(catalog) if catalog.position() < base.position => {
                Err(Ending::Behind { here: catalog.position(), there: base.position })
            }
            // An update is due, and nobody has taken it from here in all that time.
            Some(_) => Err(Ending::NoAnswer),
        }
    }

    fn introduce(&mut self, now: Duration, hello: Hello) -> Result<RuntimeInfo, Ending> {
        let Hello { runtime, digest, rejected } = hello;
        if runtime.node.gateway != self.gateway {
            return Err(Ending::WrongGateway(runtime.node.gateway));
        }
        self.capabilities = runtime.node.capabilities.clone();
        // What a runtime holds of a withheld kind is unknown, so its digest proves nothing.
        let line_digest = digest.filter(|_| self.capabilities.cover_every_kind());
        self.base = Some(Base {
            position: runtime.stated,
            line_digest,
            digest: digest.unwrap_or_default(),
            resend: rejected,
            confirmed: false,
        });
        self.deadline = now.saturating_add(self.limits.behind_timeout);
        Ok(runtime)
    }

    fn update_is_due(&self) -> bool {
        let (Some(base), Some(catalog)) = (&self.base, &self.catalog) else { return false };
        if base.confirmed { catalog.position() > base.position } else { catalog.position() >= base.position }
    }

    fn heartbeat_is_due(&self, now: Duration) -> bool {
        now >= self.deadline && self.base.as_ref().is_some_and(|base| base.confirmed)
    }

    /// The update from what the runtime holds to the catalog.
    fn plan(&mut self) -> Option<Flight> {
        let (base, catalog) = (self.base.as_ref()?, self.catalog.clone()?);
        let delta = base.delta(catalog.as_ref());
        let full = delta.is_none();
        let Delta { upserts, removes } = match delta {
            Some(delta) => delta,
            None => Delta { upserts: catalog.everything(), removes: Vec::new() },
        };
        let upserts = self.withhold(upserts, &removes, full);
        let line_digest = catalog.digest();
        let digest = self.withheld.values().fold(line_digest, |digest, (part, _)| digest.minus(*part));
        let mark = Mark { position: catalog.position(), digest, full, last: false };
        let settles = if full || self.rejects.is_empty() {
            Vec::new()
        } else {
            let names = upserts.iter().map(|upsert| upsert.name.as_ref()).chain(&removes);
            names.map(ToString::to_string).filter(|name| self.rejects.contains_key(name)).collect()
        };
        let mut flight = Flight::new(mark, line_digest, upserts, removes);
        flight.settles = settles;
        Some(flight)
    }

    /// An update without content: the position again.
    fn confirmation(&self) -> Option<Flight> {
        let base = self.base.as_ref()?;
        let mark = Mark { position: base.position, digest: base.digest, full: false, last: false };
        Some(Flight::new(mark, base.line_digest?, Vec::new(), Vec::new()))
    }

    fn withhold(&mut self, mut upserts: Vec<Encoded>, removes: &[ResourceName], full: bool) -> Vec<Encoded> {
        if full {
            self.withheld.clear();
        }
        for name in removes {
            self.withheld.remove(name);
        }
        upserts.retain(|upsert| {
            let Some(reason) = withheld(&self.capabilities, upsert) else { return true };
            // The catalog encoded it with the same code that reads it here.
            let Ok(part) = wire::contribution(upsert) else { return true };
            let reject = Reject { resource: upsert.name.to_string(), revision: upsert.version.0, reason };
            self.withheld.insert(upsert.name.as_ref().clone(), (part, reject));
            false
        });
        upserts
    }
}
