// SPDX-License-Identifier: Apache-2.0
//! The walk where policies see bodies chunk by chunk. The steps are those of `walk`; but the
//! request's body goes through its policies while the upstream already answers, and the
//! response's while the client already reads. So the walk is one future that hands out the
//! response's head when it has one, and is then polled and dropped with the response's body.

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use ferrogate_policy::BodyNeed;
use http::header::CONTENT_LENGTH;
use http::{Method, Response};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use tokio::sync::{mpsc, oneshot};

use super::walk::{Live, Walk};
use super::{Routed, body, outbound};
use crate::access_log::{Record, Traffic};
use crate::coding::{Coding, Fault, Stream};
use crate::conn::io::InFlight;
use crate::conn::watch;
use crate::error::{Failure, Reason};
use crate::head::ResponseParts;
use crate::response::body::{ResponseBody, Source, UpstreamBody, WalkBody};
use crate::response::{self, Draft};
use crate::upstream::body::{BodyError, ClientBody, OutgoingBody};
use crate::worker::Worker;

type Frames = mpsc::Sender<Result<Frame<Bytes>, BodyError>>;

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

/// The client's body, and the coding it comes in.
struct Arriving {
    body: Incoming,
    coding: Option<Coding>,
    /// The coding that the header names once the header hooks are through.
    named: Option<Coding>,
}

/// The response on its way through its policies.
struct Departing {
    head: ResponseParts,
    body: UpstreamBody,
    codec: Option<Stream>,
}

/// Why the request's body stopped on its way.
type Stopped = RefCell<Option<Result<Draft, Failure>>>;

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
        Some(Ok(answer)) => Ok(Onward::Over(answer)),
        Some(Err(failure)) => Err(failure),
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

// The cell is not shared while this waits; the borrow is released before the pump starts.
#[allow(clippy::await_holding_refcell_ref)]
async fn ask<'a>(
    walk: &Walk<'a>,
    live: &RefCell<Live<'a>>,
    record: &mut Record,
) -> Result<Option<Draft>, Failure> {
    walk.ask(&mut live.borrow_mut(), record).await
}

/// The response's body through its policies to the client.
async fn stream<'a>(
    walk: &Walk<'a>,
    live: &RefCell<Live<'a>>,
    mut upstream: Departing,
    pump: &mut Pump<'_, impl Future<Output = ()>>,
    record: &mut Record,
    frames: &Frames,
) {
    loop {
        let frame = match pump.beside(response::next_frame(&mut upstream.body, record)).await {
            Ok(frame) => frame,
            Err(failure) => {
                record.fail(&failure, None);
                // The client learns by the broken body; nothing else can be said any more.
                let _gone = pump.beside(frames.send(Err(BodyError::TimedOut))).await;
                return;
            }
        };
        let (mut bytes, trailers, last) = parted(frame);
        if let Err(fault) = open(&mut upstream.codec, &mut bytes, last) {
            record.fail(&undecoded(fault, Reason::ResponseBodyInflated, Reason::UpstreamProtocol), None);
            let _gone = pump.beside(frames.send(Err(BodyError::Stopped))).await;
            return;
        }
        {
            let Live { head: request, exchange, run } = &mut *live.borrow_mut();
            let head = &mut upstream.head;
            let verdict = walk.chain.response_body(request, head, &mut bytes, last, exchange, run);
            if !matches!(verdict, Ok(ferrogate_policy::Verdict::Continue)) {
                let failure = Failure::with(Reason::PolicyFailed, "a policy stopped the response");
                record.fail(&failure, None);
                record.policy = run.decision().map(|decision| decision.policy);
                bytes.clear();
            }
        }
        if let Some(codec) = &mut upstream.codec {
            bytes = codec.close(bytes, last);
        }
        let size = bytes.len() as u64;
        let data = if record.reason.is_some() { Err(BodyError::Stopped) } else { Ok(Frame::data(bytes)) };
        let stop = data.is_err() || last;
        if (data.is_err() || size > 0) && pump.beside(frames.send(data)).await.is_err() {
            return;
        }
        record.traffic.sent.set(record.traffic.sent.get().saturating_add(size));
        if let Some(trailers) = trailers.filter(|_| record.reason.is_none())
            && pump.beside(frames.send(Ok(trailers))).await.is_err()
        {
            return;
        }
        if stop {
            record.complete = record.reason.is_none();
            return;
        }
    }
}

/// The request's body through its policies to the upstream.
async fn pump<'a>(
    walk: &Walk<'a>,
    live: &RefCell<Live<'a>>,
    incoming: &RefCell<Option<Arriving>>,
    to_upstream: Frames,
    traffic: &Rc<Traffic>,
    stopped: &Stopped,
) {
    let Some(Arriving { body: incoming, coding, named }) = incoming.take() else { return };
    let limit = walk.worker.shared.config.limits.request_decompressed_bytes;
    let mut codec = coding.map(|coding| Stream::new(coding, named, limit));
    // Complete only when the policies are through as well.
    let own = traffic.apart();
    let mut body = ClientBody::new(incoming, own.clone());
    loop {
        let frame = next_frame(&mut body, traffic).await;
        traffic.moved();
        traffic.received.set(own.received.get());
        let frame = match frame.transpose() {
            Ok(frame) => frame,
            Err(error) => {
                traffic.request_broken.set(true);
                traffic.refused.set(own.refused.get());
                let _gone = to_upstream.send(Err(error)).await;
                return;
            }
        };
        let (mut bytes, trailers, last) = parted(frame);
        if let Err(fault) = open(&mut codec, &mut bytes, last) {
            let failure = undecoded(fault, Reason::RequestBodyInflated, Reason::RequestBodyBroken);
            stopped.replace(Some(Err(failure)));
        }
        if stopped.borrow().is_none() {
            let Live { head, exchange, run } = &mut *live.borrow_mut();
            match walk.chain.request_body(head, &mut bytes, last, exchange, run) {
                // Nobody can ask here: the chain makes a failure of it.
                Ok(ferrogate_policy::Verdict::Continue | ferrogate_policy::Verdict::Ask) => {}
                Ok(ferrogate_policy::Verdict::Answer(answer)) => {
                    stopped.replace(Some(Ok(Draft::of_answer(answer))));
                }
                Err(failure) => {
                    stopped.replace(Some(Err(Failure::with(Reason::PolicyFailed, failure))));
                }
            }
        }
        if let Some(codec) = &mut codec {
            bytes = codec.close(bytes, last);
        }
        let empty = bytes.is_empty();
        let data = if stopped.borrow().is_some() { Err(BodyError::Stopped) } else { Ok(Frame::data(bytes)) };
        let stop = data.is_err();
        if (stop || !empty) && to_upstream.send(data).await.is_err() {
            return;
        }
        if stop {
            return;
        }
        if let Some(trailers) = trailers
            && to_upstream.send(Ok(trailers)).await.is_err()
        {
            return;
        }
        if last {
            traffic.request_complete.set(true);
            return;
        }
    }
}

/// A frame's bytes, its trailers, and whether it is the last. Trailers end the body: the
/// policies must have their last word before they go out.
fn parted(frame: Option<Frame<Bytes>>) -> (Bytes, Option<Frame<Bytes>>, bool) {
    match frame.map(Frame::into_data) {
        Some(Ok(bytes)) => (bytes, None, false),
        Some(Err(trailers)) => (Bytes::new(), Some(trailers), true),
        None => (Bytes::new(), None, true),
    }
}

/// The body's next frame; `traffic` knows meanwhile who is waited for.
async fn next_frame(body: &mut ClientBody, traffic: &Traffic) -> Option<Result<Frame<Bytes>, BodyError>> {
    let mut frame = pin!(body.frame());
    std::future::poll_fn(|cx| {
        let polled = frame.as_mut().poll(cx);
        traffic.client_silent.set(polled.is_pending());
        polled
    })
    .await
}

/// Puts what a part stands for in its place.
fn open(codec: &mut Option<Stream>, part: &mut Bytes, last: bool) -> Result<(), Fault> {
    if let Some(codec) = codec {
        *part = codec.open(part, last)?;
    }
    Ok(())
}

/// What a body that cannot be decoded comes to once a part of it may be on its way.
fn undecoded(fault: Fault, too_large: Reason, malformed: Reason) -> Failure {
    match fault {
        Fault::TooLarge => Failure::with(too_large, "one part decompresses to more than the ceiling"),
        Fault::Malformed => Failure::with(malformed, "the body is not in the coding that its header names"),
    }
}

/// The pump, polled beside whatever the walk waits for.
struct Pump<'p, F> {
    running: bool,
    future: Pin<&'p mut F>,
}

impl<F: Future<Output = ()>> Pump<'_, F> {
    async fn beside<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        std::future::poll_fn(|cx| {
            if self.running {
                self.running = self.future.as_mut().poll(cx).is_pending();
            }
            match work.as_mut().poll(cx) {
                Poll::Ready(done) => Poll::Ready(done),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }
}
