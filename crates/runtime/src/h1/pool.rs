// SPDX-License-Identifier: Apache-2.0
//! One worker's kept upstream connections of the hot path, last in first out, so that the
//! warmest is used and the surplus grows old and is closed. It has no task per connection to
//! notice an end: a connection is looked at when it is taken and at every sweep. `upstream`
//! takes and gives back, `worker` sweeps.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::rc::Rc;

use super::timer::{Span, Tick, Ticker};
use super::wire::Wire;
use crate::router::Endpoint;
use crate::upstream::pool::{Address as _, PoolLimits};

/// The pool.
pub struct Pool {
    max_idle: usize,
    idle_timeout: Span,
    max_age: Span,
    ticker: Rc<Ticker>,
    hasher: foldhash::fast::RandomState,
    /// By the hash of all that tells endpoints apart, so that a lookup owns nothing. Should two
    /// hashes ever be equal, each connection's own endpoint tells them apart.
    idle: RefCell<HashMap<u64, VecDeque<Idle>, foldhash::fast::RandomState>>,
}

/// A connection in use; dropping it closes the connection.
pub struct Lease {
    /// The stream.
    pub wire: Wire,
    /// Whether it has served a request before.
    pub reused: bool,
    endpoint: Rc<Endpoint>,
    /// Where the pool keeps connections to this endpoint.
    key: u64,
    opened: Tick,
}

struct Idle {
    lease: Lease,
    since: Tick,
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new(limits: PoolLimits, ticker: Rc<Ticker>) -> Pool {
        Pool {
            max_idle: limits.max_idle,
            idle_timeout: Span::of(limits.idle_timeout),
            max_age: Span::of(limits.max_age),
            ticker,
            hasher: foldhash::fast::RandomState::default(),
            idle: RefCell::default(),
        }
    }

    /// The warmest usable connection to this endpoint. What is found dead is dropped.
    #[must_use]
    pub fn take(&self, endpoint: &Endpoint) -> Option<Lease> {
        let key = self.key(endpoint);
        let mut idle = self.idle.borrow_mut();
        let kept = idle.get_mut(&key)?;
        while let Some(mut candidate) = kept.pop_back() {
            if candidate.lease.endpoint.address() == endpoint.address() && self.usable(&mut candidate) {
                return Some(candidate.lease);
            }
        }
        None
    }

    /// A connection just made.
    #[must_use]
    pub fn lease(&self, endpoint: &Endpoint, wire: Wire) -> Lease {
        let (key, opened) = (self.key(endpoint), self.ticker.now());
        Lease { wire, reused: false, endpoint: Rc::new(endpoint.clone()), key, opened }
    }

    /// Keeps a connection on which both directions of an exchange are through.
    pub fn keep(&self, mut lease: Lease) {
        if self.max_idle == 0 {
            return;
        }
        lease.reused = true;
        let mut idle = self.idle.borrow_mut();
        let kept = idle.entry(lease.key).or_default();
        if kept.len() >= self.max_idle {
            // The coldest makes room. Rare, or the limit is wrong.
            kept.pop_front();
        }
        kept.push_back(Idle { lease, since: self.ticker.now() });
    }

    /// Drops what is dead or too old.
    pub fn sweep(&self) {
        self.idle.borrow_mut().retain(|_, kept| {
            kept.retain_mut(|idle| self.usable(idle));
            !kept.is_empty()
        });
    }

    /// Drops everything; the connections end.
    pub fn close(&self) {
        self.idle.take();
    }

    fn key(&self, endpoint: &Endpoint) -> u64 {
        self.hasher.hash_one(endpoint.address())
    }

    fn usable(&self, idle: &mut Idle) -> bool {
        let now = self.ticker.now();
        !now.is_after(idle.since, self.idle_timeout)
            && !now.is_after(idle.lease.opened, self.max_age)
            && idle.lease.wire.is_quiet()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use ferrogate_model::kinds::rest_api::{Scheme, UpstreamProtocol};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::timer::Ticker;
    use super::super::wire::Wire;
    use super::Pool;
    use crate::router::Endpoint;
    use crate::upstream::pool::PoolLimits;

    #[tokio::test]
    async fn endpoints_of_one_host_keep_their_connections_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let server = listener.local_addr().expect("bound");
        let minute = Duration::from_secs(60);
        let limits = PoolLimits { max_idle: 4, idle_timeout: minute, max_age: minute, max_streams: 1 };
        let pool = Pool::new(limits, Ticker::new());
        let plain = Endpoint {
            scheme: Scheme::Http,
            protocol: UpstreamProtocol::Http1,
            tls: None,
            host: "books.example".into(),
            port: 80,
            address: None,
            weight: 1,
            owner: None,
        };
        let at = |last| Some([127, 0, 0, last].into());
        let endpoints = [
            plain.clone(),
            Endpoint { address: at(1), ..plain.clone() },
            Endpoint { address: at(2), ..plain.clone() },
            Endpoint { tls: Some(Arc::default()), ..plain.clone() },
            Endpoint { owner: Some(7), ..plain },
        ];
        let (mut opened, mut held) = (0, Vec::new());
        for _round in 0..3 {
            for endpoint in &endpoints {
                let lease = match pool.take(endpoint) {
                    Some(lease) => lease,
                    None => {
                        opened += 1;
                        let stream = TcpStream::connect(server).await.expect("listens");
                        held.push(listener.accept().await.expect("connected"));
                        pool.lease(endpoint, Wire::Plain(stream))
                    }
                };
                pool.keep(lease);
            }
        }
        assert_eq!(opened, endpoints.len(), "each opens one connection and finds it again");
    }
}
