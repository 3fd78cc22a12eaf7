// SPDX-License-Identifier: Apache-2.0
//! The body of an upstream's response, whichever codec reads it, with the connection it comes
//! on: given back when both directions are through, closed when it is dropped before. `lease`
//! makes it, `response::body` passes it on to the client.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::body::BodyError;
use super::direct::DirectBody;
use super::lease::Lease;
use crate::access_log::Traffic;

/// A response's body.
pub enum ReplyBody {
    /// hyper reads it, on this connection.
    Hyper(Incoming, Lease),
    /// It is read where it is awaited.
    Direct(Box<DirectBody>),
}

impl ReplyBody {
    /// Keeps the connection for the next request, if this one is through in both directions.
    pub fn give_back(self, traffic: &Traffic) {
        match self {
            ReplyBody::Hyper(_, lease) => lease.give_back(traffic),
            ReplyBody::Direct(body) => body.give_back(),
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            ReplyBody::Hyper(incoming, _) => Pin::new(incoming)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(BodyError::Broken))),
            ReplyBody::Direct(body) => body.poll_next(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ReplyBody::Hyper(incoming, _) => incoming.is_end_stream(),
            ReplyBody::Direct(body) => body.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ReplyBody::Hyper(incoming, _) => incoming.size_hint(),
            ReplyBody::Direct(body) => body.size(),
        }
    }
}
