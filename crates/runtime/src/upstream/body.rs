// SPDX-License-Identifier: Apache-2.0
//! Request bodies on their way to an upstream: nothing, the whole in memory, or the
//! client's own, chunk by chunk with the upstream's pace as back-pressure. The client's
//! body counts its bytes and says when it is complete, because a connection whose request
//! is still being sent must not be used for another.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::mpsc;

use crate::access_log::Traffic;
use crate::hop;

/// Why a body could not be sent on.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The sender broke off.
    #[error("the body ended early")]
    Broken(#[from] hyper::Error),
    /// Its connection ended before it.
    #[error("the body ended early")]
    Ended,
    /// Its connection failed.
    #[error("the body ended early")]
    Failed(#[source] std::io::Error),
    /// It is not framed as it must be.
    #[error("{0}")]
    Malformed(&'static str),
    /// A deadline passed between two chunks.
    #[error("the body took too long")]
    TimedOut,
    /// It is longer than allowed.
    #[error("the body is longer than allowed")]
    TooLarge,
    /// A policy stopped it.
    #[error("a policy stopped the body")]
    Stopped,
}

/// The body of a request to an upstream.
pub enum OutgoingBody {
    /// In memory, possibly empty; it can be sent twice.
    Whole(Bytes),
    /// The client's, as it comes.
    Client(ClientBody),
    /// From policies that see every chunk.
    Chunks(mpsc::Receiver<Result<Frame<Bytes>, BodyError>>),
}

/// The client's body.
pub struct ClientBody {
    incoming: Incoming,
    traffic: Rc<Traffic>,
}

impl ClientBody {
    /// Takes over the client's body.
    #[must_use]
    pub fn new(incoming: Incoming, traffic: Rc<Traffic>) -> ClientBody {
        ClientBody { incoming, traffic }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        self.traffic.client_silent.set(polled.is_pending());
        let frame = std::task::ready!(polled).and_then(hop::passing);
        self.traffic.moved();
        match &frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                if !self.traffic.receive(bytes as u64) {
                    self.traffic.request_broken.set(true);
                    return Poll::Ready(Some(Err(BodyError::TooLarge)));
                }
                // A body of known length is complete with its last byte; nobody polls again.
                if self.incoming.is_end_stream() {
                    self.traffic.request_complete.set(true);
                }
            }
            Some(Err(_)) => self.traffic.request_broken.set(true),
            None => self.traffic.request_complete.set(true),
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Broken)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Body for OutgoingBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            OutgoingBody::Whole(body) => {
                let body = std::mem::take(body);
                Poll::Ready((!body.is_empty()).then(|| Ok(Frame::data(body))))
            }
            OutgoingBody::Client(body) => Pin::new(body).poll_frame(cx),
            OutgoingBody::Chunks(chunks) => chunks.poll_recv(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            OutgoingBody::Whole(body) => body.is_empty(),
            OutgoingBody::Client(body) => body.is_end_stream(),
            OutgoingBody::Chunks(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            OutgoingBody::Whole(body) => SizeHint::with_exact(body.len() as u64),
            OutgoingBody::Client(body) => body.size_hint(),
            OutgoingBody::Chunks(_) => SizeHint::default(),
        }
    }
}
