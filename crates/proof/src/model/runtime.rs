// SPDX-License-Identifier: Apache-2.0
//! A runtime of the model and its stream: both sessions and the acceptance of an update
//! as they ship, between them messages that may be lost, overtaken or late. What is
//! served and what is on disk are plain sets; a crash keeps the disk and nothing else.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ferrogate_model::{Digest, GatewayId, Position, Resource, ResourceName};
use ferrogate_runtime::lkg::Mark;
use ferrogate_runtime::sync::order::{self, Acceptance, Next};
use ferrogate_xds::protocol::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Value, ValueKind};
use ferrogate_xds::server::session::Report;
use ferrogate_xds::server::{ChunkLimits, SessionLimits};
use ferrogate_xds::{Capabilities, Held, NodeInfo, Outcome, Update, client, server};

use super::Plant;

/// Responses on their way; a server asks for no more when there are as many.
const IN_FLIGHT: usize = 2;

/// A whole set at one position.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Served {
    pub mark: Mark,
    pub resources: BTreeMap<ResourceName, Resource>,
}

/// See the module.
#[derive(Clone)]
pub struct Runtime {
    plant: Option<Plant>,
    pub served: Arc<Served>,
    pub disk: Arc<Served>,
    /// An update that waits for the disk.
    accepting: Option<(Acceptance, Arc<Served>)>,
    /// Acknowledged and not yet written: only a planted bug makes these.
    unwritten: Option<Arc<Served>>,
    distrust: bool,
    pub stream: Option<Arc<Stream>>,
    /// What a controller still holds of a stream that the runtime has given up.
    pub late: Option<Arc<Late>>,
    /// The highest position that any controller heard of.
    pub acknowledged: Position,
    /// The highest position answered live with this runtime counted.
    pub promised: Position,
}

/// A stream, both ends.
#[derive(Clone)]
pub struct Stream {
    pub controller: usize,
    server: server::session::Session,
    client: client::session::Session,
    down: VecDeque<DeltaDiscoveryResponse>,
    up: VecDeque<DeltaDiscoveryRequest>,
    /// From where the catalog knows the past.
    known: Position,
}

/// The serving end of a stream whose other end is gone.
#[derive(Clone)]
pub struct Late {
    pub controller: usize,
    server: server::session::Session,
    up: VecDeque<DeltaDiscoveryRequest>,
}

/// What a controller heard.
pub enum Heard {
    Connected,
    Applied(Position),
    Nothing,
    /// It ended the stream.
    Ended,
}

fn gateway() -> GatewayId {
    static GATEWAY: OnceLock<GatewayId> = OnceLock::new();
    GATEWAY.get_or_init(|| GatewayId::from("model")).clone()
}

fn node() -> &'static NodeInfo {
    static NODE: OnceLock<NodeInfo> = OnceLock::new();
    NODE.get_or_init(|| NodeInfo {
        id: "r".to_owned(),
        gateway: gateway(),
        zone: String::new(),
        version: String::new(),
        capabilities: Capabilities::of_this_build(),
    })
}

impl Runtime {
    pub fn new(plant: Option<Plant>) -> Runtime {
        Runtime {
            plant,
            served: Arc::default(),
            disk: Arc::default(),
            accepting: None,
            unwritten: None,
            distrust: false,
            stream: None,
            late: None,
            acknowledged: Position::default(),
            promised: Position::default(),
        }
    }

    pub fn connect(&mut self, controller: usize) -> Option<()> {
        if self.stream.is_some() || self.accepting.is_some() {
            return None;
        }
        let Mark { position, digest } = order::stated(self.served.mark, Some(self.disk.mark));
        let held = Held { position, digest, ..Held::default() };
        let (client, hello) = client::session::Session::open(node(), &held, self.distrust);
        // One resource in each response, so that an update takes several.
        let chunk = ChunkLimits { bytes: 1 << 20, resources: 1 };
        let limits = SessionLimits { chunk, ..SessionLimits::default() };
        self.stream = Some(Arc::new(Stream {
            controller,
            server: server::session::Session::new(gateway(), limits),
            client,
            down: VecDeque::new(),
            up: VecDeque::from([hello]),
            known: Position::default(),
        }));
        self.late = self.late.take().filter(|late| late.controller != controller);
        Some(())
    }

    /// The runtime takes the next response.
    pub fn receive(&mut self) -> Option<()> {
        if self.accepting.is_some() {
            return None;
        }
        let stream = Arc::make_mut(self.stream.as_mut()?);
        let response = stream.down.pop_front()?;
        let step = stream.client.receive(response);
        stream.turn();
        match step {
            Ok(client::session::Step::Wait) => {}
            Ok(client::session::Step::Confirmed(answer)) => {
                stream.up.push_back(answer);
                self.distrust = false;
            }
            Ok(client::session::Step::Apply(update)) => self.take(&update),
            Err(ending) => self.ended(&ending),
        }
        Some(())
    }

    fn take(&mut self, update: &Update) {
        let Some(prepared) = prepare(&self.served, update) else {
            return self.answer(Outcome { diverged: true, ..Outcome::default() });
        };
        let changed = prepared != *self.served;
        let on_disk = prepared.mark == self.disk.mark;
        self.accepting = Some((Acceptance::new(changed, on_disk, Vec::new()), Arc::new(prepared)));
        self.proceed();
    }

    /// Goes on with an accepted update until it waits for the disk or is answered.
    fn proceed(&mut self) {
        let Some((mut acceptance, prepared)) = self.accepting.take() else { return };
        loop {
            match acceptance.proceed() {
                Next::Swap => self.served = Arc::clone(&prepared),
                Next::Persist if self.plant == Some(Plant::AckBeforeDisk) => {
                    self.unwritten = Some(Arc::clone(&prepared));
                    acceptance.persisted(None);
                }
                Next::Persist => {
                    self.accepting = Some((acceptance, prepared));
                    return;
                }
                Next::Answer(outcome) => return self.answer(outcome),
            }
        }
    }

    /// The disk is done with the update, or refuses it.
    pub fn persist(&mut self, failure: Option<&str>) -> Option<()> {
        let (acceptance, prepared) = self.accepting.as_mut()?;
        if failure.is_none() {
            self.disk = Arc::clone(prepared);
        }
        acceptance.persisted(failure.map(str::to_owned));
        self.proceed();
        Some(())
    }

    pub fn persist_late(&mut self) -> Option<()> {
        self.disk = self.unwritten.take()?;
        Some(())
    }

    fn answer(&mut self, outcome: Outcome) {
        let Some(stream) = self.stream.as_mut().map(Arc::make_mut) else { return };
        match stream.client.finish(outcome) {
            Ok(answer) => {
                stream.up.push_back(answer);
                self.distrust = false;
            }
            Err(ending) => self.ended(&ending),
        }
    }

    fn ended(&mut self, ending: &client::session::Ending) {
        self.distrust |= matches!(ending, client::session::Ending::Diverged(_));
        self.cut();
    }

    /// The stream is lost at this end; the controller may go on with what has arrived.
    pub fn cut(&mut self) -> Option<()> {
        let stream = self.stream.take()?;
        let Stream { controller, server, up, .. } = Arc::unwrap_or_clone(stream);
        self.late = (!up.is_empty()).then(|| Arc::new(Late { controller, server, up }));
        Some(())
    }

    pub fn crash(&mut self) -> Option<()> {
        self.cut();
        self.served = Arc::clone(&self.disk);
        (self.accepting, self.unwritten, self.distrust) = (None, None, false);
        Some(())
    }

    pub fn waits_for_disk(&self) -> bool {
        self.accepting.is_some()
    }
}

impl Stream {
    pub fn publish(&mut self, catalog: Arc<dyn ferrogate_xds::Catalog>, known: Position) {
        self.known = known;
        self.server.publish(Duration::ZERO, catalog);
        self.turn();
    }

    /// The controller takes the next request.
    pub fn receive(&mut self) -> Option<Heard> {
        let request = self.up.pop_front()?;
        let heard = heard(self.server.receive(Duration::ZERO, request));
        self.turn();
        Some(heard)
    }

    /// A planted bug: the runtime's first request does not tell its epoch, so that the
    /// controller takes its own for it.
    pub fn forget_epoch(&mut self, epoch: u64) {
        let metadata = self.up.front_mut().and_then(|hello| hello.node.as_mut()?.metadata.as_mut());
        if let Some(metadata) = metadata {
            let value = Value { kind: Some(ValueKind::StringValue(epoch.to_string())) };
            metadata.fields.insert("epoch".to_owned(), value);
        }
    }

    /// Nothing arrives any more, so the controller's patience ends.
    pub fn times_out(&self) -> bool {
        let quiet = self.up.is_empty() && self.down.is_empty();
        quiet && self.server.tick(self.server.deadline()).is_err()
    }

    pub fn lose_down(&mut self) -> Option<()> {
        self.down.pop_front().map(drop)
    }

    pub fn lose_up(&mut self) -> Option<()> {
        self.up.pop_front().map(drop)
    }

    pub fn overtake_down(&mut self) -> Option<()> {
        (self.down.len() > 1).then(|| self.down.swap(0, 1))
    }

    pub fn waits(&self) -> (bool, bool) {
        (!self.down.is_empty(), !self.up.is_empty())
    }

    fn turn(&mut self) {
        while self.down.len() < IN_FLIGHT && self.server.wants_to_send(Duration::ZERO) {
            let Some((response, _sent)) = self.server.next(Duration::ZERO) else { return };
            self.down.push_back(response);
        }
    }
}

impl Late {
    /// Takes what arrives late. The other end hears of nothing any more.
    pub fn receive(&mut self) -> Option<Heard> {
        Some(heard(self.server.receive(Duration::ZERO, self.up.pop_front()?)))
    }

    pub fn is_over(&self) -> bool {
        self.up.is_empty()
    }
}

fn heard(received: Result<Option<Report>, server::session::Ending>) -> Heard {
    match received {
        Ok(Some(Report::Connected(_))) => Heard::Connected,
        Ok(Some(Report::Applied { position, .. })) => Heard::Applied(position),
        Ok(None) => Heard::Nothing,
        Err(_) => Heard::Ended,
    }
}

/// The set after an update; `None` when the update does not fit.
fn prepare(held: &Served, update: &Update) -> Option<Served> {
    order::fits(held.mark.position, update).ok()?;
    let mut resources = if update.full { BTreeMap::new() } else { held.resources.clone() };
    for name in &update.removes {
        resources.remove(name);
    }
    for upsert in &update.upserts {
        resources.insert(upsert.name.clone(), upsert.clone());
    }
    let digest = resources.values().map(Digest::of_resource).fold(Digest::default(), Digest::plus);
    order::matches(update, digest).ok()?;
    Some(Served { mark: Mark { position: update.position, digest }, resources })
}

impl Hash for Runtime {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.served.mark, self.disk.mark, self.distrust, self.acknowledged, self.promised).hash(state);
        self.accepting.as_ref().map(|(acceptance, prepared)| (acceptance, prepared.mark)).hash(state);
        self.unwritten.as_ref().map(|unwritten| unwritten.mark).hash(state);
        (&self.stream, &self.late).hash(state);
    }
}

impl Hash for Stream {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.controller, &self.server, &self.client, self.known).hash(state);
        hash_requests(&self.up, state);
        for response in &self.down {
            response.nonce.hash(state);
            response.removed_resources.hash(state);
            for resource in &response.resources {
                (&resource.name, &resource.version).hash(state);
                resource.resource.as_ref().map(|any| &any.value).hash(state);
            }
        }
    }
}

impl Hash for Late {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.controller, &self.server).hash(state);
        hash_requests(&self.up, state);
    }
}

/// The fields of a first request's node are in no order, so those that say what is held
/// are picked.
fn hash_requests<H: Hasher>(requests: &VecDeque<DeltaDiscoveryRequest>, state: &mut H) {
    for request in requests {
        (request.node.is_some(), &request.response_nonce).hash(state);
        let metadata = request.node.as_ref().and_then(|node| node.metadata.as_ref());
        for key in ["epoch", "revision", "digest"] {
            let value = metadata.and_then(|metadata| metadata.fields.get(key)?.kind.as_ref());
            if let Some(ValueKind::StringValue(text)) = value {
                text.hash(state);
            }
        }
    }
}
