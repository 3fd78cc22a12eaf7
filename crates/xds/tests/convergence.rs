// SPDX-License-Identifier: Apache-2.0
//! The protocol's property: whatever happens to the line, the controllers, the link and
//! the runtime, every step is one the line has taken, nothing goes back, one refusal
//! harms nothing else, and when the faults stop the runtime holds what the line holds.

// The lints allow these in test functions, not in the helpers beside them.
#![allow(clippy::panic, clippy::unwrap_used)]

mod support;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ferrogate_model::{GatewayId, Position};
use ferrogate_xds::protocol::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use ferrogate_xds::server::session::Report;
use ferrogate_xds::server::{ChunkLimits, Sent, SessionLimits};
use ferrogate_xds::{Catalog, client, server};
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::test_runner::Config;
use support::{BAD, Line, Runtime, name, node};

/// Responses on their way: the server asks for no more when there are as many.
const IN_FLIGHT: usize = 2;

#[derive(Clone, Debug)]
enum Action {
    Change(usize, u8),
    Delete(usize),
    Compact,
    FailOver(usize),
    Publish(usize),
    Connect(usize),
    Disconnect,
    Down,
    Up,
    /// The last answer arrives once more.
    Stale,
    Advance(u64),
    Corrupt,
}

struct World {
    line: Line,
    catalogs: [Option<Arc<dyn Catalog>>; 2],
    runtime: Runtime,
    link: Option<Link>,
    now: Duration,
    distrust: bool,
    /// What the controllers know: the last acknowledgement.
    applied: Option<(Position, BTreeSet<String>)>,
    sent: Vec<Sent>,
}

struct Link {
    controller: usize,
    opened: Duration,
    server: server::session::Session,
    client: client::session::Session,
    down: VecDeque<DeltaDiscoveryResponse>,
    up: VecDeque<DeltaDiscoveryRequest>,
    answered: Option<DeltaDiscoveryRequest>,
}

impl World {
    fn new() -> World {
        World {
            line: Line::new(),
            catalogs: [None, None],
            runtime: Runtime::default(),
            link: None,
            now: Duration::ZERO,
            distrust: false,
            applied: None,
            sent: Vec::new(),
        }
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Change(index, 0) => self.line.change(name(*index), Some(BAD.to_owned())),
            Action::Change(index, content) => self.line.change(name(*index), Some(format!("v{content}"))),
            Action::Delete(index) => {
                // A delete of what is not there is no change.
                if self.line.set().contains_key(&name(*index)) {
                    self.line.change(name(*index), None);
                }
            }
            Action::Compact => self.line.compact(),
            Action::FailOver(lost) => self.line.fail_over(*lost),
            Action::Publish(controller) => self.publish(*controller),
            Action::Connect(controller) => self.connect(*controller),
            Action::Disconnect => self.link = None,
            Action::Down => self.down(),
            Action::Up => self.up(),
            Action::Stale => {
                if let Some(link) = &mut self.link {
                    link.up.extend(link.answered.clone());
                }
            }
            Action::Advance(millis) => self.now += Duration::from_millis(*millis),
            Action::Corrupt => self.runtime.corrupt(),
        }
        self.runtime.history = self.line.history.clone();
        self.turn();
    }

    fn publish(&mut self, controller: usize) {
        let snapshot = self.line.snapshot();
        if let Some(link) = self.link.as_mut().filter(|link| link.controller == controller) {
            link.server.publish(self.now - link.opened, snapshot.clone());
        }
        self.catalogs[controller] = Some(snapshot);
    }

    fn connect(&mut self, controller: usize) {
        let limits =
            SessionLimits { chunk: ChunkLimits { bytes: 48, resources: 3 }, ..SessionLimits::default() };
        let mut server = server::session::Session::new(GatewayId::from("default"), limits);
        if let Some(catalog) = &self.catalogs[controller] {
            server.publish(Duration::ZERO, catalog.clone());
        }
        let (client, hello) =
            client::session::Session::open(&node("r", "a"), &self.runtime.held, self.distrust);
        self.link = Some(Link {
            controller,
            opened: self.now,
            server,
            client,
            down: VecDeque::new(),
            up: VecDeque::from([hello]),
            answered: None,
        });
    }

    /// The server's task: sends while there is room, and looks at the clock.
    fn turn(&mut self) {
        let Some(link) = &mut self.link else { return };
        let now = self.now - link.opened;
        while link.down.len() < IN_FLIGHT && link.server.wants_to_send(now) {
            let Some((response, sent)) = link.server.next(now) else { break };
            link.down.push_back(response);
            self.sent.extend(sent);
        }
        if link.server.tick(now).is_err() {
            self.link = None;
        }
    }

    fn up(&mut self) {
        let Some(link) = &mut self.link else { return };
        let Some(request) = link.up.pop_front() else { return };
        link.answered = Some(request.clone()).filter(|request| request.node.is_none());
        match link.server.receive(self.now - link.opened, request) {
            Ok(Some(Report::Applied { position, rejects })) => {
                assert_eq!(position, self.runtime.held.position, "acknowledged what is not held");
                let names = rejects.into_iter().map(|reject| reject.resource).collect();
                self.applied = Some((position, names));
            }
            Ok(Some(Report::Connected(runtime))) => assert_eq!(runtime.node, node("r", "a")),
            Ok(None) => {}
            Err(ending) => panic!("the server gave up: {ending}"),
        }
    }

    fn down(&mut self) {
        let Some(link) = &mut self.link else { return };
        let Some(response) = link.down.pop_front() else { return };
        let step = match link.client.receive(response) {
            Ok(client::session::Step::Apply(update)) => {
                link.client.finish(self.runtime.apply(update)).map(Some)
            }
            Ok(client::session::Step::Confirmed(answer)) => Ok(Some(answer)),
            Ok(client::session::Step::Wait) => Ok(None),
            Err(ending) => Err(ending),
        };
        match step {
            Ok(answer) => {
                self.distrust &= answer.is_none();
                link.up.extend(answer);
            }
            Err(client::session::Ending::Diverged(_)) => {
                self.distrust = true;
                self.link = None;
            }
            Err(ending) => panic!("the client gave up: {ending}"),
        }
    }

    /// No more faults: everything is published and delivered until nothing moves.
    fn settle(&mut self, controller: usize) {
        self.runtime.history = self.line.history.clone();
        for _ in 0..5 {
            if self.link.is_none() {
                self.connect(controller);
            }
            for controller in [0, 1] {
                self.publish(controller);
            }
            for _ in 0..500 {
                self.turn();
                self.up();
                self.down();
            }
        }
        assert!(self.link.is_some(), "no stream stays up");
    }

    fn check_converged(&self) {
        assert_eq!(self.runtime.held.position, self.line.position());
        assert_eq!(&self.runtime.delivered, self.line.set());
        assert_eq!(self.runtime.held.digest, self.line.snapshot().digest());
        for resource in self.line.set().values().filter(|resource| resource.payload != BAD) {
            assert_eq!(self.runtime.running.get(&resource.name), Some(resource), "a sibling was harmed");
        }
        assert_eq!(self.applied, Some((self.line.position(), self.line.bad())));
    }
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => (0..12_usize, 0..4_u8).prop_map(|(index, content)| Action::Change(index, content)),
        2 => (0..12_usize).prop_map(Action::Delete),
        1 => Just(Action::Compact),
        1 => (0..6_usize).prop_map(Action::FailOver),
        6 => (0..2_usize).prop_map(Action::Publish),
        3 => (0..2_usize).prop_map(Action::Connect),
        1 => Just(Action::Disconnect),
        12 => Just(Action::Down),
        12 => Just(Action::Up),
        1 => Just(Action::Stale),
        2 => any::<u64>().prop_map(|millis| Action::Advance(millis % 12_000)),
        1 => Just(Action::Corrupt),
    ]
}

proptest::proptest! {
    #![proptest_config(Config { cases: 1500, failure_persistence: None, ..Config::default() })]

    #[test]
    fn a_runtime_converges_and_never_goes_back(actions in proptest::collection::vec(action(), 0..150)) {
        let mut world = World::new();
        for action in &actions {
            world.act(action);
        }
        // A set that was corrupted at its last position is found out by the next change.
        world.line.change(name(0), Some("the last word".to_owned()));
        world.settle(0);
        world.check_converged();

        // On the other controller nothing is sent that is held, but for what was refused.
        world.sent.clear();
        world.connect(1);
        world.settle(1);
        world.check_converged();
        let resent: usize = world.sent.iter().map(|sent| sent.upserts + sent.removes).sum();
        assert_eq!(resent, world.line.bad().len());
        assert!(world.sent.iter().all(|sent| !sent.full));
    }
}

#[test]
fn a_heartbeat_confirms_and_a_silent_runtime_is_given_up() {
    let mut world = World::new();
    world.line.change(name(1), Some("x".to_owned()));
    world.settle(0);
    world.sent.clear();
    for _ in 0..3 {
        world.now += SessionLimits::default().heartbeat;
        world.turn();
        world.down();
        world.up();
    }
    let confirmations: Vec<_> = world.sent.iter().map(|sent| (sent.upserts, sent.responses)).collect();
    assert_eq!(confirmations, [(0, 1); 3]);

    world.now += SessionLimits::default().heartbeat;
    world.turn();
    world.now += SessionLimits::default().ack_timeout;
    world.turn();
    assert!(world.link.is_none());
}

#[test]
fn a_controller_that_is_behind_waits_and_then_sends_the_runtime_away() {
    let mut world = World::new();
    world.line.change(name(1), Some("x".to_owned()));
    world.publish(1);
    world.line.change(name(1), Some("y".to_owned()));
    world.settle(0);
    world.catalogs[1] = Some(Line::new().snapshot());
    world.sent.clear();
    world.connect(1);
    world.up();
    world.now += SessionLimits::default().behind_timeout / 2;
    world.turn();
    assert!(world.link.is_some() && world.sent.is_empty());
    world.now += SessionLimits::default().behind_timeout;
    world.turn();
    assert!(world.link.is_none() && world.sent.is_empty());

    // One that catches up in time serves on.
    world.connect(1);
    world.up();
    world.now += SessionLimits::default().behind_timeout / 2;
    world.publish(1);
    world.turn();
    assert_eq!(world.sent.len(), 1);
}

#[test]
fn changes_coalesce_while_an_update_is_under_way() {
    let mut world = World::new();
    world.settle(0);
    world.sent.clear();
    for content in 0..50 {
        world.line.change(name(1), Some(format!("v{content}")));
        world.publish(0);
        world.turn();
    }
    world.runtime.history = world.line.history.clone();
    for _ in 0..4 {
        world.down();
        world.up();
        world.turn();
    }
    let upserts: Vec<_> = world.sent.iter().map(|sent| sent.upserts).collect();
    assert_eq!(upserts, [1, 1], "the first change, then the last of the other 49");
    assert_eq!(world.runtime.held.position, world.line.position());
}

#[test]
fn what_this_version_cannot_decode_is_refused_alone() {
    let mut world = World::new();
    world.line.change(name(1), Some("one".to_owned()));
    world.line.change(name(2), Some("two".to_owned()));
    world.settle(0);
    world.link = None;
    world.distrust = true;
    world.runtime.history.clear();
    world.connect(0);
    world.up();
    world.turn();
    let link = world.link.as_mut().unwrap();
    for response in &mut link.down {
        for resource in &mut response.resources {
            if resource.name == name(1).to_string() {
                resource.resource.as_mut().unwrap().type_url =
                    "type.googleapis.com/ferrogate.v9.New".to_owned();
            }
        }
    }
    for _ in 0..4 {
        world.down();
        world.up();
        world.turn();
    }
    let (position, rejects) = world.applied.clone().unwrap();
    assert_eq!(position, world.line.position());
    assert_eq!(rejects, BTreeSet::from([name(1).to_string()]));
    assert_eq!(world.runtime.running.len(), 2, "its last good version and its sibling serve");
}
