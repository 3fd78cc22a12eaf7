// SPDX-License-Identifier: Apache-2.0
//! Copies of requests to a second upstream, whose answers nobody waits for. A copy runs as a
//! task of its worker, among a bounded number; when that many are under way a new one is
//! dropped and counted. Whatever happens to a copy, its client's request does not notice.
//! `request` starts them.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_base::tasks::Tasks;
use http::header::HOST;
use http::{HeaderValue, Request};
use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::Upstreams;
use super::balance::Balancer;
use super::body::OutgoingBody;
use super::pick::PickInput;
use crate::access_log::Traffic;
use crate::deadline::Deadlines;
use crate::error::{Failure, Reason};
use crate::request::outbound::host_of;
use crate::router::Target;

/// The longest request body that is copied; a request with a longer one is not.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// Copies under way per worker; more are dropped.
const MAX_UNDER_WAY: usize = 128;

/// A copy that takes longer is given up.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// So much of an answer is read, so that its connection can be kept; of a longer one the
/// connection is closed.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// One worker's copies.
pub struct Mirrors {
    upstreams: Rc<Upstreams>,
    balancer: Rc<Balancer>,
    tasks: Tasks,
    permits: Arc<Semaphore>,
}

impl Mirrors {
    /// None under way yet.
    #[must_use]
    pub fn new(upstreams: Rc<Upstreams>, balancer: Rc<Balancer>, tasks: Tasks) -> Mirrors {
        Mirrors { upstreams, balancer, tasks, permits: Arc::new(Semaphore::new(MAX_UNDER_WAY)) }
    }

    /// Sends a copy, if it may have another.
    pub fn send(&self, target: Arc<Target>, request: Request<OutgoingBody>, client: IpAddr) {
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            self.upstreams.metrics.mirror_dropped.one();
            return;
        };
        self.upstreams.metrics.mirrored.one();
        let (upstreams, balancer) = (self.upstreams.clone(), self.balancer.clone());
        self.tasks.spawn_local("mirrored request", async move {
            let _permit = permit;
            if let Err(failure) = copy(&upstreams, &balancer, &target, request, client).await {
                tracing::debug!(%failure, target = target.name, "a mirrored request came to nothing");
            }
        });
    }
}

async fn copy(
    upstreams: &Upstreams,
    balancer: &Balancer,
    target: &Target,
    mut request: Request<OutgoingBody>,
    client: IpAddr,
) -> Result<(), Failure> {
    let headers = request.headers();
    let header = |name: &http::HeaderName| headers.get(name).map(HeaderValue::as_bytes);
    let mut picked = balancer.pick(target, &PickInput { header: &header, client, tried: &[] })?;
    let host = host_of(picked.endpoint())?;
    request.headers_mut().insert(HOST, host);
    let traffic = Traffic::default();
    traffic.request_complete.set(true);
    let deadlines = Deadlines { whole: Instant::now().checked_add(TIME_LIMIT), idle: None };
    let sent = upstreams.send(request, &picked, target.connect_timeout, &deadlines, &traffic).await;
    match &sent {
        Ok(reply) => picked.answered(reply.status()),
        Err(unanswered) => picked.failed(&unanswered.failure),
    }
    let reply = sent.map_err(|unanswered| unanswered.failure)?;
    let mut body = reply.into_body();
    let mut read = 0;
    while let Some(frame) = deadlines.bound(&traffic, body.frame()).await? {
        let frame = frame.map_err(|error| Failure::with(Reason::UpstreamReset, error))?;
        read += frame.data_ref().map_or(0, bytes::Bytes::len);
        if read > MAX_ANSWER_BYTES {
            return Ok(());
        }
    }
    body.give_back(&traffic);
    Ok(())
}
