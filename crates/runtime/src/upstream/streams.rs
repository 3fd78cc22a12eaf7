// SPDX-License-Identifier: Apache-2.0
//! One worker's HTTP/2 connections to upstreams: shared by as many requests as both ends allow,
//! dialled once however many wait, and left alone when they age, say goodbye or refuse a stream.
//! That an endpoint turned out to speak HTTP/1.1 is known until the next sweep, after which the
//! next dial asks it again. `upstream::send` asks here first where the endpoint may speak HTTP/2;
//! the kept connections of HTTP/1.1 are [`super::pool`]'s.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{LocalBoxFuture, Shared};
use hyper::client::conn::http2::SendRequest;

use super::body::OutgoingBody;
use super::circuit::Connection as Leave;
use super::pool::Key;
use crate::error::Failure;
use crate::router::Endpoint;

/// The limits of a worker's HTTP/2 connections.
#[derive(Clone, Copy, Debug)]
pub struct StreamLimits {
    /// Requests at a time on one connection; the next one opens another.
    pub max_streams: usize,
    /// Without a request for longer: closed.
    pub idle_timeout: Duration,
    /// Older than this: takes no new requests.
    pub max_age: Duration,
}

/// Every shared connection of a worker.
pub struct Streams {
    limits: StreamLimits,
    by_endpoint: RefCell<HashMap<Key, Peer, foldhash::fast::RandomState>>,
}

/// What is known of one endpoint.
#[derive(Default)]
struct Peer {
    connections: Vec<Rc<Connection>>,
    dialling: Option<Shared<Dial>>,
    /// It chose HTTP/1.1 when it had the choice.
    plain: bool,
}

/// A connection being made for all who wait for one. What came of it stands in the pool.
pub type Dial = LocalBoxFuture<'static, Result<(), Failure>>;

/// Somebody who waits for a dial.
struct Waiting<'a> {
    streams: &'a Streams,
    endpoint: &'a Endpoint,
    dial: Shared<Dial>,
}

/// A connection as its requests see it.
pub struct Connection {
    sender: SendRequest<OutgoingBody>,
    active: Cell<usize>,
    /// How many the upstream allows, kept up to date by the connection's task.
    allowed: Rc<Cell<usize>>,
    opened: Instant,
    idle_since: Cell<Instant>,
    retired: Cell<bool>,
    /// Where the endpoint may only have so many.
    counted: Option<Leave>,
}

/// One request's share of a connection.
pub struct Slot {
    /// Sends the request.
    pub sender: SendRequest<OutgoingBody>,
    connection: Rc<Connection>,
}

impl Streams {
    /// No connections yet.
    #[must_use]
    pub fn new(limits: StreamLimits) -> Streams {
        Streams { limits, by_endpoint: RefCell::default() }
    }

    /// A share of a connection that has room. The oldest is filled first, so that surplus
    /// connections fall idle and are closed.
    #[must_use]
    pub fn take(&self, endpoint: &Endpoint) -> Option<Slot> {
        let peers = self.by_endpoint.borrow();
        let peer = peers.get(Key::lookup(endpoint))?;
        let now = Instant::now();
        let free = peer.connections.iter().find(|connection| connection.has_room(&self.limits, now))?;
        Some(Slot::of(free))
    }

    /// Whether this endpoint chose HTTP/1.1 when it had the choice.
    #[must_use]
    pub fn is_plain(&self, endpoint: &Endpoint) -> bool {
        self.by_endpoint.borrow().get(Key::lookup(endpoint)).is_some_and(|peer| peer.plain)
    }

    /// Whether some connection lives, with or without room.
    #[must_use]
    pub fn is_usable(&self, endpoint: &Endpoint) -> bool {
        let peers = self.by_endpoint.borrow();
        let now = Instant::now();
        let usable = |peer: &Peer| peer.connections.iter().any(|c| c.usable(&self.limits, now));
        peers.get(Key::lookup(endpoint)).is_some_and(|peer| usable(peer) || peer.plain)
    }

    /// Whether somebody waits for a connection already.
    #[must_use]
    pub fn is_dialling(&self, endpoint: &Endpoint) -> bool {
        self.by_endpoint.borrow().get(Key::lookup(endpoint)).is_some_and(|peer| peer.dialling.is_some())
    }

    /// Notes what an endpoint chose.
    pub fn note_plain(&self, endpoint: &Endpoint) {
        self.with(endpoint, |peer| peer.plain = true);
    }

    /// Adds a connection just made.
    pub fn add(
        &self,
        endpoint: &Endpoint,
        sender: SendRequest<OutgoingBody>,
        allowed: Rc<Cell<usize>>,
        counted: Option<Leave>,
    ) {
        let now = Instant::now();
        let connection = Connection {
            sender,
            active: Cell::new(0),
            allowed,
            opened: now,
            idle_since: Cell::new(now),
            retired: Cell::new(false),
            counted,
        };
        self.with(endpoint, |peer| {
            peer.plain = false;
            peer.connections.push(Rc::new(connection));
        });
    }

    /// Joins the dial that is under way, or begins one: a burst must not open a connection for
    /// each of its requests.
    ///
    /// # Errors
    /// What the dial failed with, for everybody who waited for it.
    pub async fn dial(&self, endpoint: &Endpoint, begin: impl FnOnce() -> Dial) -> Result<(), Failure> {
        let dial = self.with(endpoint, |peer| peer.dialling.get_or_insert_with(|| begin().shared()).clone());
        let waiting = Waiting { streams: self, endpoint, dial };
        waiting.dial.clone().await
    }

    /// Drops what is dead, old or idle for too long.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.by_endpoint.borrow_mut().retain(|_, peer| {
            peer.connections.retain(|connection| connection.worth_keeping(&self.limits, now));
            !peer.connections.is_empty() || peer.dialling.is_some()
        });
    }

    /// Drops idle connections that a request somewhere waits for.
    pub fn make_room(&self) {
        for peer in self.by_endpoint.borrow_mut().values_mut() {
            peer.connections.retain(|connection| {
                let wanted = connection.counted.as_ref().is_some_and(Leave::is_wanted);
                !(wanted && connection.active.get() == 0)
            });
        }
    }

    /// Drops everything; connections end with their last request.
    pub fn close(&self) {
        self.by_endpoint.take();
    }

    fn with<T>(&self, endpoint: &Endpoint, act: impl FnOnce(&mut Peer) -> T) -> T {
        let mut peers = self.by_endpoint.borrow_mut();
        act(peers.entry(Key::of(endpoint)).or_default())
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.streams.with(self.endpoint, |peer| {
            let Some(current) = peer.dialling.as_ref().filter(|current| current.ptr_eq(&self.dial)) else {
                return;
            };
            // Done, or known to nobody but the table and us: a dial that nobody polls must not be
            // found half done, with its deadline behind it, by whoever comes next.
            let is_done = current.peek().is_some();
            if is_done || current.strong_count().is_none_or(|known| known <= 2) {
                peer.dialling = None;
            }
        });
    }
}

impl Connection {
    fn usable(&self, limits: &StreamLimits, now: Instant) -> bool {
        !self.retired.get() && !self.sender.is_closed() && now.duration_since(self.opened) < limits.max_age
    }

    fn has_room(&self, limits: &StreamLimits, now: Instant) -> bool {
        self.usable(limits, now) && self.active.get() < limits.max_streams.min(self.allowed.get())
    }

    fn worth_keeping(&self, limits: &StreamLimits, now: Instant) -> bool {
        let idle = self.active.get() == 0 && now.duration_since(self.idle_since.get()) >= limits.idle_timeout;
        self.usable(limits, now) && !idle
    }
}

impl Slot {
    fn of(connection: &Rc<Connection>) -> Slot {
        connection.active.set(connection.active.get().saturating_add(1));
        Slot { sender: connection.sender.clone(), connection: connection.clone() }
    }

    /// No new requests for this connection: it is going away, or refused this one.
    pub fn retire(&self) {
        self.connection.retired.set(true);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connection.active.set(self.connection.active.get().saturating_sub(1));
        self.connection.idle_since.set(Instant::now());
    }
}

/// Runs a connection, and keeps the number of streams that its other end allows up to date.
pub async fn run<F>(connection: F, allowed: Rc<Cell<usize>>, now_allowed: impl Fn(&F) -> usize) -> F::Output
where
    F: Future + Unpin,
{
    let mut connection = pin!(connection);
    std::future::poll_fn(|cx| {
        let polled = connection.as_mut().poll(cx);
        allowed.set(now_allowed(&connection));
        polled
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::{pending, ready};
    use std::time::Duration;

    use ferrogate_model::kinds::rest_api::{Scheme, UpstreamProtocol};
    use futures::FutureExt;

    use super::{Dial, StreamLimits, Streams};
    use crate::router::Endpoint;

    #[test]
    fn a_dial_is_shared_while_somebody_waits_and_forgotten_after() {
        let limits = StreamLimits {
            max_streams: 1,
            idle_timeout: Duration::from_secs(60),
            max_age: Duration::from_secs(60),
        };
        let streams = Streams::new(limits);
        let (host, protocol) = ("books.example".into(), UpstreamProtocol::Http2);
        let (scheme, tls) = (Scheme::Http, None);
        let endpoint =
            Endpoint { scheme, protocol, tls, host, port: 80, address: None, weight: 1, owner: None };
        let begun = Cell::new(0);
        let dial = |dial: Dial| {
            streams.dial(&endpoint, || {
                begun.set(begun.get() + 1);
                dial
            })
        };
        let mut first = Box::pin(dial(Box::pin(pending())));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(dial(Box::pin(ready(Ok(())))).now_or_never().is_none(), "it joins the first");
        assert_eq!(begun.get(), 1);
        drop(first);
        // Nobody waited for it any more, so this is another one.
        assert_eq!(dial(Box::pin(ready(Ok(())))).now_or_never(), Some(Ok(())));
        assert_eq!(dial(Box::pin(ready(Ok(())))).now_or_never(), Some(Ok(())));
        assert_eq!(begun.get(), 3);
    }
}
