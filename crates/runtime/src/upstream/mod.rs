// SPDX-License-Identifier: Apache-2.0
//! One request to one upstream: a kept or a new connection, the request sent, the
//! response's head awaited under the route's deadlines. A request is sent a second time
//! only when the first time provably reached nobody, or when it is safe to repeat and the
//! kept connection turned out stale. `request` calls it; the response goes to `response`.

pub mod balance;
pub mod body;
mod choose;
pub mod circuit;
pub mod connect;
pub mod group;
pub mod hash;
pub mod health;
pub mod mirror;
pub mod outlier;
pub mod pick;
pub mod pool;
mod probe;
pub mod retry;
pub mod states;
pub mod steering;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;

use self::body::OutgoingBody;
use self::connect::Connector;
use self::pick::Picked;
use self::pool::{Lease, Pool};
use self::retry::is_idempotent;
use crate::access_log::Traffic;
use crate::deadline::Deadlines;
use crate::error::{Failure, Reason};
use crate::metrics::WorkerMetrics;

/// One worker's way to the upstreams.
pub struct Upstreams {
    /// Kept connections.
    pub pool: Rc<Pool>,
    /// New connections.
    pub connector: Connector,
    /// The worker's counts.
    pub metrics: Arc<WorkerMetrics>,
}

/// A response whose head has arrived.
pub struct Reply {
    /// Head and body.
    pub response: Response<Incoming>,
    /// The connection it comes on.
    pub lease: Lease,
}

/// There is no response.
pub struct Unanswered {
    /// Why.
    pub failure: Failure,
    /// The request, when provably nothing of it was sent.
    pub unsent: Option<Request<OutgoingBody>>,
}

impl From<Failure> for Unanswered {
    /// The upstream may have seen the request.
    fn from(failure: Failure) -> Unanswered {
        Unanswered { failure, unsent: None }
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
        let endpoint = picked.endpoint();
        if let Some(mut lease) = self.pool.take(endpoint) {
            let spare = repeatable(&request);
            match attempt(&mut lease, request, deadlines, traffic).await? {
                Attempt::Answered(response) => {
                    self.metrics.upstream_reused.one();
                    return Ok(Reply { response, lease });
                }
                Attempt::NotSent(unsent, _) => request = unsent,
                Attempt::Lost(failure) => match spare {
                    Some(spare) if failure.reason == Reason::UpstreamReset => request = spare,
                    Some(_) | None => return Err(failure.into()),
                },
            }
            self.metrics.upstream_retried.one();
        }
        // The second time on a connection of its own: a kept one could be as stale.
        let opened = match deadlines.bound(traffic, self.open(picked, connect_timeout)).await {
            Ok(opened) => opened,
            Err(late) => Err(late),
        };
        let mut lease = match opened {
            Ok(lease) => lease,
            Err(failure) => return Err(Unanswered { failure, unsent: Some(request) }),
        };
        match attempt(&mut lease, request, deadlines, traffic).await? {
            Attempt::Answered(response) => Ok(Reply { response, lease }),
            Attempt::NotSent(request, failure) => Err(Unanswered { failure, unsent: Some(request) }),
            Attempt::Lost(failure) => Err(failure.into()),
        }
    }

    /// A new connection, once the endpoint may have another.
    async fn open(&self, picked: &Picked<'_>, limit: Duration) -> Result<Lease, Failure> {
        let begun = Instant::now();
        let admitted = tokio::time::timeout(limit, picked.admit_connection()).await.map_err(|_| {
            Failure::with(Reason::Overflow, format!("no connection became free within {limit:?}"))
        })?;
        let counted = admitted?;
        let sender = self.connector.connect(picked.endpoint(), limit.saturating_sub(begun.elapsed())).await?;
        self.metrics.upstream_opened.one();
        Ok(self.pool.lease(picked.endpoint(), sender, counted))
    }
}

enum Attempt {
    Answered(Response<Incoming>),
    /// The connection closed before a byte was written.
    NotSent(Request<OutgoingBody>, Failure),
    /// The upstream may have seen it.
    Lost(Failure),
}

async fn attempt(
    lease: &mut Lease,
    request: Request<OutgoingBody>,
    deadlines: &Deadlines,
    traffic: &Traffic,
) -> Result<Attempt, Failure> {
    // A connection given back a moment ago may still be finishing its last exchange.
    if !lease.sender.is_ready()
        && let Err(error) = deadlines.bound(traffic, lease.sender.ready()).await?
    {
        return Ok(Attempt::NotSent(request, Failure::with(Reason::UpstreamReset, error)));
    }
    match deadlines.bound(traffic, lease.sender.try_send_request(request)).await? {
        Ok(response) => Ok(Attempt::Answered(response)),
        Err(mut error) => {
            let unsent = error.take_message();
            let failure = classify(error.error(), traffic);
            Ok(match unsent {
                Some(request) => Attempt::NotSent(request, failure),
                None => Attempt::Lost(failure),
            })
        }
    }
}

fn classify(error: &hyper::Error, traffic: &Traffic) -> Failure {
    let reason = if traffic.request_broken.get() {
        // The exchange failed because the client broke off its own body.
        Reason::RequestBodyBroken
    } else if error.is_parse() {
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

/// A copy to send again, when sending twice changes nothing (RFC 9110, 9.2.2) and the body
/// is at hand.
fn repeatable(request: &Request<OutgoingBody>) -> Option<Request<OutgoingBody>> {
    is_idempotent(request.method()).then(|| copy_of(request)).flatten()
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
