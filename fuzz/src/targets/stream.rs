// SPDX-License-Identifier: Apache-2.0
//! Both sessions of the config stream against a peer that says anything: raw bytes as
//! messages, and the other end's own messages damaged on the way. A session answers, ends
//! or waits; it never panics, never leads a runtime back, and never serves a gateway that
//! is not its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_model::{Digest, Epoch, GatewayId, Position, Resource, ResourceName, Revision};
use ferrogate_xds::client::session::{Session as Client, Step};
use ferrogate_xds::protocol::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use ferrogate_xds::server::session::{Report, Session as Server};
use ferrogate_xds::server::{ChunkLimits, SessionLimits};
use ferrogate_xds::{Capabilities, Catalog, Delta, Encoded, Held, NodeInfo, Outcome, wire};
use prost::Message;

use crate::Target;
use crate::choices::Choices;

/// The target.
pub const TARGET: Target = Target {
    name: "stream",
    run,
    rounds: 8000,
    words: &[
        "gateway",
        "default",
        "epoch",
        "revision",
        "digest",
        "rejected",
        "capabilities",
        "rest-api/v1",
        "rest-apis/api-1",
        "mark",
    ],
};

/// More steps than these make nothing new.
const MAX_STEPS: usize = 64;
const GATEWAY: &str = "default";

/// A gateway whose only line is: at revision N, the resources 1 to N.
struct Line {
    position: Position,
    resources: BTreeMap<ResourceName, Encoded>,
}

/// The two ends and what was said last.
struct World {
    server: Server,
    client: Client,
    now: Duration,
    answers: Vec<DeltaDiscoveryRequest>,
    responses: Vec<DeltaDiscoveryResponse>,
}

fn run(data: &[u8]) {
    let mut choices = Choices::new(data);
    let held =
        Held { position: position(&mut choices), digest: Digest([choices.number(); 4]), ..Held::default() };
    let (client, hello) = Client::open(&node(), &held, choices.byte().is_multiple_of(2));
    let limits = SessionLimits { chunk: ChunkLimits { bytes: 64, resources: 2 }, ..SessionLimits::default() };
    let server = Server::new(GatewayId::from(GATEWAY), limits);
    let mut world =
        World { server, client, now: Duration::ZERO, answers: vec![hello], responses: Vec::new() };
    for _ in 0..MAX_STEPS {
        if choices.is_empty() || !world.step(&mut choices) {
            return;
        }
    }
}

fn position(choices: &mut Choices<'_>) -> Position {
    Position::new(Epoch(u64::from(choices.byte() % 3)), Revision(u64::from(choices.byte() % 8)))
}

fn node() -> NodeInfo {
    NodeInfo {
        id: "runtime-1".to_owned(),
        gateway: GatewayId::from(GATEWAY),
        zone: "a".to_owned(),
        version: "0.1.0".to_owned(),
        capabilities: Capabilities::of_this_build(),
    }
}

impl World {
    /// One step; false when a session has ended.
    fn step(&mut self, choices: &mut Choices<'_>) -> bool {
        match choices.byte() % 8 {
            0 => self.server.publish(self.now, Arc::new(Line::at(position(choices)))),
            1 | 2 => {
                let message = damaged(self.answers.pop(), choices);
                return message.is_none_or(|message| self.request(message));
            }
            3 => {
                return DeltaDiscoveryRequest::decode(choices.stretch())
                    .map_or(true, |message| self.request(message));
            }
            4 | 5 => {
                let message = damaged(self.responses.pop(), choices);
                return message.is_none_or(|message| self.response(message, choices));
            }
            6 => {
                let message = DeltaDiscoveryResponse::decode(choices.stretch());
                return message.map_or(true, |message| self.response(message, choices));
            }
            _ => {
                self.now += Duration::from_secs(u64::from(choices.byte() % 40));
                if self.server.tick(self.now).is_err() {
                    return false;
                }
            }
        }
        while let Some((response, _)) = self.server.next(self.now) {
            self.responses.insert(0, response);
        }
        true
    }

    fn request(&mut self, message: DeltaDiscoveryRequest) -> bool {
        match self.server.receive(self.now, message) {
            Ok(Some(Report::Connected(runtime))) => {
                assert_eq!(runtime.node.gateway, GatewayId::from(GATEWAY), "a runtime of another gateway");
            }
            Ok(Some(Report::Applied { .. }) | None) => {}
            Err(_) => return false,
        }
        true
    }

    fn response(&mut self, message: DeltaDiscoveryResponse, choices: &mut Choices<'_>) -> bool {
        let before = self.client.position();
        let answer = match self.client.receive(message) {
            Ok(Step::Wait) => return true,
            Ok(Step::Confirmed(answer)) => answer,
            Ok(Step::Apply(update)) => {
                assert!(update.position >= before, "an update that leads back");
                let diverged = choices.byte() == 1;
                match self.client.finish(Outcome { diverged, ..Outcome::default() }) {
                    Ok(answer) => answer,
                    Err(_) => return false,
                }
            }
            Err(_) => return false,
        };
        assert!(self.client.position() >= before, "the runtime went back");
        self.answers.insert(0, answer);
        true
    }
}

/// The message, or what is left of it after some bytes were changed on the way.
fn damaged<M: Message + Default>(message: Option<M>, choices: &mut Choices<'_>) -> Option<M> {
    let message = message?;
    if !choices.byte().is_multiple_of(3) {
        return Some(message);
    }
    let mut bytes = message.encode_to_vec();
    for _ in 0..=choices.byte() % 4 {
        let at = choices.below(bytes.len());
        if let Some(byte) = bytes.get_mut(at) {
            *byte = choices.byte();
        }
    }
    M::decode(bytes.as_slice()).ok()
}

impl Line {
    fn at(position: Position) -> Line {
        let resource = |revision| {
            let name: ResourceName = format!("rest-apis/api-{revision}").parse().expect("a name");
            let payload = format!("{{\"{revision}\":\"{}\"}}", "x".repeat(40)).into();
            wire::encode(&Resource { name, version: Revision(revision), payload })
        };
        let encoded = (1..=position.revision.0).filter_map(resource);
        Line { position, resources: encoded.map(|one| (one.name.as_ref().clone(), one)).collect() }
    }
}

impl Catalog for Line {
    fn position(&self) -> Position {
        self.position
    }

    fn digest(&self) -> Digest {
        let parts = self.resources.values().filter_map(|resource| wire::contribution(resource).ok());
        parts.fold(Digest::default(), Digest::plus)
    }

    fn had(&self, revision: Revision, digest: Digest) -> bool {
        revision <= self.position.revision
            && Line::at(Position::new(self.position.epoch, revision)).digest() == digest
    }

    fn changes_since(&self, revision: Revision) -> Option<Delta> {
        let upserts =
            self.resources.values().filter(|resource| resource.version > revision).cloned().collect();
        (revision.0 >= 2).then(|| Delta { upserts, removes: Vec::new() })
    }

    fn everything(&self) -> Vec<Encoded> {
        self.resources.values().cloned().collect()
    }

    fn resource(&self, name: &ResourceName) -> Option<Encoded> {
        self.resources.get(name).cloned()
    }
}
