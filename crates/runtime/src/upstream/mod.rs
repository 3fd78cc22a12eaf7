// SPDX-License-Identifier: Apache-2.0
//! One request to one upstream: a kept or a new connection, the request sent, the
//! response's head awaited under the route's deadlines. A request is sent a second time
//! only when the first time provably reached nobody or was refused without a look, or when it is
//! safe to repeat and the kept connection turned out stale. `request` calls it; the response goes
//! to `response`.

pub mod balance;
mod beside;
pub mod body;
mod choose;
pub mod circuit;
pub mod connect;
mod dial;
pub mod direct;
pub mod group;
pub mod hash;
pub mod health;
pub mod lease;
pub mod mirror;
pub mod names;
pub mod outlier;
pub mod pick;
pub mod pool;
mod probe;
pub mod reply;
pub mod retry;
pub mod states;
pub mod steering;
pub mod streams;

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferrogate_model::kinds::rest_api::UpstreamProtocol;
use http::header::UPGRADE;
use http::{Request, Response};

use self::body::OutgoingBody;
use self::circuit::Connection;
use self::connect::{Connector, Sender};
use self::direct::Direct;
use self::lease::{Fate, Lease, NotAnswered, SendError};
use self::pick::Picked;
use self::pool::Pool;
use self::reply::ReplyBody;
use self::retry::is_idempotent;
use crate::access_log::Traffic;
use crate::deadline::Deadlines;
use crate::error::{Failure, Reason};
use crate::h1;
use crate::metrics::WorkerMetrics;
use crate::router::Endpoint;

/// HTTP/2 connections that one request may see closed before it could use them.
const MAX_LOST_DIALS: u32 = 2;

/// One worker's way to the upstreams.
pub struct Upstreams {
    /// Kept connections.
    pub pool: Rc<Pool>,
    /// The hot path's, unless it is switched off.
    pub direct: Option<Rc<h1::pool::Pool>>,
    /// New connections.
    pub connector: Rc<Connector>,
    /// The worker's counts.
    pub metrics: Arc<WorkerMetrics>,
}

/// A response whose head has arrived.
pub type Reply = Response<ReplyBody>;

/// There is no response.
pub struct Unanswered {
    /// Why.
    pub failure: Failure,
    /// The request, when provably nothing of it was sent.
    pub unsent: Option<Request<OutgoingBody>>,
    /// Whether the upstream may have acted on it.
    pub seen: bool,
}

impl From<Failure> for Unanswered {
    /// The upstream may have seen the request.
    fn from(failure: Failure) -> Unanswered {
        Unanswered { failure, unsent: None, seen: true }
    }
}

impl Upstreams {
    /// Sends the request and waits for the response's head.
    ///
    /// # Errors
    /// With the reason, when there is no response to pass on.
    pub async fn send(
        &self,
        mut request: Request<OutgoingBody>,
        picked: &Picked<'_>,
        connect_timeout: Duration,
        deadlines: &Deadlines,
        traffic: &Traffic,
    ) -> Result<Reply, Unanswered> {
        let endpoint = &*in_its_protocol(picked.endpoint(), &request);
        let direct = self.direct.as_ref().filter(|_| direct::serves(picked, &request));
        let mut kept = match direct {
            Some(pool) => pool.take(endpoint).map(|kept| Lease::Direct(Direct::new(kept, pool))),
            None => self.pool.take(endpoint),
        };
        let repeatable = is_idempotent(request.method());
        let mut again = true;
        traffic.asked.set(Some(tokio::time::Instant::now()));
        loop {
            let (lease, reused) = match kept.take() {
                Some(lease) => (lease, true),
                None => {
                    let opening = async {
                        match direct {
                            Some(pool) => self.open_direct(pool, endpoint, connect_timeout).await,
                            None => self.open(endpoint, picked, connect_timeout, traffic).await,
                        }
                    };
                    // In a box: it is large, and most requests find a connection.
                    match deadlines.bound(traffic, Box::pin(opening)).await.and_then(|opened| opened) {
                        Ok(opened) => opened,
                        Err(failure) => {
                            return Err(Unanswered { failure, unsent: Some(request), seen: false });
                        }
                    }
                }
            };
            let spare = if again { lease.spare(&request, reused && repeatable) } else { None };
            let once_more = match attempt(lease, request, deadlines, traffic).await? {
                Attempt::Answered(response) => {
                    if reused {
                        self.metrics.upstream_reused.one();
                    }
                    return Ok(response);
                }
                Attempt::NotSent(unsent, _) if reused => unsent,
                Attempt::NotSent(unsent, failure) => {
                    return Err(Unanswered { failure, unsent: Some(unsent), seen: false });
                }
                Attempt::Refused(failure) => match spare {
                    Some(spare) => spare,
                    None => return Err(Unanswered { seen: false, ..failure.into() }),
                },
                Attempt::Lost(request, failure) => match request.or(spare) {
                    Some(whole) if reused && repeatable && failure.reason == Reason::UpstreamReset => whole,
                    Some(_) | None => return Err(failure.into()),
                },
            };
            // On a connection of its own: a kept one could be as stale.
            (request, again) = (once_more, false);
            self.metrics.upstream_retried.one();
        }
    }

    /// A new connection that no task of its own reads; it has not been used before.
    async fn open_direct(
        &self,
        pool: &Rc<h1::pool::Pool>,
        endpoint: &Endpoint,
        limit: Duration,
    ) -> Result<(Lease, bool), Failure> {
        let wire = self.connector.open(endpoint, limit).await?;
        self.metrics.upstream_opened.one();
        Ok((Lease::Direct(Direct::new(pool.lease(endpoint, wire), pool)), false))
    }

    /// A new connection, once the endpoint may have another, or a share of one that was made for
    /// several who waited, or one that was given back in the meantime; the last has been used
    /// before, which is the other half of the answer.
    async fn open(
        &self,
        endpoint: &Endpoint,
        picked: &Picked<'_>,
        limit: Duration,
        traffic: &Traffic,
    ) -> Result<(Lease, bool), Failure> {
        let streams = &self.pool.streams;
        let mut lost = 0;
        loop {
            if endpoint.protocol == UpstreamProtocol::Http1 || streams.is_plain(endpoint) {
                let begun = Instant::now();
                let counted = tokio::select! {
                    biased;
                    admitted = admit(picked, limit, traffic) => admitted?,
                    kept = self.pool.returned(endpoint) => {
                        traffic.asked.set(Some(tokio::time::Instant::now()));
                        return Ok((Lease::Kept(kept), true));
                    }
                };
                let left = limit.saturating_sub(begun.elapsed());
                if let Sender::Http1(sender) = self.connector.connect(endpoint, left).await? {
                    self.metrics.upstream_opened.one();
                    return Ok((Lease::Kept(self.pool.lease(endpoint, sender, counted)), false));
                }
                return Err(Failure::with(Reason::UpstreamReset, "it changed its protocol just now"));
            }
            // Only who begins a dial needs leave for a connection; the others join it.
            let counted = match streams.is_dialling(endpoint) {
                true => None,
                false => admit(picked, limit, traffic).await?,
            };
            streams.dial(endpoint, || self.dial(endpoint, limit, counted)).await?;
            if let Some(lease) = self.pool.take(endpoint) {
                return Ok((lease, false));
            }
            // Others who waited took all the room; or it closed at once, which must not go on.
            if !streams.is_usable(endpoint) {
                lost += 1;
            }
            if lost > MAX_LOST_DIALS {
                return Err(Failure::with(Reason::UpstreamReset, "it closed every connection at once"));
            }
        }
    }

    fn dial(&self, endpoint: &Endpoint, limit: Duration, counted: Option<Connection>) -> streams::Dial {
        let (pool, connector) = (self.pool.clone(), self.connector.clone());
        let (metrics, endpoint) = (self.metrics.clone(), endpoint.clone());
        Box::pin(async move {
            match connector.connect(&endpoint, limit).await? {
                Sender::Http2(sender, allowed) => pool.streams.add(&endpoint, sender, allowed, counted),
                Sender::Http1(sender) => {
                    pool.streams.note_plain(&endpoint);
                    pool.lease(&endpoint, sender, counted).keep();
                }
            }
            metrics.upstream_opened.one();
            Ok(())
        })
    }
}

/// A switch is a matter of HTTP/1.1: an endpoint that also speaks that is asked in it.
fn in_its_protocol<'e>(endpoint: &'e Endpoint, request: &Request<OutgoingBody>) -> Cow<'e, Endpoint> {
    let mut endpoint = Cow::Borrowed(endpoint);
    if endpoint.protocol == UpstreamProtocol::Auto && request.headers().contains_key(UPGRADE) {
        endpoint.to_mut().protocol = UpstreamProtocol::Http1;
    }
    endpoint
}

/// Waits until the endpoint may have another connection. Meanwhile nothing is asked of it.
async fn admit(
    picked: &Picked<'_>,
    limit: Duration,
    traffic: &Traffic,
) -> Result<Option<Connection>, Failure> {
    let asked = traffic.asked.take();
    let admitted = tokio::time::timeout(limit, picked.admit_connection()).await;
    traffic.asked.set(asked.map(|_| tokio::time::Instant::now()));
    admitted
        .map_err(|_| Failure::with(Reason::Overflow, format!("no connection became free within {limit:?}")))?
}

enum Attempt {
    Answered(Reply),
    /// The connection closed before a byte was written.
    NotSent(Request<OutgoingBody>, Failure),
    /// The upstream says that it did nothing with it.
    Refused(Failure),
    /// The upstream may have seen it; the request, when it is still whole.
    Lost(Option<Request<OutgoingBody>>, Failure),
}

async fn attempt(
    mut lease: Lease,
    request: Request<OutgoingBody>,
    deadlines: &Deadlines,
    traffic: &Traffic,
) -> Result<Attempt, Failure> {
    // A connection given back a moment ago may still be finishing its last exchange.
    if !lease.is_ready()
        && let Err(error) = deadlines.bound(traffic, lease.ready()).await?
    {
        return Ok(Attempt::NotSent(request, Failure::with(Reason::UpstreamReset, error)));
    }
    match deadlines.bound(traffic, lease.send(request)).await? {
        Ok(response) => Ok(Attempt::Answered(response)),
        Err(NotAnswered { request, fate, error }) => {
            let failure = classify(&error, traffic);
            Ok(match (fate, request) {
                (Fate::Unsent, Some(request)) => Attempt::NotSent(request, failure),
                (Fate::Unprocessed, _) => Attempt::Refused(failure),
                (Fate::Unsent | Fate::Unknown, request) => Attempt::Lost(request, failure),
            })
        }
    }
}

fn classify(error: &SendError, traffic: &Traffic) -> Failure {
    let error = match error {
        SendError::Hyper(error) => error,
        SendError::Ended(detail) => return Failure::with(Reason::UpstreamReset, detail),
        SendError::Malformed(detail) => return Failure::with(Reason::UpstreamProtocol, detail),
    };
    let reason = if let Some(refused) = traffic.refused.get() {
        refused
    } else if traffic.request_broken.get() {
        // The exchange failed because the client broke off its own body.
        Reason::RequestBodyBroken
    } else if error.is_parse() || lease::cause(error).is_some_and(h2::Error::is_library) {
        Reason::UpstreamProtocol
    } else {
        Reason::UpstreamReset
    };
    let detail = match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    Failure::with(reason, detail)
}

/// A copy, when the body is at hand.
#[must_use]
pub fn copy_of(request: &Request<OutgoingBody>) -> Option<Request<OutgoingBody>> {
    let OutgoingBody::Whole(body) = request.body() else { return None };
    let mut copy = Request::new(OutgoingBody::Whole(body.clone()));
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    Some(copy)
}
