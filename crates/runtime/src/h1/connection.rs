// SPDX-License-Identifier: Apache-2.0
//! One HTTP/1 client connection on the hot path: head after head, each request to its end
//! before the next is looked at, all in the connection's own task. What this path does not
//! serve it hands over to hyper with the bytes it has read, the request line spelt as hyper reads
//! it; hyper then has the connection to its end. `conn` calls [`serve`].

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use tokio::io::{AsyncRead, AsyncWrite};

use super::answer::{self, Terms};
use super::arrival::{Arrived, Found, Peer, Told};
use super::due::Due;
use super::exchange::{self, Routed};
use super::fields::{Fields, Lists};
use super::framing::Framing;
use super::handover;
use super::intake::{Intake, Next};
use super::interim::Interim;
use super::line::Known;
use super::parse::{RequestHead, Version};
use super::timer::Span;
use super::wires::{Stop, Wires};
use crate::access_log::{Opening, Record, Traffic};
use crate::error::Failure;
use crate::response::Draft;
use crate::router::Timeouts;
use crate::worker::Worker;

/// A connection this path does not serve, with what was read from it.
pub struct Handover<S> {
    /// The stream.
    pub stream: S,
    /// Who is at its other end.
    pub peer: Peer,
    /// Bytes that were read and belong to it.
    pub read: Bytes,
    /// How many requests it has carried.
    pub carried: u64,
}

/// A client connection.
struct Connection<S> {
    intake: Intake<S>,
    peer: Peer,
    traffic: Rc<Traffic>,
    /// How many requests it has carried.
    carried: u64,
}

/// What came of a request.
enum End {
    /// Another may follow.
    Open,
    /// The last answer is out; the client may still be sending.
    Close { linger: bool },
    /// Nobody is there any more, or the answer was cut off.
    Broken,
    /// Not for this path.
    Unusual,
}

/// Serves a connection to its end, or hands it over. `last_request` is how long a drain leaves
/// it open for a request that is on its way already.
pub async fn serve<S>(
    worker: Rc<Worker>,
    stream: S,
    peer: Peer,
    last_request: Duration,
) -> Option<Handover<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let alarm = worker.h1.ticker.alarm();
    let intake = Intake { worker, stream, alarm, input: None, last_request: Span::of(last_request) };
    let mut connection = Connection { intake, peer, traffic: Rc::default(), carried: 0 };
    loop {
        // In boxes of their own: a connection that waits for its client is all that is left of it.
        let end = match connection.intake.next_head().await {
            Next::Head(head, lists) => Box::pin(connection.request(&head, lists)).await,
            Next::Refused(failure) => Box::pin(connection.refuse(&failure)).await,
            Next::Preface => End::Unusual,
            Next::Closed => End::Close { linger: false },
        };
        match end {
            End::Open => {}
            End::Close { linger } => {
                connection.intake.close(linger).await;
                return None;
            }
            End::Broken => return None,
            End::Unusual => {
                let Intake { worker, stream, input, .. } = connection.intake;
                let read = input.as_ref().map_or_else(Bytes::new, |read| handover::respelt(read.filled()));
                worker.h1.stock.give(input);
                let Connection { peer, carried, .. } = connection;
                return Some(Handover { stream, peer, read, carried });
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Serves the request whose head was parsed into `lists`.
    async fn request(&mut self, head: &RequestHead, lists: Lists) -> End {
        let Connection { intake: Intake { worker, stream, alarm, input, .. }, peer, traffic, carried } = self;
        let started = Instant::now();
        let (raw, surplus) =
            input.as_ref().and_then(|input| input.filled().split_at_checked(head.end)).unwrap_or_default();
        let arrived = Arrived::new(Fields::new(raw, head.present, lists), head);
        if arrived.is_unusual() {
            return End::Unusual;
        }
        let Arrived { mut terms, framing, expects, target, .. } = arrived;
        let opening = opening(worker, &arrived);
        let mut told = Told::default();
        let found = arrived.find(worker, peer, &mut told);
        if matches!(found, Found::Unusual) {
            return End::Unusual;
        }
        terms.close |= is_last(worker, carried);
        let mut record = begin(worker, peer, traffic, started, opening);
        record.position = told.position;
        if record.is_logged() {
            record.request_id = told.request_id.map(|id| id.as_str().into()).unwrap_or_default();
        }
        let body = framing.map_or(None, |framing| framing.contained(surplus));
        let due = Due::new(alarm, started, found.timeouts(), worker.h1.write_stall);
        let interim = Interim::new(terms.version, expects);
        let mut wires = Wires::new(worker, stream, alarm, due, interim, body.is_some());
        wires.timed = traffic.request_complete.is_timed();
        let mut sent = false;
        let served = match found {
            Found::Route { route, head, request_id, client } => {
                record.route = Some(route.clone());
                let mut routed = Routed {
                    head,
                    route,
                    framing: framing.unwrap_or(Framing::Close),
                    surplus,
                    request_id,
                    original_path: target.as_bytes(),
                    client,
                    certificate: peer.certificate.clone(),
                    now_ms: record.started_ms(),
                    terms,
                };
                exchange::proxy(&mut wires, &mut routed, &mut sent, &mut record).await
            }
            Found::Health(health) => {
                let own = Draft::of_health(health, worker.shared.readiness.is_ready()).into_own();
                answer::answer(&mut wires, own, terms, &mut record).await
            }
            Found::Failed(failure) => answer::fail(&mut wires, &failure, terms, &mut record).await,
            Found::Unusual => return End::Unusual,
        };
        let unread = !wires.upload.is_read();
        let rest = wires.upload.take_rest();
        worker.h1.stock.give_out(wires.upload.into_out());
        // A body that was sent on is in `rest`, as far as it was not used.
        let with_body = sent && body != Some(0);
        let used = head.end + if with_body { surplus.len() } else { body.unwrap_or(surplus.len()) };
        self.intake.keep(used, rest);
        match served {
            Ok(true) => End::Open,
            Ok(false) => End::Close { linger: unread },
            Err(Stop::ClientGone) => End::Broken,
            Err(Stop::Failed(failure)) => {
                record.fail(&failure, None);
                End::Broken
            }
        }
    }

    /// Answers what is no request.
    async fn refuse(&mut self, failure: &Failure) -> End {
        let Connection { intake: Intake { worker, stream, alarm, .. }, peer, traffic, .. } = self;
        let opening = Opening::unread(&worker.log);
        let started = Instant::now();
        let mut record = begin(worker, peer, traffic, started, opening);
        record.position = worker.shared.state.load().position;
        let due = Due::new(alarm, started, &NO_TIMEOUTS, worker.h1.write_stall);
        let terms = Terms { version: Version::Http11, head_only: false, trailers: false, close: true };
        let interim = Interim::new(terms.version, false);
        let mut wires = Wires::new(worker, stream, alarm, due, interim, false);
        match answer::fail(&mut wires, failure, terms, &mut record).await {
            Ok(_) => End::Close { linger: true },
            Err(_) => End::Broken,
        }
    }
}

/// Refusals, health and the like are answered at once: only the client's pace bounds them.
static NO_TIMEOUTS: Timeouts = Timeouts { request: None, idle: None, connect: Duration::ZERO };

impl Found<'_> {
    fn timeouts(&self) -> &Timeouts {
        match self {
            Found::Route { route, .. } => &route.timeouts,
            Found::Health(_) | Found::Failed(_) | Found::Unusual => &NO_TIMEOUTS,
        }
    }
}

/// Counts a request, and says whether its connection may carry no other.
fn is_last(worker: &Worker, carried: &mut u64) -> bool {
    *carried += 1;
    let last = *carried >= worker.h1.max_requests;
    if last {
        worker.metrics.connections_spent.one();
    }
    last
}

fn begin(
    worker: &Worker,
    peer: &Peer,
    traffic: &Rc<Traffic>,
    started: Instant,
    opening: Opening<'_>,
) -> Record {
    traffic.restart();
    let now_micros = worker.shared.clock.now_micros();
    let mut record = Record::open(worker.log.clone(), started, now_micros, opening, traffic.clone());
    record.client = Some(peer.address);
    record
}

fn opening<'b>(worker: &Worker, arrived: &Arrived<'b>) -> Opening<'b> {
    let fields = &arrived.fields;
    Opening {
        method: Method::from_bytes(arrived.method.as_bytes()).unwrap_or_default(),
        target: arrived.target,
        version: arrived.terms.version.into(),
        host: fields.first(Known::Host),
        asked: worker.log.asked(|name| fields.by_name(name.as_str())),
        // Calls are hyper's.
        grpc: None,
    }
}
