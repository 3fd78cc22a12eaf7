// SPDX-License-Identifier: Apache-2.0
//! The one way every request path takes an endpoint and says how it went: [`Balancer::pick`]
//! gives a [`Picked`], which for a plain target is a reference and nothing else, and for a
//! guarded one a [`Guard`] that counts as a request under way until it is dropped. Both are
//! synchronous and never look at the network.
//!
//! [`Balancer::pick`]: super::balance::Balancer::pick

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderName, HeaderValue, StatusCode};

use super::circuit::Connection;
use super::group::{Group, Member};
use crate::error::Failure;
use crate::router::Endpoint;

/// How a pick looks up a header's first value, whatever codec holds it.
pub type Header<'a> = &'a dyn Fn(&HeaderName) -> Option<&'a [u8]>;

/// What a pick may go by.
#[derive(Clone, Copy)]
pub struct PickInput<'a> {
    /// The request's headers, as policies left them.
    pub header: Header<'a>,
    /// The client's address.
    pub client: IpAddr,
    /// Endpoints that failed this very request; avoided while there are others.
    pub tried: &'a [Tried<'a>],
}

/// An endpoint that was asked already. The same address may be a target's endpoint twice, and
/// once more in a later snapshot, so it is told by its place in memory.
#[derive(Clone)]
pub enum Tried<'t> {
    /// Of a plain target.
    Plain(&'t Endpoint),
    /// Of a guarded one.
    Guarded(Arc<Member>),
}

/// An endpoint to send a request to.
pub enum Picked<'t> {
    /// Of a plain target: there is nothing to record.
    Plain(&'t Endpoint),
    /// Of a guarded target.
    Guarded(Guard),
}

/// A request under way on an endpoint of a guarded target. It ends when this is dropped,
/// so whoever reads the response's body must hold it; one dropped without an outcome is a
/// request given up, which says nothing about the endpoint.
pub struct Guard {
    group: Arc<Group>,
    member: Arc<Member>,
    begun: Instant,
    cookie: Option<HeaderValue>,
    /// It counts as under way.
    counts: bool,
}

impl PickInput<'_> {
    /// Whether this endpoint of a plain target failed the request before.
    pub(super) fn has_tried(&self, endpoint: &Endpoint) -> bool {
        self.tried.iter().any(|tried| matches!(tried, Tried::Plain(tried) if std::ptr::eq(*tried, endpoint)))
    }

    /// As [`PickInput::has_tried`], of a guarded one.
    pub(super) fn has_tried_member(&self, member: &Arc<Member>) -> bool {
        self.tried.iter().any(|tried| matches!(tried, Tried::Guarded(tried) if Arc::ptr_eq(tried, member)))
    }
}

impl<'t> Picked<'t> {
    /// To avoid it in a second pick.
    #[must_use]
    pub fn tried(&self) -> Tried<'t> {
        match self {
            Picked::Plain(endpoint) => Tried::Plain(endpoint),
            Picked::Guarded(guard) => Tried::Guarded(guard.member.clone()),
        }
    }
}

impl Picked<'_> {
    /// The endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        match self {
            Picked::Plain(endpoint) => endpoint,
            Picked::Guarded(guard) => &guard.member.endpoint,
        }
    }

    /// A response's head came, with this status. Call it once, before the body is read.
    pub fn answered(&mut self, status: StatusCode) {
        if let Picked::Guarded(guard) = self {
            guard.answered(status, Instant::now());
        }
    }

    /// No response came. Call it once, instead of [`Picked::answered`].
    pub fn failed(&mut self, failure: &Failure) {
        if let Picked::Guarded(guard) = self {
            guard.failed(failure, Instant::now());
        }
    }

    /// The attempt is over and another follows, though what it came to may yet be passed on.
    pub fn leave(&mut self) {
        if let Picked::Guarded(guard) = self {
            guard.leave();
        }
    }

    /// Counts a connection to the endpoint that is about to be opened, where there is a limit;
    /// waits for its turn while the limit is reached. The caller bounds the wait.
    ///
    /// # Errors
    /// When too many requests wait already.
    pub async fn admit_connection(&self) -> Result<Option<Connection>, Failure> {
        let Picked::Guarded(guard) = self else { return Ok(None) };
        let breaker = guard.group.breaker();
        if breaker.max_connections.is_none() {
            return Ok(None);
        }
        Connection::admit(&guard.member.state, breaker.max_connections, breaker.max_pending).await.map(Some)
    }

    /// What to hold until the response's body is through.
    #[must_use]
    pub fn into_guard(self) -> Option<Guard> {
        match self {
            Picked::Plain(_) => None,
            Picked::Guarded(guard) => Some(guard),
        }
    }
}

impl Guard {
    /// Of a request that the endpoint's load already counts.
    pub(super) fn new(
        group: Arc<Group>,
        member: Arc<Member>,
        now: Instant,
        cookie: Option<HeaderValue>,
    ) -> Guard {
        Guard { group, member, begun: now, cookie, counts: true }
    }

    /// The endpoint in its group.
    #[must_use]
    pub fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// The `set-cookie` that brings this client back to this endpoint.
    #[must_use]
    pub fn cookie(&self) -> Option<&HeaderValue> {
        self.cookie.as_ref()
    }

    pub(super) fn answered(&mut self, status: StatusCode, now: Instant) {
        let took = now.saturating_duration_since(self.begun);
        let failed = status.is_server_error();
        if failed {
            self.member.state.failed(took, now);
        } else {
            self.member.state.answered(took, now);
        }
        self.group.note(&self.member, failed, now);
    }

    pub(super) fn failed(&mut self, failure: &Failure, now: Instant) {
        // A client that broke off its own request says nothing about the upstream.
        if failure.reason.blames_upstream() {
            self.member.state.failed(now.saturating_duration_since(self.begun), now);
            self.group.note(&self.member, true, now);
        }
    }
}

impl Guard {
    fn leave(&mut self) {
        if std::mem::take(&mut self.counts) {
            self.member.state.load.leave();
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.leave();
    }
}
