// SPDX-License-Identifier: Apache-2.0
//! Versions that differ at the two ends. `fixtures/v1` is a conversation of the first
//! version of the protocol as bytes, recorded once and never again: this version's
//! controller must go on serving the runtime in it, and this version's runtime go on
//! following the controller in it. What a later version may add is added here by hand,
//! for the ends of today must live with that too.

// The lints allow these in test functions, not in the helpers beside them.
#![allow(clippy::panic, clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::time::Duration;

use ferrogate_model::{GatewayId, Reject};
use ferrogate_xds::client::session::{Session as Client, Step};
use ferrogate_xds::node::NodeInfo;
use ferrogate_xds::protocol::{
    Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, ListValue, Resource, Value, ValueKind,
};
use ferrogate_xds::server::session::{Report, Session as Server};
use ferrogate_xds::server::{ChunkLimits, SessionLimits};
use ferrogate_xds::{Outcome, Update};
use prost::Message;
use support::{BAD, Line, Runtime, name, node};

const START: Duration = Duration::ZERO;
/// A later version's additions to a message: fields of numbers that nobody uses yet.
const UNKNOWN_FIELDS: [u8; 8] = [0xf8, 0x07, 0x01, 0xfa, 0x07, 0x02, b'h', b'i'];

/// A conversation: what each end says, in order.
struct Conversation {
    /// The runtime's: it holds nothing; it takes everything; it refuses one of the next.
    requests: [DeltaDiscoveryRequest; 3],
    /// The controller's: everything; a change, one that does not compile and a removal; its position again.
    responses: [DeltaDiscoveryResponse; 3],
}

fn recorded<M: Message + Default>(name: &str) -> M {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1").join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    M::decode(bytes.as_slice()).unwrap()
}

impl Conversation {
    fn recorded() -> Conversation {
        Conversation {
            requests: [recorded("hello.bin"), recorded("ack.bin"), recorded("nack.bin")],
            responses: [recorded("everything.bin"), recorded("change.bin"), recorded("heartbeat.bin")],
        }
    }

    /// The same between two ends of this version.
    fn held_today() -> Conversation {
        let (mut line, mut runtime, mut server) = (first(), Runtime::default(), server());
        let (mut client, hello) = Client::open(&of_the_first_version(), &runtime.held, false);
        let everything = {
            assert!(matches!(server.receive(START, hello.clone()), Ok(Some(Report::Connected(_)))));
            server.publish(START, line.snapshot());
            server.next(START).unwrap().0
        };
        let ack = followed(&mut client, &mut runtime, everything.clone());
        server.receive(START, ack.clone()).unwrap();
        second(&mut line);
        server.publish(START, line.snapshot());
        let change = server.next(START).unwrap().0;
        let nack = followed(&mut client, &mut runtime, change.clone());
        server.receive(START, nack.clone()).unwrap();
        let heartbeat = server.next(server.deadline()).unwrap().0;
        Conversation { requests: [hello, ack, nack], responses: [everything, change, heartbeat] }
    }
}

/// A runtime that can run what there was at first. Kinds that came later are stated beside it
/// by those that can run them, and are no other version of the protocol.
fn of_the_first_version() -> NodeInfo {
    let capabilities = ["rest-api/v1".to_owned()].into_iter().collect();
    NodeInfo { capabilities, ..node("runtime-1", "a") }
}

fn server() -> Server {
    let limits = SessionLimits { chunk: ChunkLimits::default(), ..SessionLimits::default() };
    Server::new(GatewayId::from("default"), limits)
}

/// What the line holds when the runtime connects.
fn first() -> Line {
    let mut line = Line::new();
    line.change(name(1), Some("one".to_owned()));
    line.change(name(2), Some("two".to_owned()));
    line
}

/// What happens to it afterwards.
fn second(line: &mut Line) {
    line.change(name(1), None);
    line.change(name(2), Some(BAD.to_owned()));
    line.change(name(3), Some("three".to_owned()));
}

fn update(client: &mut Client, response: DeltaDiscoveryResponse) -> Update {
    match client.receive(response) {
        Ok(Step::Apply(update)) => update,
        other => panic!("no update: {other:?}"),
    }
}

/// What the runtime answers to a response that it applies.
fn followed(
    client: &mut Client,
    runtime: &mut Runtime,
    response: DeltaDiscoveryResponse,
) -> DeltaDiscoveryRequest {
    let outcome: Outcome = runtime.apply(update(client, response));
    assert!(!outcome.diverged, "the set is not the controller's");
    client.finish(outcome).unwrap()
}

#[test]
fn the_recorded_conversation_is_still_what_the_first_version_says() {
    // When the protocol gets a second version, this is what tells, and its own record joins the first.
    let (recorded, today) = (Conversation::recorded(), Conversation::held_today());
    assert_eq!(recorded.requests, today.requests);
    assert_eq!(recorded.responses, today.responses);
}

#[test]
fn a_runtime_of_the_first_version_is_served_by_this_one() {
    let [hello, ack, nack] = Conversation::recorded().requests;
    let (mut line, mut server) = (first(), server());
    let Ok(Some(Report::Connected(runtime))) = server.receive(START, hello) else { panic!("not connected") };
    assert_eq!(runtime.node, of_the_first_version());
    server.publish(START, line.snapshot());
    let (_, sent) = server.next(START).unwrap();
    assert!(sent.is_some_and(|sent| sent.full && sent.upserts == 2));
    let applied = server.receive(START, ack).unwrap();
    assert_eq!(applied, Some(Report::Applied { position: line.position(), rejects: Vec::new() }));
    second(&mut line);
    server.publish(START, line.snapshot());
    let (_, sent) = server.next(START).unwrap();
    assert!(sent.is_some_and(|sent| !sent.full && (sent.upserts, sent.removes) == (2, 1)));
    let Ok(Some(Report::Applied { position, rejects })) = server.receive(START, nack) else {
        panic!("no answer")
    };
    assert_eq!(position, line.position());
    let reject =
        Reject { resource: name(2).to_string(), revision: 4, reason: "it does not compile".to_owned() };
    assert_eq!(rejects, [reject]);
    assert!(server.is_idle());
}

#[test]
fn a_controller_of_the_first_version_is_followed_by_this_one() {
    let [everything, change, heartbeat] = Conversation::recorded().responses;
    let mut runtime = Runtime::default();
    let (mut client, _hello) = Client::open(&node("runtime-1", "a"), &runtime.held, false);
    let ack = followed(&mut client, &mut runtime, everything);
    assert_eq!((ack.response_nonce.as_str(), ack.error_detail), ("0", None));
    let nack = followed(&mut client, &mut runtime, change);
    assert!(nack.error_detail.is_some_and(|detail| detail.message.contains("it does not compile")));
    assert!(matches!(client.receive(heartbeat), Ok(Step::Confirmed(_))));
    let mut line = first();
    second(&mut line);
    assert_eq!(client.position(), line.position());
    // The refused one keeps its last good version.
    let running: Vec<&[u8]> = runtime.running.values().map(|resource| &*resource.payload).collect();
    assert_eq!(running, [&b"two"[..], b"three"]);
}

#[test]
fn a_later_runtime_that_says_more_is_served() {
    let [mut hello, ack, _nack] = Conversation::recorded().requests;
    let metadata = hello.node.as_mut().unwrap().metadata.as_mut().unwrap();
    let text = |text: &str| Value { kind: Some(ValueKind::StringValue(text.to_owned())) };
    metadata.fields.insert("wave".to_owned(), text("blue"));
    let Some(ValueKind::ListValue(ListValue { values })) =
        metadata.fields.get_mut("capabilities").and_then(|value| value.kind.as_mut())
    else {
        panic!("no capabilities")
    };
    values.push(text("llm-proxy/v3"));
    let mut server = server();
    let later = |message: DeltaDiscoveryRequest| {
        let bytes = [message.encode_to_vec().as_slice(), &UNKNOWN_FIELDS].concat();
        DeltaDiscoveryRequest::decode(bytes.as_slice()).unwrap()
    };
    let connected = server.receive(START, later(hello));
    assert!(
        matches!(connected, Ok(Some(Report::Connected(runtime))) if runtime.node.capabilities.has("llm-proxy/v3"))
    );
    server.publish(START, first().snapshot());
    assert!(server.next(START).is_some());
    assert!(matches!(server.receive(START, later(ack)), Ok(Some(Report::Applied { .. }))));
}

#[test]
fn a_later_controller_is_followed_in_what_is_understood_and_told_what_is_not() {
    let [mut everything, ..] = Conversation::recorded().responses;
    // A kind of a later version, sent although this runtime did not state it.
    everything.resources.push(Resource {
        name: "llm-proxies/later".to_owned(),
        version: "2".to_owned(),
        resource: Some(Any {
            type_url: "type.googleapis.com/ferrogate.v2.LlmProxy".to_owned(),
            ..Any::default()
        }),
    });
    let bytes = [everything.encode_to_vec().as_slice(), &UNKNOWN_FIELDS].concat();
    let response = DeltaDiscoveryResponse::decode(bytes.as_slice()).unwrap();
    let mut runtime = Runtime::default();
    let (mut client, _hello) = Client::open(&node("runtime-1", "a"), &runtime.held, false);
    let answer = followed(&mut client, &mut runtime, response);
    assert_eq!(runtime.running.len(), 2, "its siblings apply");
    let told = answer.error_detail.unwrap().message;
    assert!(told.contains("llm-proxies/later") && told.contains("not a type this version knows"), "{told}");
}

#[test]
fn a_runtime_that_cannot_run_a_kind_is_not_sent_it_and_the_report_says_so() {
    let [mut hello, ack, _nack] = Conversation::recorded().requests;
    let metadata = hello.node.as_mut().unwrap().metadata.as_mut().unwrap();
    let none = ValueKind::ListValue(ListValue { values: Vec::new() });
    metadata.fields.insert("capabilities".to_owned(), Value { kind: Some(none) });
    let mut server = server();
    server.receive(START, hello).unwrap();
    server.publish(START, first().snapshot());
    let (response, _sent) = server.next(START).unwrap();
    assert_eq!(response.resources.len(), 1, "the mark and nothing else");
    let Ok(Some(Report::Applied { rejects, .. })) = server.receive(START, ack) else { panic!("no answer") };
    assert_eq!(rejects.len(), 2);
    assert!(rejects.iter().all(|reject| reject.reason.contains("withheld")), "{rejects:?}");
}
