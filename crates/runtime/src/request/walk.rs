// SPDX-License-Identifier: Apache-2.0
//! The phases between a route and a response, in order: request policies, body policies,
//! upstream, response policies. Whatever fails on the way ends in the one table of
//! [`crate::error`]. [`whole`] is the walk of nearly all requests; `streamed` takes the
//! same steps where policies see bodies chunk by chunk.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use ferrogate_model::kinds::rest_api::{HostRewrite, UpstreamProtocol};
use ferrogate_policy::chain::PolicyFailure;
use ferrogate_policy::{BodyNeed, Chain, ChainRun, ClientCertificate, Exchange, Verdict};
use http::header::SET_COOKIE;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use hyper::body::Incoming;

use super::{Routed, attempts, body, outbound};
use crate::access_log::Record;
use crate::coding::{Coding, Opened};
use crate::deadline::Deadlines;
use crate::error::{Failure, Reason};
use crate::forwarded;
use crate::h1::line::{Known, Present};
use crate::head::{RequestParts, ResponseParts};
use crate::hop;
use crate::response::body::{Source, UpstreamBody};
use crate::response::{self, Draft};
use crate::router::{CompiledRoute, Target};
use crate::settle::Arriving as _;
use crate::upgrade::Switch;
use crate::upstream::body::OutgoingBody;
use crate::upstream::pick::{Guard, PickInput, Picked};
use crate::worker::Worker;

/// What policies work on.
pub struct Live<'a> {
    /// The request's head.
    pub head: RequestParts,
    /// The request's own state.
    pub exchange: Exchange<'a>,
    /// How far the chain has come.
    pub run: ChainRun,
}

/// What stays the same for the whole request.
#[derive(Clone, Copy)]
pub struct Walk<'a> {
    /// The worker that serves it.
    pub worker: &'a Worker,
    /// Its route.
    pub route: &'a CompiledRoute,
    /// Its policies.
    pub chain: &'a Chain,
    /// Its deadlines.
    pub deadlines: Deadlines,
    /// Path and query as the client sent them.
    pub original_path: &'a HeaderValue,
}

/// A request ready to be sent, and where to.
pub struct Outgoing<'a> {
    pub(super) request: Request<OutgoingBody>,
    pub(super) picked: Picked<'a>,
    pub(super) target: &'a Target,
    pub(super) client: IpAddr,
    /// Its `Host` is the endpoint's, and another endpoint's would be another.
    pub(super) names_endpoint: bool,
    /// Path and query as the mirror knows them, where there is one.
    pub(super) mirror_uri: Option<Uri>,
}

/// The walk of a request whose bodies no policy sees chunk by chunk.
///
/// # Errors
/// With what the gateway answers instead.
pub async fn whole(
    worker: &Worker,
    routed: Routed,
    incoming: Incoming,
    record: &mut Record,
) -> Result<Draft, Failure> {
    let Routed { route, chain, head, client, certificate, original_path, switch } = routed;
    let walk = Walk::new(worker, &route, &chain, &original_path, record);
    let request_id = record.request_id.clone();
    let mut live = walk.live(head, &request_id, client, certificate);
    let method = live.head.current_method().clone();
    let coding = Coding::of(&live.head.headers);
    if let Some(answer) = walk.ask(&mut live, record).await? {
        return Ok(answer);
    }
    let body = match chain.request_body_need() {
        BodyNeed::None => match &route.steering {
            None => body::pass(incoming, &record.traffic),
            Some(steering) => {
                let limit = steering.held_body_bytes();
                body::hold(incoming, &record.traffic, &walk.deadlines, limit).await?
            }
        },
        BodyNeed::Streamed | BodyNeed::Buffered => {
            let limit = worker.shared.config.limits.body_buffer_bytes;
            let raw = body::gather(incoming, &record.traffic, &walk.deadlines, limit).await?;
            let opened = walk.open_request(coding, raw).await?;
            let mut bytes = opened.plain();
            if let Some(answer) = walk.ask_body(&mut live, &mut bytes, true, record)? {
                return Ok(answer);
            }
            body::whole(opened.close(Coding::of(&live.head.headers), bytes).await)
        }
    };
    let outgoing = walk.outgoing(&mut live, body, record);
    let mut draft = walk.reply(outgoing, switch, record).await?;
    let coding = Coding::of(&draft.head.headers);
    if let Some(answer) = walk.tell(&mut live, &mut draft.head, record)? {
        return Ok(answer);
    }
    if chain.response_body_need() != BodyNeed::None {
        let raw = walk.gather(&mut draft, &method, record).await?;
        let opened = walk.open_response(coding, raw).await?;
        let mut bytes = opened.plain();
        if let Some(answer) = walk.tell_body(&mut live, &mut draft, &mut bytes, record)? {
            return Ok(answer);
        }
        let coding = Coding::of(&draft.head.headers);
        draft.replace_body(&method, opened.close(coding, bytes).await);
    }
    Ok(draft)
}

impl<'a> Walk<'a> {
    /// The deadlines begin now.
    pub fn new(
        worker: &'a Worker,
        route: &'a CompiledRoute,
        chain: &'a Chain,
        original_path: &'a HeaderValue,
        record: &Record,
    ) -> Walk<'a> {
        let deadlines = record.deadlines_on(route);
        Walk { worker, route, chain, deadlines, original_path }
    }

    /// What policies work on, at the beginning.
    pub fn live(
        &self,
        head: RequestParts,
        request_id: &'a str,
        client: IpAddr,
        certificate: Option<Arc<ClientCertificate>>,
    ) -> Live<'a> {
        let now = self.worker.shared.clock.now_ms();
        let mut exchange = Exchange::new(&self.route.attachment, request_id, client, now);
        exchange.client_certificate = certificate;
        Live { head, exchange, run: ChainRun::new() }
    }

    /// The request header hooks. `Some` is a policy's answer.
    pub async fn ask(&self, live: &mut Live<'_>, record: &mut Record) -> Result<Option<Draft>, Failure> {
        if !self.chain.has_request() {
            return Ok(None);
        }
        let Live { head, exchange, run } = live;
        let mut verdict = self.chain.request(head, exchange, run);
        if matches!(verdict, Ok(Verdict::Ask)) {
            let asked = self.chain.request_outbound(head, exchange, run);
            verdict = self.deadlines.bound(&record.traffic, asked).await?;
        }
        self.settle(verdict, &live.run, record)
    }

    /// The request body hooks.
    pub fn ask_body(
        &self,
        live: &mut Live<'_>,
        bytes: &mut Bytes,
        last: bool,
        record: &mut Record,
    ) -> Result<Option<Draft>, Failure> {
        let Live { head, exchange, run } = live;
        let verdict = self.chain.request_body(head, bytes, last, exchange, run);
        self.settle(verdict, &live.run, record)
    }

    /// The request for the upstream, with everything the policies decided.
    pub fn outgoing(
        &self,
        live: &mut Live<'_>,
        body: OutgoingBody,
        record: &mut Record,
    ) -> Result<Outgoing<'a>, Failure> {
        let client = live.exchange.client;
        let header = |name: &HeaderName| live.head.headers.get(name).map(HeaderValue::as_bytes);
        let input = PickInput { header: &header, client, tried: &[] };
        let chosen = live.exchange.upstream.as_deref().filter(|name| !name.is_empty());
        let steering = self.route.steering.as_deref();
        let target = match steering.and_then(|steering| steering.split.as_ref()) {
            // A policy's choice is a choice; the split is for who has none.
            Some(split) if chosen.is_none() => {
                let dice = self.worker.balancer.with_dice(fastrand::Rng::f64);
                split.choose(&header, client, dice).unwrap_or(&self.route.target)
            }
            Some(_) | None => outbound::choose(self.route, chosen)?,
        };
        let picked = self.worker.balancer.pick(target, &input)?;
        let endpoint = picked.endpoint();
        // Response policies may look at the request again.
        let keep = self.chain.has_response() || self.chain.response_body_need() != BodyNeed::None;
        let notes = outbound::Notes {
            original_path: self.original_path,
            timeout_ms: self.route.timeouts.request.map(|limit| limit.as_millis()),
        };
        let mirror = steering.and_then(|steering| steering.mirror.as_ref());
        let mirror_uri = mirror.map(|mirror| outbound::uri(&live.head, self.route, &mirror.target));
        let names_endpoint =
            self.route.host_rewrite == HostRewrite::Auto && live.head.upstream_authority().is_none();
        let request = outbound::request(&mut live.head, keep, self.route, target, endpoint, &notes, body)?;
        record.note_upstream(endpoint, request.uri());
        Ok(Outgoing { request, picked, target, client, names_endpoint, mirror_uri: mirror_uri.transpose()? })
    }

    /// The upstream's response, or what stands in for it.
    pub async fn reply(
        &self,
        outgoing: Result<Outgoing<'a>, Failure>,
        switch: Option<Switch>,
        record: &mut Record,
    ) -> Result<Draft, Failure> {
        let sent = match outgoing {
            Ok(outgoing) => self.send(outgoing, switch, record).await,
            Err(failure) => Err(failure),
        };
        match sent {
            Ok(draft) => Ok(draft),
            Err(failure) if failure.reason.stands_for_upstream() => Ok(Draft::of_failure(&failure, record)),
            Err(failure) => Err(failure),
        }
    }

    async fn send(
        &self,
        mut outgoing: Outgoing<'a>,
        mut switch: Option<Switch>,
        record: &mut Record,
    ) -> Result<Draft, Failure> {
        if let Some(switch) = &mut switch {
            // A switch is a matter of HTTP/1.1.
            if outgoing.picked.endpoint().protocol == UpstreamProtocol::Http2 {
                return Err(Failure::with(Reason::UpgradeRefused, "the upstream speaks HTTP/2 only"));
            }
            switch.ask(outgoing.request.headers_mut());
        }
        // How the client came, to us or to the proxy in front.
        let secure = outgoing.request.headers().value(Known::ForwardedProto) == Some(b"https");
        let asked = Instant::now();
        let (mut response, guard) = attempts::send(self, outgoing, record).await?;
        let took = asked.elapsed();
        record.upstream_time = Some(took);
        record.traffic.moved();
        let switched = match switch {
            Some(switch) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                Some(switch.agreed(&mut response)?)
            }
            Some(_) | None => None,
        };
        let (parts, incoming) = response.into_parts();
        record.upstream_version = parts.version;
        // Nobody will read the rest of the request, and the client should not send another behind it.
        let is_error = parts.status.is_client_error() || parts.status.is_server_error();
        record.ends_connection |= is_error && !record.traffic.request_complete.get();
        // hyper has read any other interim answer over; nobody asked for another protocol.
        if switched.is_none() && parts.status.is_informational() {
            return Err(Failure::with(Reason::UpstreamProtocol, format!("unasked-for {}", parts.status)));
        }
        let mut headers = parts.headers;
        if !hop::plainly_framed(&headers) {
            let detail = "a transfer coding other than chunked";
            return Err(Failure::with(Reason::UpstreamProtocol, detail));
        }
        hop::strip(&mut headers, Present::default());
        if let Some(via) = &self.worker.shared.config.forwarding.via {
            forwarded::note_via(&mut headers, via, parts.version);
        }
        response::note_service_time(&mut headers, took);
        if let Some(cookie) = guard.as_ref().and_then(Guard::cookie) {
            // Whoever has it over TLS should never send it in the clear.
            let value = secure.then(|| [cookie.as_bytes(), b"; Secure"].concat());
            let secured = value.and_then(|value| HeaderValue::try_from(value).ok());
            headers.append(SET_COOKIE, secured.unwrap_or_else(|| cookie.clone()));
        }
        let source = match switched {
            Some(switched) => Source::Switched(Box::new(switched.guarded(guard, incoming))),
            None => Source::Upstream(UpstreamBody::new(incoming, self.deadlines).guarded(guard)),
        };
        Ok(Draft { head: ResponseParts { status: parts.status, headers }, source })
    }

    /// The response header hooks.
    pub fn tell(
        &self,
        live: &mut Live<'_>,
        head: &mut ResponseParts,
        record: &mut Record,
    ) -> Result<Option<Draft>, Failure> {
        if !self.chain.has_response() {
            return Ok(None);
        }
        let Live { head: request, exchange, run } = live;
        let verdict = self.chain.response(request, head, exchange, run);
        self.settle(verdict, &live.run, record)
    }

    /// The response's body in memory.
    pub async fn gather(
        &self,
        draft: &mut Draft,
        method: &Method,
        record: &mut Record,
    ) -> Result<Bytes, Failure> {
        if !draft.may_have_body(method) {
            return Ok(Bytes::new());
        }
        match &mut draft.source {
            Source::Whole(bytes) => Ok(bytes.take().unwrap_or_default()),
            Source::Upstream(body) => {
                response::gather(body, record, self.worker.shared.config.limits.body_buffer_bytes).await
            }
            Source::Walk(_) | Source::Switched(_) => Ok(Bytes::new()),
        }
    }

    /// The response body hooks over the whole body.
    pub fn tell_body(
        &self,
        live: &mut Live<'_>,
        draft: &mut Draft,
        bytes: &mut Bytes,
        record: &mut Record,
    ) -> Result<Option<Draft>, Failure> {
        let Live { head, exchange, run } = live;
        let verdict = self.chain.response_body(head, &mut draft.head, bytes, true, exchange, run);
        self.settle(verdict, &live.run, record)
    }

    /// A whole request body as policies see it.
    pub async fn open_request(&self, coding: Option<Coding>, raw: Bytes) -> Result<Opened, Failure> {
        let limit = self.worker.shared.config.limits.request_decompressed_bytes;
        let opened = Opened::open(coding, raw, limit).await;
        opened.map_err(|_| inflated(Reason::RequestBodyInflated, limit))
    }

    /// A whole response body as policies see it.
    pub async fn open_response(&self, coding: Option<Coding>, raw: Bytes) -> Result<Opened, Failure> {
        let limit = self.worker.shared.config.limits.response_decompressed_bytes;
        let opened = Opened::open(coding, raw, limit).await;
        opened.map_err(|_| inflated(Reason::ResponseBodyInflated, limit))
    }

    /// A verdict's consequence, noted in the record.
    pub fn settle(
        &self,
        verdict: Result<Verdict, PolicyFailure>,
        run: &ChainRun,
        record: &mut Record,
    ) -> Result<Option<Draft>, Failure> {
        match verdict {
            Ok(Verdict::Continue) => Ok(None),
            // Whoever wanted to was let ask: see `ask`.
            Ok(Verdict::Ask) => Err(Failure::with(Reason::PolicyFailed, "nobody was asked")),
            Ok(Verdict::Answer(answer)) => {
                record.policy = run.decision().map(|decision| decision.policy);
                self.worker.metrics.short_circuits.one();
                Ok(Some(Draft::of_answer(answer).in_words_of(record)))
            }
            Err(failure) => {
                record.policy = Some(failure.policy);
                Err(Failure::with(Reason::PolicyFailed, &failure))
            }
        }
    }
}

/// A body that stands for more than it may.
pub fn inflated(reason: Reason, limit: usize) -> Failure {
    Failure::with(reason, format!("more than {limit} bytes when decompressed"))
}
