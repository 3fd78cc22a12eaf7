// SPDX-License-Identifier: Apache-2.0
//! The hooks a compiled policy may implement. Head hooks are plain synchronous code;
//! only a policy that declares a body need pays for buffering, and only a request about which
//! somebody must be asked for a future. A hook never sees a phase it did not declare in [`Phases`].

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use http::{HeaderName, HeaderValue, StatusCode};

use crate::exchange::Exchange;
use crate::head::{RequestHead, ResponseHead};

/// A compiled policy instance, shared by all requests of its route.
pub type Policy = Box<dyn Hooks>;

/// What a compiled policy does, and when.
pub trait Hooks: Send + Sync + 'static {
    /// Which hooks below to call.
    fn phases(&self) -> Phases;

    /// First to last, before the upstream is chosen.
    ///
    /// # Errors
    /// When the policy cannot do its work: the request fails closed.
    fn on_request(
        &self,
        _head: &mut dyn RequestHead,
        _exchange: &mut Exchange<'_>,
    ) -> Result<Verdict, PolicyError> {
        Ok(Verdict::Continue)
    }

    /// Called when `on_request` said [`Verdict::Ask`], for a policy that must ask someone first.
    /// Its deadline is the policy's own business, its cancellation the caller's: it may be
    /// dropped at any await.
    fn on_request_outbound<'f>(
        &'f self,
        _head: &'f mut dyn RequestHead,
        _exchange: &'f mut Exchange<'_>,
    ) -> LocalBoxFuture<'f, Result<Verdict, PolicyError>> {
        Box::pin(std::future::ready(Ok(Verdict::Continue)))
    }

    /// First to last, once the whole body is there (`BodyNeed::Buffered`; an absent body is
    /// empty), or for each chunk as it passes (`BodyNeed::Streamed`, `last` marks the end).
    ///
    /// # Errors
    /// As `on_request`.
    fn on_request_body(
        &self,
        _head: &mut dyn RequestHead,
        _body: &mut Bytes,
        _last: bool,
        _exchange: &mut Exchange<'_>,
    ) -> Result<Verdict, PolicyError> {
        Ok(Verdict::Continue)
    }

    /// Last to first, when the upstream has answered.
    ///
    /// # Errors
    /// As `on_request`.
    fn on_response(
        &self,
        _request: &dyn RequestHead,
        _head: &mut dyn ResponseHead,
        _exchange: &mut Exchange<'_>,
    ) -> Result<Verdict, PolicyError> {
        Ok(Verdict::Continue)
    }

    /// Last to first, as `on_request_body`. The head can be changed while the body is buffered only.
    ///
    /// # Errors
    /// As `on_request`.
    fn on_response_body(
        &self,
        _request: &dyn RequestHead,
        _head: &mut dyn ResponseHead,
        _body: &mut Bytes,
        _last: bool,
        _exchange: &mut Exchange<'_>,
    ) -> Result<Verdict, PolicyError> {
        Ok(Verdict::Continue)
    }
}

/// Which hooks a policy instance has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// `on_request`.
    pub request: bool,
    /// `on_request_body`.
    pub request_body: BodyNeed,
    /// `on_response`.
    pub response: bool,
    /// `on_response_body`.
    pub response_body: BodyNeed,
}

/// How a policy wants a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum BodyNeed {
    /// Not at all.
    #[default]
    None,
    /// Chunk by chunk, as it passes.
    Streamed,
    /// Whole.
    Buffered,
}

/// What happens next.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub enum Verdict {
    /// The next policy, or the upstream.
    Continue,
    /// [`Hooks::on_request_outbound`] of the same policy decides. Only [`Hooks::on_request`] may
    /// say so, request by request: what needs nobody's word does not pay for asking.
    Ask,
    /// This answer, now: the upstream is not called, no other hook runs (contract 5.1).
    Answer(Answer),
}

/// An answer of the gateway's own.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers, in order; `content-length` is added by the codec.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: Bytes,
}

/// A policy failed at run time. The client sees the fixed 500 of contract 4.8 with an error id;
/// this text goes to the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PolicyError(pub String);
