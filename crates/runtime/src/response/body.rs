// SPDX-License-Identifier: Apache-2.0
//! Response bodies on their way to the client. The upstream's flows through at the client's
//! pace, under the route's deadlines; at its end the connection goes back to the pool. Every
//! body carries the request's record, so that a request ends when its last byte is out or
//! its client is gone, whichever happens first.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use crate::access_log::Record;
use crate::conn::io::InFlight;
use crate::conn::watch::{self, Watched};
use crate::deadline::{BodyTimer, Deadlines};
use crate::error::Reason;
use crate::hop;
use crate::upgrade::Switched;
use crate::upstream::body::BodyError;
use crate::upstream::pick::Guard;
use crate::upstream::reply::ReplyBody;

/// The body of a response to a client.
pub struct ResponseBody {
    source: Source,
    // The record is written before the connection counts as idle: fields drop in order.
    record: Option<Box<Record>>,
    watched: Option<Watched>,
    _in_flight: Option<InFlight>,
}

/// Where the bytes come from.
pub enum Source {
    /// Memory.
    Whole(Option<Bytes>),
    /// The upstream.
    Upstream(UpstreamBody),
    /// A request walk that goes on beside its response, because policies see every chunk.
    Walk(WalkBody),
    /// Nothing: the connection switches to another protocol.
    Switched(Box<Switched>),
}

/// The upstream's body, and the connection it comes on.
pub struct UpstreamBody {
    /// Gone when it is through.
    incoming: Option<ReplyBody>,
    /// The endpoint counts the request as under way until the body is through.
    guard: Option<Box<Guard>>,
    deadlines: Deadlines,
    timer: BodyTimer,
}

/// What a walk produces after the response's head.
pub struct WalkBody {
    /// The walk; polled with the body, dropped with it.
    pub walk: Option<Pin<Box<dyn Future<Output = ()>>>>,
    /// Its product.
    pub frames: mpsc::Receiver<Result<Frame<Bytes>, BodyError>>,
}

impl Source {
    /// How many bytes will come, where that is known.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        match self {
            Source::Whole(bytes) => Some(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Source::Upstream(body) => body.size().exact(),
            Source::Walk(_) => None,
            Source::Switched(_) => Some(0),
        }
    }
}

impl UpstreamBody {
    /// The body of a reply.
    #[must_use]
    pub fn new(incoming: ReplyBody, deadlines: Deadlines) -> UpstreamBody {
        UpstreamBody { incoming: Some(incoming), guard: None, deadlines, timer: BodyTimer::default() }
    }

    /// The same, of an endpoint that is told when the body is through.
    #[must_use]
    pub fn guarded(mut self, guard: Option<Guard>) -> UpstreamBody {
        self.guard = guard.map(Box::new);
        self
    }

    /// The next frame, for a walk that reads the body itself.
    ///
    /// # Errors
    /// When the upstream broke off or a deadline passed; the record then says which.
    pub fn poll_next(
        &mut self,
        record: &mut Record,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        match Pin::new(&mut *incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                record.traffic.moved();
                if incoming.is_end_stream() {
                    self.finish(record);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                self.finish(record);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                record.reason = Some(Reason::UpstreamReset);
                record.detail = format!("the response broke off: {error}");
                Poll::Ready(Some(Err(error)))
            }
            Poll::Pending => {
                let reason = ready!(self.deadlines.poll_overdue(&mut self.timer, &record.traffic, cx));
                record.reason = Some(reason);
                record.detail = "the response was cut off".to_owned();
                Poll::Ready(Some(Err(BodyError::TimedOut)))
            }
        }
    }

    /// Both directions are through, as far as this one knows: the connection may be kept.
    pub fn finish(&mut self, record: &Record) {
        if let Some(incoming) = self.incoming.take() {
            incoming.give_back(&record.traffic);
        }
        drop(self.guard.take());
    }

    /// Whether nothing is to come.
    #[must_use]
    pub fn is_end(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    /// What is known of its length.
    #[must_use]
    pub fn size(&self) -> SizeHint {
        self.incoming.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl ResponseBody {
    /// A body that ends the request when it ends.
    #[must_use]
    pub fn new(source: Source, record: Option<Box<Record>>, in_flight: InFlight) -> ResponseBody {
        let mut body = ResponseBody { source, record, watched: None, _in_flight: Some(in_flight.answered()) };
        // hyper does not poll a body that has nothing to give.
        if body.is_end_stream() {
            body.end();
        } else if let Some(record) = &body.record {
            let deadlines = record.deadlines();
            body.watched = deadlines.and_then(|deadlines| watch::begin(deadlines, record.traffic.clone()));
        }
        body
    }

    /// The body of a response that has none and whose request goes on elsewhere.
    #[must_use]
    pub fn none() -> ResponseBody {
        ResponseBody { source: Source::Whole(None), record: None, watched: None, _in_flight: None }
    }

    /// Bounded by what a walk says that goes on beside it.
    #[must_use]
    pub fn watched(mut self, watched: Option<Watched>) -> ResponseBody {
        self.watched = watched;
        self
    }

    /// The last byte was handed to the connection.
    fn end(&mut self) {
        self.watched = None;
        if let Some(record) = &mut self.record {
            if let Source::Upstream(body) = &mut self.source {
                body.finish(record);
            }
            record.complete = true;
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = match (&mut this.source, &mut this.record) {
            (Source::Whole(bytes), _) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            (Source::Upstream(body), Some(record)) => ready!(body.poll_next(record, cx)),
            // An upstream's body always comes with its record; without it there is nothing to say.
            (Source::Upstream(_), None) => None,
            (Source::Walk(body), _) => ready!(body.poll_next(cx)),
            // Reached only when a policy made another answer of the switch.
            (Source::Switched(_), _) => None,
        };
        let frame = frame.and_then(hop::passing);
        if let (Some(Ok(frame)), Some(record)) = (&frame, &this.record) {
            let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
            record.traffic.sent.set(record.traffic.sent.get().saturating_add(bytes));
        }
        match &frame {
            Some(Err(_)) => {}
            // Trailers are the last; nobody polls again.
            Some(Ok(frame)) if frame.is_trailers() => this.end(),
            Some(Ok(_)) if !this.is_end_stream() => {}
            Some(Ok(_)) | None => this.end(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Source::Upstream(body) => body.is_end(),
            Source::Walk(_) => false,
            Source::Switched(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Source::Upstream(body) => body.size(),
            Source::Walk(_) => SizeHint::default(),
            Source::Switched(_) => SizeHint::with_exact(0),
        }
    }
}

impl WalkBody {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Poll::Ready(frame) = self.frames.poll_recv(cx) {
            return Poll::Ready(frame);
        }
        if let Some(walk) = &mut self.walk
            && walk.as_mut().poll(cx).is_ready()
        {
            self.walk = None;
        }
        // The walk may have made a frame just now, or dropped its end of the channel.
        self.frames.poll_recv(cx)
    }
}
