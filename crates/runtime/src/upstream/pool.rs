// SPDX-License-Identifier: Apache-2.0
//! One worker's kept connections to upstreams, last in first out so that the warmest is
//! used and the surplus grows old and is closed. No lock: a pool belongs to one thread.
//! `upstream::send` takes connections, the response body gives them back when both
//! directions are through. Where an endpoint may only have so many, they pass to this worker's
//! waiters, and are closed for those of others, who cannot use them. Those of HTTP/2, which are
//! shared, stand in [`super::streams`].

use std::borrow::Borrow;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ferrogate_model::kinds::rest_api::{Scheme, UpstreamProtocol, UpstreamTls};
use hyper::client::conn::http1::SendRequest;
use tokio::sync::Notify;

use super::body::OutgoingBody;
use super::circuit::Connection;
use super::lease::Lease;
use super::streams::{StreamLimits, Streams};
use crate::access_log::Traffic;
use crate::router::Endpoint;

/// A connection passes among the requests that wait on its worker until it is this old; then it
/// is closed for one that waits on another. Long enough to be worth a handshake.
const TURN: Duration = Duration::from_millis(100);

/// The limits of a pool.
#[derive(Clone, Copy, Debug)]
pub struct PoolLimits {
    /// Idle connections per endpoint; the oldest makes room.
    pub max_idle: usize,
    /// Idle for longer: closed.
    pub idle_timeout: Duration,
    /// Older than this: not used again.
    pub max_age: Duration,
    /// Requests at a time on one HTTP/2 connection.
    pub max_streams: usize,
}

/// The pool.
pub struct Pool {
    limits: PoolLimits,
    idle: RefCell<HashMap<Key, VecDeque<Idle>, foldhash::fast::RandomState>>,
    /// What this worker's requests are woken by that wait for one to be given back; each has a
    /// share of it beside the table's.
    waiting: RefCell<HashMap<Key, Rc<Notify>, foldhash::fast::RandomState>>,
    /// The shared connections of HTTP/2.
    pub streams: Streams,
}

/// An HTTP/1.1 connection in use; dropping it closes the connection.
pub struct Kept {
    /// Sends requests.
    pub sender: SendRequest<OutgoingBody>,
    key: Rc<Endpoint>,
    opened: Instant,
    counted: Option<Connection>,
    pool: Rc<Pool>,
}

struct Idle {
    sender: SendRequest<OutgoingBody>,
    key: Rc<Endpoint>,
    opened: Instant,
    counted: Option<Connection>,
    since: Instant,
}

/// A request that waits for a connection to be given back.
struct Waiter<'p> {
    pool: &'p Pool,
    endpoint: &'p Endpoint,
    woken: Rc<Notify>,
}

/// What tells two targets apart. Owned in the map, borrowed from the route at lookup.
pub(super) struct Key(Rc<Endpoint>);

/// Who is at the other end, how it has proved so, and whose the connection is.
pub(crate) type Parts<'a> =
    (Scheme, UpstreamProtocol, Option<&'a UpstreamTls>, &'a str, u16, Option<IpAddr>, Option<u64>);

/// What tells two endpoints apart, in every pool there is.
pub(crate) trait Address {
    fn address(&self) -> Parts<'_>;
}

impl Key {
    pub(super) fn of(endpoint: &Endpoint) -> Key {
        Key(Rc::new(endpoint.clone()))
    }

    pub(super) fn lookup(endpoint: &Endpoint) -> &dyn Address {
        endpoint
    }
}

impl Address for Key {
    fn address(&self) -> Parts<'_> {
        self.0.address()
    }
}

impl Address for Endpoint {
    fn address(&self) -> Parts<'_> {
        (self.scheme, self.protocol, self.tls.as_deref(), &self.host, self.port, self.address, self.owner)
    }
}

impl<'a> Borrow<dyn Address + 'a> for Key {
    fn borrow(&self) -> &(dyn Address + 'a) {
        self
    }
}

impl Hash for dyn Address + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.address().hash(state);
    }
}

impl PartialEq for dyn Address + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.address() == other.address()
    }
}

impl Eq for dyn Address + '_ {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.address().hash(state);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.address() == other.address()
    }
}

impl Eq for Key {}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new(limits: PoolLimits) -> Rc<Pool> {
        let streams = Streams::new(StreamLimits {
            max_streams: limits.max_streams,
            idle_timeout: limits.idle_timeout,
            max_age: limits.max_age,
        });
        Rc::new(Pool { limits, idle: RefCell::default(), waiting: RefCell::default(), streams })
    }

    /// A connection to this endpoint that can take a request.
    pub fn take(self: &Rc<Pool>, endpoint: &Endpoint) -> Option<Lease> {
        if endpoint.protocol != UpstreamProtocol::Http1
            && let Some(slot) = self.streams.take(endpoint)
        {
            return Some(Lease::Shared(slot, endpoint.scheme));
        }
        self.take_kept(endpoint).map(Lease::Kept)
    }

    /// The warmest usable connection. What is found dead is dropped.
    fn take_kept(self: &Rc<Pool>, endpoint: &Endpoint) -> Option<Kept> {
        let mut idle = self.idle.borrow_mut();
        let kept = idle.get_mut(Key::lookup(endpoint))?;
        let now = Instant::now();
        while let Some(candidate) = kept.pop_back() {
            if !candidate.sender.is_closed() && self.usable(&candidate, now) {
                let Idle { sender, key, opened, counted, since: _ } = candidate;
                if let Some(counted) = &counted {
                    counted.set_idle(false);
                }
                return Some(Kept { sender, key, opened, counted, pool: self.clone() });
            }
        }
        None
    }

    /// Waits for a connection that another request of this worker gives back.
    pub async fn returned(self: &Rc<Pool>, endpoint: &Endpoint) -> Kept {
        let waiter = Waiter::new(self, endpoint);
        loop {
            if let Some(kept) = self.take_kept(endpoint) {
                return kept;
            }
            waiter.woken.notified().await;
        }
    }

    /// A connection just made; `counted` where the endpoint may only have so many.
    pub fn lease(
        self: &Rc<Pool>,
        endpoint: &Endpoint,
        sender: SendRequest<OutgoingBody>,
        counted: Option<Connection>,
    ) -> Kept {
        let key = Rc::new(endpoint.clone());
        Kept { sender, key, opened: Instant::now(), counted, pool: self.clone() }
    }

    /// Drops idle connections that a request of another worker waits for: it cannot use them,
    /// and may not open its own while they count.
    pub fn make_room(&self) {
        self.streams.make_room();
        self.idle.borrow_mut().retain(|key, kept| {
            kept.retain(|idle| {
                let counted = idle.counted.as_ref();
                !counted.is_some_and(|counted| self.is_due_elsewhere(&key.0, counted, idle.opened, 0))
            });
            !kept.is_empty()
        });
    }

    /// Drops what is dead or too old. Called now and then by the worker, so that a pool of
    /// an endpoint that is no longer asked does not keep its connections.
    pub fn sweep(&self) {
        self.streams.sweep();
        let now = Instant::now();
        self.idle.borrow_mut().retain(|_, kept| {
            kept.retain(|idle| !idle.sender.is_closed() && self.usable(idle, now));
            !kept.is_empty()
        });
    }

    /// Drops everything; the connections end.
    pub fn close(&self) {
        self.idle.take();
        self.streams.close();
    }

    /// Whether a connection is to be closed for a request that waits on another worker: at once
    /// when there is one of the `ready` idle ones for each that waits here, or else when it has
    /// had its turn.
    fn is_due_elsewhere(
        &self,
        endpoint: &Endpoint,
        counted: &Connection,
        opened: Instant,
        ready: usize,
    ) -> bool {
        let waiting = self.waiting.borrow();
        let shares = waiting.get(Key::lookup(endpoint)).map_or(1, Rc::strong_count);
        let here = shares.saturating_sub(1);
        let elsewhere = counted.waiting() as usize > here;
        elsewhere && (here <= ready || opened.elapsed() >= TURN)
    }

    /// Tells a request that waits here of a connection given back.
    fn wake_one(&self, endpoint: &Endpoint) {
        if let Some(woken) = self.waiting.borrow().get(Key::lookup(endpoint)) {
            woken.notify_one();
        }
    }

    fn usable(&self, idle: &Idle, now: Instant) -> bool {
        now.duration_since(idle.since) < self.limits.idle_timeout
            && now.duration_since(idle.opened) < self.limits.max_age
    }
}

impl<'p> Waiter<'p> {
    fn new(pool: &'p Pool, endpoint: &'p Endpoint) -> Waiter<'p> {
        let woken = pool.waiting.borrow_mut().entry(Key::of(endpoint)).or_default().clone();
        Waiter { pool, endpoint, woken }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        // Known to nobody but the table and this one.
        if Rc::strong_count(&self.woken) <= 2 {
            self.pool.waiting.borrow_mut().remove(Key::lookup(self.endpoint));
        }
    }
}

impl Kept {
    /// What the endpoint counts, of a connection that goes on without us.
    pub fn into_counted(self) -> Option<Connection> {
        self.counted
    }

    /// Keeps the connection for the next request, if this one is through in both directions.
    pub fn give_back(self, traffic: &Traffic) {
        // An upstream may answer before it has read the request; the rest of that request
        // would be the next one's beginning.
        if traffic.request_complete.get() {
            self.keep();
        }
    }

    /// Keeps the connection for the next request, unless one that cannot use it waits for its end.
    pub fn keep(self) {
        if self.sender.is_closed() {
            return;
        }
        let Kept { sender, key, opened, counted, pool } = self;
        let mut idle = pool.idle.borrow_mut();
        let kept = idle.entry(Key(key.clone())).or_default();
        if let Some(counted) = &counted {
            if pool.is_due_elsewhere(&key, counted, opened, kept.len()) {
                return;
            }
            counted.set_idle(true);
            pool.wake_one(&key);
        }
        if kept.len() >= pool.limits.max_idle {
            kept.pop_front();
        }
        if pool.limits.max_idle > 0 {
            kept.push_back(Idle { sender, key, opened, counted, since: Instant::now() });
        }
    }
}
