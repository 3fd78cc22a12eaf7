// SPDX-License-Identifier: Apache-2.0
//! The table of contents of the data plane: one request from its head to its response, every
//! phase called in order. One snapshot is loaded, once (invariant 5); nothing here waits for
//! the control plane (invariant 8). `conn` calls [`serve`]; what a phase does stands in its
//! own module; where policies see bodies chunk by chunk the walk goes on in `streamed`.

mod attempts;
mod body;
pub mod inbound;
pub mod outbound;
mod streamed;
mod walk;

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use ferrogate_policy::{BodyNeed, Chain, ClientCertificate};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};
use uuid::Uuid;

use crate::access_log::{Opening, Record};
use crate::conn::Peer;
use crate::error::{Failure, Reason};
use crate::h1::line::Known;
use crate::head::RequestParts;
use crate::response::Draft;
use crate::response::body::{ResponseBody, Source};
use crate::router::CompiledRoute;
use crate::settle::{self, Arrival, Arriving as _};
use crate::upgrade::tunnel::{self, Held};
use crate::upgrade::{self, Offer, Switch};
use crate::worker::Worker;

/// A request that found its route.
struct Routed {
    route: Arc<CompiledRoute>,
    chain: Arc<Chain>,
    head: RequestParts,
    /// Who the client is, as far as can be verified.
    client: IpAddr,
    /// Who it has proved to be, if it has.
    certificate: Option<Arc<ClientCertificate>>,
    /// Path and query as the client sent them.
    original_path: HeaderValue,
    /// The protocol to switch to, when client and route agree on one.
    switch: Option<Switch>,
}

/// Serves one request.
pub async fn serve(worker: Rc<Worker>, peer: Rc<Peer>, request: Request<Incoming>) -> Response<ResponseBody> {
    let in_flight = peer.activity.enter();
    let (mut parts, body) = request.into_parts();
    let offer = upgrade::offered(&mut parts, body.is_end_stream());
    let now = worker.shared.clock.now_micros();
    let mut record = Box::new(Record::begin(worker.log.clone(), now, &parts));
    record.client = Some(peer.address);
    let limits = &worker.shared.config.limits;
    record.traffic.receivable.set(limits.max_request_body_bytes.unwrap_or(u64::MAX));
    record.ends_connection = peer.activity.is_last(limits.max_requests_per_connection);

    let draft = match inbound::health(parts.uri.path()) {
        Some(health) => Draft::of_health(health, worker.shared.readiness.is_ready()),
        None => match admit(&worker, &parts, &body)
            .and_then(|()| find(&worker, &peer, parts, offer, &mut record))
        {
            Ok(routed) if routed.streams() => {
                return streamed::serve(worker, routed, body, record, in_flight).await;
            }
            Ok(routed) => match walk::whole(&worker, routed, body, &mut record).await {
                Ok(draft) => draft,
                Err(failure) => Draft::of_failure(&failure, &mut record),
            },
            Err(failure) => Draft::of_failure(&failure, &mut record),
        },
    };
    let mut response = draft.finish(&worker, &mut record, |source| source);
    let source = std::mem::replace(response.body_mut(), Source::Whole(None));
    match source {
        Source::Switched(switched) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            switched.tell(&mut response);
            record.status = Some(response.status());
            let idle = record.route.as_ref().and_then(|route| route.timeouts.idle);
            tunnel::start(&worker, *switched, idle, Held { record, in_flight, peer });
            response.map(|_| ResponseBody::none())
        }
        source => response.map(|_| ResponseBody::new(source, Some(record), in_flight)),
    }
}

/// Leaves the line of a head that took so long that hyper never saw it whole; its client was
/// told so under this error id.
pub fn note_slow_head(worker: &Worker, client: IpAddr, id: Option<Uuid>) {
    let (now, opening) = (worker.shared.clock.now_micros(), Opening::unread(&worker.log));
    let mut record = Record::open(worker.log.clone(), Instant::now(), now, opening, Rc::default());
    record.position = worker.shared.state.load().position;
    record.client = Some(client);
    record.fail(&Failure::slow_head(), id);
    record.status = Some(Reason::RequestTimeout.status());
}

/// What can be refused before anything is done for the request.
fn admit(worker: &Worker, parts: &Parts, body: &Incoming) -> Result<(), Failure> {
    if parts.version == Version::HTTP_2 {
        inbound::h2_fields(&parts.headers, worker.shared.config.limits.max_headers)?;
    }
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    inbound::admit(worker, 1, target, body.size_hint().lower())
}

/// From the request's head to its route: checks, normalisation, one look into one snapshot.
fn find(
    worker: &Worker,
    peer: &Peer,
    mut parts: Parts,
    offer: Option<Offer>,
    record: &mut Record,
) -> Result<Routed, Failure> {
    let original = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let original_path = HeaderValue::try_from(original)
        .map_err(|_| Failure::with(Reason::BadRequest, "the path has characters that must be escaped"))?;
    let target = inbound::target(&mut parts, worker.shared.config.path)?;
    let arrival = Arrival {
        peer: peer.address,
        certificate: peer.certificate.as_deref(),
        authority: &target.authority,
        https: peer.https,
        version: parts.version,
    };
    let settled = settle::request(&mut parts.headers, &worker.shared.config, &arrival);
    record.request_id = match (&settled.made_id, parts.headers.value(Known::RequestId)) {
        (Some(made), _) => made.as_str().into(),
        (None, sent) => String::from_utf8_lossy(sent.unwrap_or_default()).into(),
    };
    let header = |name: &str| parts.headers.get(name).map(HeaderValue::as_bytes);
    let asked = (target.authority.as_str(), parts.method.as_str(), target.path());
    let route = inbound::route(worker, asked, &header, &mut record.position)?;
    record.route = Some(route.clone());
    let chain = match &route.chain {
        Ok(chain) => chain.clone(),
        Err(poison) => return Err(Failure::with(Reason::RoutePoisoned, poison)),
    };
    let switch = match offer {
        Some(offer) => offer.settle(&route, &chain)?,
        None => None,
    };
    let head = RequestParts::new(parts.headers, parts.method, target.text, target.authority, peer.https);
    let certificate = peer.certificate.clone();
    Ok(Routed { route, chain, head, client: settled.client, certificate, original_path, switch })
}

impl Routed {
    /// Whether some policy may see a body chunk by chunk.
    fn streams(&self) -> bool {
        self.chain.request_body_need() == BodyNeed::Streamed
            || self.chain.response_body_need() == BodyNeed::Streamed
    }
}
