// SPDX-License-Identifier: Apache-2.0
//! Bodies on their way through policies, part by part: [`pump`] takes the request's to the
//! upstream, [`stream`] the response's to the client, each opening and closing a coding on the
//! way. [`Pump`] is the first, polled beside whatever the walk waits for. The walk in `super`
//! starts them once it knows that a body is to be seen so.

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use ferrogate_policy::Verdict;
use ferrogate_policy::chain::PolicyFailure;
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use tokio::sync::mpsc;

use crate::access_log::{Record, Traffic};
use crate::coding::{Coding, Fault, Stream};
use crate::error::{Failure, Reason};
use crate::head::ResponseParts;
use crate::request::walk::{Live, Walk};
use crate::response;
use crate::response::body::UpstreamBody;
use crate::upstream::body::{BodyError, ClientBody};

/// Where a body's frames go.
pub(super) type Frames = mpsc::Sender<Result<Frame<Bytes>, BodyError>>;

/// The client's body, and the coding it comes in.
pub(super) struct Arriving {
    /// The body.
    pub(super) body: Incoming,
    /// The coding it comes in.
    pub(super) coding: Option<Coding>,
    /// The coding that the header names once the header hooks are through.
    pub(super) named: Option<Coding>,
}

/// The response on its way through its policies.
pub(super) struct Departing {
    /// Its head, as its policies know it.
    pub(super) head: ResponseParts,
    /// Its body.
    pub(super) body: UpstreamBody,
    /// What undoes the body's coding for them, and does it again.
    pub(super) codec: Option<Stream>,
}

/// Why the request's body stopped on its way.
pub(super) enum Stop {
    /// A policy would have it so.
    Policy(Result<Verdict, PolicyFailure>),
    /// It cannot be passed on.
    Broken(Failure),
}

/// Where the pump says so.
pub(super) type Stopped = RefCell<Option<Stop>>;

/// The pump, polled beside whatever the walk waits for.
pub(super) struct Pump<'p, F> {
    /// The request's body is to be seen part by part.
    pub(super) running: bool,
    /// The pump.
    pub(super) future: Pin<&'p mut F>,
}

impl<F: Future<Output = ()>> Pump<'_, F> {
    /// Waits for this while the pump goes on.
    pub(super) async fn beside<T>(&mut self, work: impl Future<Output = T>) -> T {
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

/// The response's body through its policies to the client.
pub(super) async fn stream<'a>(
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
            // The head is out: an answer has no place left, and the client learns by the broken body.
            let failure = match walk.settle(verdict, run, record) {
                Ok(None) => None,
                Ok(Some(_)) => Some(Failure::with(Reason::PolicyFailed, "a policy stopped the response")),
                Err(failure) => Some(failure),
            };
            if let Some(failure) = failure {
                record.fail(&failure, None);
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
pub(super) async fn pump<'a>(
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
            stopped.replace(Some(Stop::Broken(failure)));
        }
        if stopped.borrow().is_none() {
            let Live { head, exchange, run } = &mut *live.borrow_mut();
            match walk.chain.request_body(head, &mut bytes, last, exchange, run) {
                Ok(Verdict::Continue) => {}
                verdict @ (Ok(Verdict::Ask | Verdict::Answer(_)) | Err(_)) => {
                    stopped.replace(Some(Stop::Policy(verdict)));
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
