// SPDX-License-Identifier: Apache-2.0
//! What is known about one request, from its head to its end. [`Record`] travels with the
//! request and then with its response body; dropping it counts the request and writes its
//! line, so that an aborted one is logged as surely as a finished one. It never decides what
//! becomes of a request: the walk and the hot path fill it in, `fields` reads it.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferrogate_model::Position;
use http::header::HOST;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, Version};
use smallvec::SmallVec;
use uuid::Uuid;

use super::{STALLED, Traffic, WorkerLog};
use crate::deadline::Deadlines;
use crate::error::{Failure, Reason};
use crate::grpc::Call;
use crate::router::{CompiledRoute, Endpoint, Timeouts};

/// What a request says of itself, as its line will have it.
pub struct Opening<'a> {
    /// The method; `-` when not even that was understood.
    pub method: Method,
    /// Path and query as they came.
    pub target: &'a str,
    /// The version.
    pub version: Version,
    /// `Host`, or what stands for it.
    pub host: Option<&'a [u8]>,
    /// The headers that its line shows: what [`WorkerLog::asked`] gave.
    pub asked: Asked<'a>,
    /// The gRPC call that it is, if it is one.
    pub grpc: Option<Call>,
}

impl Opening<'_> {
    /// Of what was not read so far as to say anything.
    #[must_use]
    pub fn unread(log: &WorkerLog) -> Self {
        Opening {
            method: Method::from_bytes(b"-").unwrap_or_default(),
            target: "",
            version: Version::HTTP_11,
            host: None,
            asked: log.asked(|_| None),
            grpc: None,
        }
    }
}

/// Values of headers, in the order of the format.
pub type Asked<'a> = SmallVec<[Option<&'a [u8]>; 2]>;

/// What is known about one request. Dropping it ends the request: it is counted and logged.
pub struct Record {
    log: Rc<WorkerLog>,
    pub(super) started: Instant,
    pub(super) took: Option<Duration>,
    pub(super) started_micros: i64,
    pub(super) method: Method,
    pub(super) target: String,
    pub(super) version: Version,
    pub(super) host: Option<HeaderValue>,
    /// The headers of the request that its line shows, in the order of the format.
    pub(super) asked: SmallVec<[Option<HeaderValue>; 2]>,
    /// Those of the response.
    pub(super) answered: SmallVec<[Option<HeaderValue>; 1]>,
    /// From the beginning to when the upstream's time began to count.
    pub(super) forwarded: Duration,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// Shared with the bodies.
    pub traffic: Rc<Traffic>,
    /// `x-request-id`.
    pub request_id: Rc<str>,
    /// The gRPC call that the request is, if it is one.
    pub grpc: Option<Call>,
    /// The route that matched.
    pub route: Option<Arc<CompiledRoute>>,
    /// The snapshot that served it.
    pub position: Position,
    /// The status sent, once it is known.
    pub status: Option<StatusCode>,
    /// No request may follow on its connection.
    pub ends_connection: bool,
    /// The response reached its end.
    pub complete: bool,
    /// Why the gateway answered by itself.
    pub reason: Option<Reason>,
    /// More about it.
    pub detail: String,
    /// The id that stands in the error body.
    pub error_id: Option<Uuid>,
    /// The policy that answered or failed.
    pub policy: Option<&'static str>,
    /// `host:port` of the endpoint; its address where each of a name is one.
    pub upstream_host: Option<String>,
    /// The version of HTTP that the target spoke.
    pub upstream_version: Version,
    /// What the upstream was asked for.
    pub upstream_path: Option<String>,
    /// From the last byte sent upstream to the response's head.
    pub upstream_time: Option<Duration>,
}

impl Record {
    /// Begins a request, with its host wherever it stands: HTTP/2 has it beside the headers.
    #[must_use]
    pub fn begin(log: Rc<WorkerLog>, now_micros: i64, parts: &Parts) -> Record {
        let Parts { method, uri, version, headers, .. } = parts;
        let header = |name: &HeaderName| headers.get(name).map(HeaderValue::as_bytes);
        let opening = Opening {
            method: method.clone(),
            target: uri.path_and_query().map_or("", |target| target.as_str()),
            version: *version,
            host: uri.authority().map(|host| host.as_str().as_bytes()).or_else(|| header(&HOST)),
            asked: log.asked(header),
            grpc: Call::of(headers),
        };
        Record::open(log, Instant::now(), now_micros, opening, Rc::default())
    }

    /// Begins a request that came at this time. What a policy may change later is copied now,
    /// but only when there is a log to write it to.
    #[must_use]
    pub fn open(
        log: Rc<WorkerLog>,
        started: Instant,
        started_micros: i64,
        opening: Opening<'_>,
        traffic: Rc<Traffic>,
    ) -> Record {
        log.metrics.requests_started.one();
        let logged = log.blocks.is_open();
        traffic.request_complete.timed.set(logged && log.blocks.format().times_request);
        let kept = |value: Option<&[u8]>| value.and_then(|value| HeaderValue::from_bytes(value).ok());
        Record {
            started,
            took: None,
            started_micros,
            method: opening.method,
            target: if logged { opening.target.to_owned() } else { String::new() },
            version: opening.version,
            host: kept(opening.host.filter(|_| logged)),
            asked: opening.asked.into_iter().map(kept).collect(),
            answered: SmallVec::new(),
            forwarded: Duration::ZERO,
            client: None,
            traffic,
            request_id: Rc::default(),
            grpc: opening.grpc,
            route: None,
            position: Position::default(),
            status: None,
            ends_connection: false,
            complete: false,
            reason: None,
            detail: String::new(),
            error_id: None,
            policy: None,
            upstream_host: None,
            upstream_version: Version::HTTP_11,
            upstream_path: None,
            upstream_time: None,
            log,
        }
    }

    /// Notes why the gateway answers by itself.
    pub fn fail(&mut self, failure: &Failure, error_id: Option<Uuid>) {
        self.reason = Some(failure.reason);
        self.detail.clone_from(&failure.detail);
        self.error_id = error_id;
    }

    /// Notes where the request goes, and that the upstream's time counts from here.
    pub fn note_upstream(&mut self, endpoint: &Endpoint, uri: &Uri) {
        self.note_upstream_path(endpoint, uri.path_and_query().map_or("", |path| path.as_str()));
        // A retry is part of the upstream's time.
        if self.traffic.request_complete.is_timed() && self.forwarded.is_zero() {
            self.forwarded = self.started.elapsed();
        }
    }

    /// Notes where the request goes, by path and query.
    pub fn note_upstream_path(&mut self, endpoint: &Endpoint, path: &str) {
        if self.is_logged() {
            self.upstream_host = Some(match endpoint.address {
                Some(address) => SocketAddr::new(address, endpoint.port).to_string(),
                None => format!("{}:{}", endpoint.host, endpoint.port),
            });
            self.upstream_path = Some(path.to_owned());
        }
    }

    /// Whether there is a log that will have it: what only a log needs need not be copied else.
    #[must_use]
    pub fn is_logged(&self) -> bool {
        self.log.blocks.is_open()
    }

    /// Tells how long it took where that is known already, to save a look at the clock.
    pub fn ended_after(&mut self, took: Duration) {
        self.took = Some(took);
    }

    /// Notes the headers of the response that its line shows.
    pub fn note_response<'h>(&mut self, header: impl Fn(&HeaderName) -> Option<&'h [u8]>) {
        let wanted = &self.log.blocks.format().response_headers;
        if self.is_logged() && !wanted.is_empty() {
            let kept = |name| header(name).and_then(|value| HeaderValue::from_bytes(value).ok());
            self.answered = wanted.iter().map(kept).collect();
        }
    }

    /// The method the client sent.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// Whether the client's connection carries one request at a time.
    #[must_use]
    pub fn is_http1(&self) -> bool {
        self.version < Version::HTTP_2
    }

    /// When the request began, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn started_ms(&self) -> u64 {
        u64::try_from(self.started_micros / 1000).unwrap_or(0)
    }

    /// When the request began.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The clocks of its route, once that was found.
    #[must_use]
    pub fn deadlines(&self) -> Option<Deadlines> {
        self.route.as_ref().map(|route| self.deadlines_on(route))
    }

    /// The clocks on this route. A gRPC client that waits less than the route allows is not waited
    /// for longer.
    #[must_use]
    pub fn deadlines_on(&self, route: &CompiledRoute) -> Deadlines {
        let asked = self.grpc.and_then(|call| call.timeout);
        let request = asked.into_iter().chain(route.timeouts.request).min();
        Deadlines::of(Timeouts { request, ..route.timeouts }, self.started)
    }

    /// The worker's log.
    #[must_use]
    pub fn log(&self) -> &Rc<WorkerLog> {
        &self.log
    }

    pub(super) fn client_is_gone(&self) -> bool {
        !self.complete && self.reason.is_none()
    }

    /// From the request's first byte to its last.
    pub(super) fn request_duration(&self) -> Option<Duration> {
        self.traffic.request_complete.at.get().map(|at| at.saturating_duration_since(self.started))
    }

    /// To the last byte that was handed to the upstream's connection.
    pub(super) fn request_sent(&self) -> Option<Duration> {
        self.upstream_host.as_ref()?;
        self.request_duration().map(|received| received.max(self.forwarded))
    }

    /// To the head of the upstream's response.
    pub(super) fn response_duration(&self) -> Option<Duration> {
        Some(self.forwarded + self.upstream_time?)
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if let Some(overdue) = self.traffic.overdue.get().filter(|_| self.client_is_gone()) {
            self.fail(&Failure::with(overdue, STALLED), None);
        }
        let took = self.took.unwrap_or_else(|| self.started.elapsed());
        let metrics = &self.log.metrics;
        metrics.request_ended(self.status, self.reason, took);
        if self.client_is_gone() {
            metrics.client_gone.one();
        }
        if self.is_logged() {
            self.log.append(self, took);
        }
    }
}
