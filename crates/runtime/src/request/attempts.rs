// SPDX-License-Identifier: Apache-2.0
//! The way of a finished request to its upstream: once for nearly all routes; for those that
//! ask for it after an injected fault, with a copy elsewhere, and again where the retry
//! policy, its budget and the request itself allow it. `walk` calls it and gets the one
//! response that counts.

use std::pin::pin;

use http::Request;
use http::header::HOST;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::outbound::host_of;
use super::walk::{Outgoing, Walk};
use crate::access_log::Record;
use crate::error::{Failure, Reason};
use crate::upstream::body::OutgoingBody;
use crate::upstream::pick::{Guard, PickInput, Picked, Tried};
use crate::upstream::retry::{Ended, Retry, is_idempotent};
use crate::upstream::steering::{Steering, inject};
use crate::upstream::{Reply, Unanswered, copy_of};

/// How one attempt ended.
type Attempt = Result<Reply, Unanswered>;

/// Sends the request; the response, and what to hold while its body is read.
///
/// # Errors
/// When there is no response to pass on.
pub async fn send<'a>(
    walk: &Walk<'a>,
    mut outgoing: Outgoing<'a>,
    record: &mut Record,
) -> Result<(Reply, Option<Guard>), Failure> {
    if let Some(steering) = walk.route.steering.as_deref() {
        fail_on_purpose(walk, steering, record).await?;
        mirror(walk, steering, &outgoing);
        if let Some(retry) = &steering.retry {
            // In a box: few routes ask for it, and every request would have room for it.
            return Box::pin(repeatedly(walk, retry, outgoing, record)).await;
        }
    }
    let sent = once(walk, outgoing.request, &mut outgoing.picked, outgoing.target, record).await;
    sent.map(|reply| (reply, outgoing.picked.into_guard())).map_err(|unanswered| unanswered.failure)
}

async fn once(
    walk: &Walk<'_>,
    request: Request<OutgoingBody>,
    picked: &mut Picked<'_>,
    target: &crate::router::Target,
    record: &Record,
) -> Attempt {
    let upstreams = &walk.worker.upstreams;
    let sent =
        upstreams.send(request, picked, target.connect_timeout, &walk.deadlines, &record.traffic).await;
    match &sent {
        Ok(reply) => picked.answered(reply.status()),
        Err(unanswered) => picked.failed(&unanswered.failure),
    }
    sent
}

async fn repeatedly<'a>(
    walk: &Walk<'a>,
    retry: &Retry,
    outgoing: Outgoing<'a>,
    record: &mut Record,
) -> Result<(Reply, Option<Guard>), Failure> {
    let Outgoing { mut request, mut picked, target, client, names_endpoint, .. } = outgoing;
    let _under_way = retry.begin();
    let spare = copy_of(&request);
    let repeatable = spare.is_some() && is_idempotent(request.method());
    let mut tried: SmallVec<[Tried<'a>; 2]> = SmallVec::new();
    let mut retries = 0;
    let mut _running = None;
    loop {
        let (mut attempt, timed_out) = within(walk, retry, request, &mut picked, target, record).await;
        let again = async {
            let ended = match &attempt {
                Ok(reply) => Ended::Answered(reply.status()),
                Err(_) if timed_out => Ended::TimedOut,
                Err(unanswered) => Ended::Failed { failure: &unanswered.failure, sent: unanswered.seen },
            };
            if !retry.applies(ended, repeatable) {
                return None;
            }
            let unsent = attempt.as_mut().err().and_then(|unanswered| unanswered.unsent.take());
            let mut next = unsent.or_else(|| spare.as_ref().and_then(copy_of))?;
            tried.push(picked.tried());
            let dice = walk.worker.balancer.with_dice(fastrand::Rng::f64);
            let (running, wait) = retry.take(retries, dice)?;
            // Or a full endpoint would refuse the retry for the attempt that it follows.
            picked.leave();
            walk.deadlines.bound(&record.traffic, tokio::time::sleep(wait)).await.ok()?;
            let header = |name: &http::HeaderName| next.headers().get(name).map(http::HeaderValue::as_bytes);
            let input = PickInput { header: &header, client, tried: &tried };
            // With no endpoint to try, what the last one said stands.
            let picked = walk.worker.balancer.pick(target, &input).ok()?;
            if names_endpoint {
                let host = host_of(picked.endpoint()).ok()?;
                next.headers_mut().insert(HOST, host);
            }
            Some((next, picked, running))
        }
        .await;
        let Some((next, another, running)) = again else {
            return attempt
                .map(|reply| (reply, picked.into_guard()))
                .map_err(|unanswered| unanswered.failure);
        };
        record.note_upstream(another.endpoint(), next.uri());
        walk.worker.metrics.upstream_retries.one();
        (request, picked) = (next, another);
        // The retry before this one is over; only then is it no longer counted.
        _running = Some(running);
        retries += 1;
    }
}

/// One attempt within its own time, which runs while the upstream has the whole request; whether
/// that ran out.
async fn within(
    walk: &Walk<'_>,
    retry: &Retry,
    request: Request<OutgoingBody>,
    picked: &mut Picked<'_>,
    target: &crate::router::Target,
    record: &Record,
) -> (Attempt, bool) {
    let Some(limit) = retry.per_try_timeout() else {
        return (once(walk, request, picked, target, record).await, false);
    };
    let traffic = record.traffic.clone();
    traffic.asked.set(None);
    {
        let mut attempt = pin!(once(walk, request, picked, target, record));
        loop {
            let asked = traffic.asked_since();
            let due = asked.unwrap_or_else(Instant::now) + limit;
            match tokio::time::timeout_at(due, attempt.as_mut()).await {
                Ok(attempt) => return (attempt, false),
                // It waited for a connection, or for its client, and not for the upstream.
                Err(_) if traffic.asked_since().is_none_or(|asked| asked + limit > Instant::now()) => {}
                Err(_) => break,
            }
        }
        // What is dropped here is the attempt: its connection is closed with it.
    }
    let failure = Failure::with(Reason::UpstreamTimeout, format!("no response within {limit:?}"));
    picked.failed(&failure);
    (Err(failure.into()), true)
}

/// Delays the request, or fails it, by the route's fault.
async fn fail_on_purpose(walk: &Walk<'_>, steering: &Steering, record: &Record) -> Result<(), Failure> {
    let Some(fault) = &steering.fault else { return Ok(()) };
    let injected = walk.worker.balancer.with_dice(|dice| inject(fault, dice));
    if let Some(delay) = injected.delay {
        walk.deadlines.bound(&record.traffic, tokio::time::sleep(delay)).await?;
    }
    match injected.abort {
        Some(status) => Err(Failure { status: Some(status), ..Failure::new(Reason::FaultInjected) }),
        None => Ok(()),
    }
}

/// Starts a copy elsewhere, when there is to be one and the body is at hand.
fn mirror(walk: &Walk<'_>, steering: &Steering, outgoing: &Outgoing<'_>) {
    let (Some(mirror), Some(uri)) = (&steering.mirror, &outgoing.mirror_uri) else { return };
    let wanted = walk.worker.balancer.with_dice(|dice| dice.u8(..100)) < mirror.percent;
    if !wanted {
        return;
    }
    match copy_of(&outgoing.request) {
        Some(mut copy) => {
            copy.uri_mut().clone_from(uri);
            walk.worker.mirrors.send(mirror.target.clone(), copy, outgoing.client);
        }
        None => walk.worker.metrics.mirror_dropped.one(),
    }
}
