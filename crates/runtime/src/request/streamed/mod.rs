// SPDX-License-Identifier: Apache-2.0
//! The walk where policies see bodies chunk by chunk. The steps are those of `walk`; but the
//! request's body goes through its policies while the upstream already answers, and the
//! response's while the client already reads. So the walk is one future that hands out the
//! response's head when it has one, and is then polled and dropped with the response's body.
//! What becomes of the bodies' parts stands in `bodies`.

mod bodies;

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;

use bytes::Bytes;
use ferrogate_policy::BodyNeed;
use http::header::CONTENT_LENGTH;
use http::{Method, Response};
use hyper::body::{Body, Frame, Incoming};
use tokio::sync::{mpsc, oneshot};

use self::bodies::{Arriving, Departing, Frames, Pump, Stop, Stopped, pump, stream};

use super::walk::{Live, Walk};
use super::{Routed, body, outbound};
use crate::access_log::Record;
use crate::coding::{Coding, Stream};
use crate::conn::io::InFlight;
use crate::conn::watch;
use crate::error::{Failure, Reason};
use crate::head::ResponseParts;
use crate::response::Draft;
use crate::response::body::{ResponseBody, Source, UpstreamBody, WalkBody};
use crate::upstream::body::{BodyError, OutgoingBody};
use crate::worker::Worker;

/// What the walk hands out when the response's head is there.
enum Begun {
    /// The response is complete, or flows without policies: the walk is over.
    Over(Response<Source>, Box<Record>),
    /// The walk goes on and makes the body.
    Streaming(Response<()>),
}

/// Where the walk puts what it makes.
struct Out {
    begun: oneshot::Sender<Begun>,
    frames: Frames,
}

/// Where the response's body goes from here.
enum Onward {
    Over(Draft),
    /// The body comes in this coding.
    Stream(Draft, UpstreamBody, Option<Coding>),
}

/// Serves a request on a route with a policy that sees chunks.
pub async fn serve(
    worker: Rc<Worker>,
    routed: Routed,
    incoming: Incoming,
    record: Box<Record>,
    in_flight: InFlight,
) -> Response<ResponseBody> {
    let deadlines = record.deadlines_on(&routed.route);
    let traffic = record.traffic.clone();
    let (begun, head) = oneshot::channel();
    let (sender, frames) = mpsc::channel(1);
    let mut walk: Pin<Box<dyn Future<Output = ()>>> =
        Box::pin(run(worker, routed, incoming, record, Out { begun, frames: sender }));
    let mut head = pin!(head);
    let mut running = true;
    let begun = std::future::poll_fn(|cx| {
        running = running && walk.as_mut().poll(cx).is_pending();
        head.as_mut().poll(cx)
    })
    .await;
    match begun {
        Ok(Begun::Over(response, record)) => {
            let (parts, source) = response.into_parts();
            Response::from_parts(parts, ResponseBody::new(source, Some(record), in_flight))
        }
        Ok(Begun::Streaming(response)) => {
            let source = Source::Walk(WalkBody { walk: running.then_some(walk), frames });
            let watched = watch::begin(deadlines, traffic);
            response.map(|()| ResponseBody::new(source, None, in_flight).watched(watched))
        }
        // The walk always hands out a head before it ends; a panic does not come this far.
        Err(_) => {
            let (answer, _) = Failure::new(Reason::Internal).answer();
            let source = Source::Whole(Some(answer.body));
            let mut response = Response::new(ResponseBody::new(source, None, in_flight));
            *response.status_mut() = answer.status;
            response
        }
    }
}

async fn run(worker: Rc<Worker>, routed: Routed, incoming: Incoming, mut record: Box<Record>, out: Out) {
    // Nothing is switched where policies see bodies.
    let Routed { route, chain, head, client, certificate, original_path, switch: _ } = routed;
    let request_id = record.request_id.clone();
    let walk = Walk::new(&worker, &route, &chain, &original_path, &record);
    let live = walk.live(head, &request_id, client, certificate);
    let method = live.head.current_method().clone();
    let stopped = Stopped::default();
    let traffic = record.traffic.clone();
    let live = RefCell::new(live);
    let (to_upstream, chunks) = mpsc::channel(1);
    let coding = Coding::of(&live.borrow().head.headers);
    let incoming = RefCell::new(Some(Arriving { body: incoming, coding, named: None }));
    let mut pump =
        Pump { running: false, future: pin!(pump(&walk, &live, &incoming, to_upstream, &traffic, &stopped)) };

    let drafted = draft(&walk, &live, &incoming, chunks, &mut pump, &method, &mut record).await;
    // A policy that stopped the request's body has the last word while nothing is sent yet.
    let drafted = match stopped.take() {
        Some(Stop::Policy(verdict)) => match walk.settle(verdict, &live.borrow().run, &mut record) {
            Ok(Some(answer)) => Ok(Onward::Over(answer)),
            Ok(None) => drafted,
            Err(failure) => Err(failure),
        },
        Some(Stop::Broken(failure)) => Err(failure),
        None => drafted,
    };
    match drafted {
        Ok(Onward::Stream(draft, upstream, coding)) => {
            let head = ResponseParts { status: draft.head.status, headers: draft.head.headers.clone() };
            let limit = worker.shared.config.limits.response_decompressed_bytes;
            let codec = coding.map(|coding| Stream::new(coding, Coding::of(&head.headers), limit));
            let response = draft.finish(&worker, &mut record, |_| ());
            if out.begun.send(Begun::Streaming(response)).is_err() {
                return;
            }
            let upstream = Departing { head, body: upstream, codec };
            stream(&walk, &live, upstream, &mut pump, &mut record, &out.frames).await;
            // Whoever stopped the request's body after the head was out has no answer, but a name.
            if let Some(Stop::Policy(verdict)) = stopped.take()
                && let Err(failure) = walk.settle(verdict, &live.borrow().run, &mut record)
                && record.reason.is_none()
            {
                record.fail(&failure, None);
            }
        }
        Ok(Onward::Over(draft)) => over(&worker, draft, record, out.begun),
        Err(failure) => {
            let draft = Draft::of_failure(&failure, &mut record);
            over(&worker, draft, record, out.begun);
        }
    }
}

fn over(worker: &Worker, draft: Draft, mut record: Box<Record>, begun: oneshot::Sender<Begun>) {
    let response = draft.finish(worker, &mut record, |source| source);
    // When nobody takes it, the client is gone and the record says so as it drops.
    if let Err(Begun::Over(_, _) | Begun::Streaming(_)) = begun.send(Begun::Over(response, record)) {
        tracing::trace!("the client left before its answer");
    }
}

/// Everything up to the response's head.
async fn draft<'a>(
    walk: &Walk<'a>,
    live: &RefCell<Live<'a>>,
    incoming: &RefCell<Option<Arriving>>,
    chunks: mpsc::Receiver<Result<Frame<Bytes>, BodyError>>,
    pump: &mut Pump<'_, impl Future<Output = ()>>,
    method: &Method,
    record: &mut Record,
) -> Result<Onward, Failure> {
    // Nothing else holds the cell yet: the pump has not been started.
    if let Some(answer) = ask(walk, live, record).await? {
        return Ok(Onward::Over(answer));
    }
    let Some(taken) = incoming.take() else { return Err(Failure::new(Reason::Internal)) };
    let need = walk.chain.request_body_need();
    let stream_request = need == BodyNeed::Streamed
        && !taken.body.is_end_stream()
        && outbound::is_stream(&live.borrow().head, taken.body.size_hint().exact());
    let limit = walk.worker.shared.config.limits.body_buffer_bytes;
    let body = if stream_request {
        let named = Coding::of(&live.borrow().head.headers);
        incoming.replace(Some(Arriving { named, ..taken }));
        live.borrow_mut().head.headers.remove(CONTENT_LENGTH);
        pump.running = true;
        OutgoingBody::Chunks(chunks)
    } else if need == BodyNeed::None {
        body::pass(taken.body, &record.traffic)
    } else {
        let raw = body::gather(taken.body, &record.traffic, &walk.deadlines, limit).await?;
        let opened = walk.open_request(taken.coding, raw).await?;
        let mut bytes = opened.plain();
        if let Some(answer) = walk.ask_body(&mut live.borrow_mut(), &mut bytes, true, record)? {
            return Ok(Onward::Over(answer));
        }
        let coding = Coding::of(&live.borrow().head.headers);
        body::whole(opened.close(coding, bytes).await)
    };
    let outgoing = walk.outgoing(&mut live.borrow_mut(), body, record);
    let mut draft = pump.beside(walk.reply(outgoing, None, record)).await?;
    let coding = Coding::of(&draft.head.headers);
    if let Some(answer) = walk.tell(&mut live.borrow_mut(), &mut draft.head, record)? {
        return Ok(Onward::Over(answer));
    }
    let need = walk.chain.response_body_need();
    if need == BodyNeed::None {
        return Ok(Onward::Over(draft));
    }
    let length = match &draft.source {
        Source::Upstream(body) => body.size().exact(),
        Source::Whole(_) | Source::Walk(_) | Source::Switched(_) => Some(0),
    };
    let stream_response =
        need == BodyNeed::Streamed && draft.may_have_body(method) && outbound::is_stream(&draft.head, length);
    if stream_response
        && let Source::Upstream(upstream) = std::mem::replace(&mut draft.source, Source::Whole(None))
    {
        draft.head.headers.remove(CONTENT_LENGTH);
        return Ok(Onward::Stream(draft, upstream, coding));
    }
    let raw = pump.beside(walk.gather(&mut draft, method, record)).await?;
    let opened = pump.beside(walk.open_response(coding, raw)).await?;
    let mut bytes = opened.plain();
    if let Some(answer) = walk.tell_body(&mut live.borrow_mut(), &mut draft, &mut bytes, record)? {
        return Ok(Onward::Over(answer));
    }
    let coding = Coding::of(&draft.head.headers);
    draft.replace_body(method, pump.beside(opened.close(coding, bytes)).await);
    Ok(Onward::Over(draft))
}

#[expect(
    clippy::await_holding_refcell_ref,
    reason = "the cell is not shared while this waits: the borrow is released before the pump starts"
)]
async fn ask<'a>(
    walk: &Walk<'a>,
    live: &RefCell<Live<'a>>,
    record: &mut Record,
) -> Result<Option<Draft>, Failure> {
    walk.ask(&mut live.borrow_mut(), record).await
}
