// SPDX-License-Identifier: Apache-2.0
//! Names to addresses, with the answers' own lifetimes, the hosts file honoured, IPv4 before IPv6
//! (contract 4.6); while nobody answers, the last good answer for a bounded time. Address literals
//! and `localhost` never reach the network. Each worker has a resolver, which `upstream::connect`
//! asks for a new connection; health checks and `upstream::names` share one beside the workers.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use smallvec::{SmallVec, smallvec};

/// The addresses of one name, IPv4 first.
pub type Addresses = SmallVec<[IpAddr; 4]>;

/// An answer without a lifetime is believed for at least this long, so that a server
/// answering with a TTL of zero is not asked for every connection.
const MIN_TTL: Duration = Duration::from_secs(1);

/// No answer is believed for longer than this, whatever its lifetime says.
const MAX_TTL: Duration = Duration::from_secs(300);

/// How many answers a worker remembers; the least recently used are forgotten.
const CACHE_ENTRIES: u64 = 4096;

/// How many last good answers are kept.
const LAST_GOOD_ENTRIES: usize = 4096;

/// A name that was resolved before and now is not, keeps its last answer for so long: most
/// outages of resolvers are shorter, and addresses mostly stay.
const STALE_LIMIT: Duration = Duration::from_secs(600);

/// So long a resolver is waited for while there is such an answer.
const STALE_AFTER: Duration = Duration::from_secs(1);

/// One worker's resolver.
pub struct Dns {
    resolver: Option<TokioResolver>,
    last: Mutex<LastGood>,
}

/// The last good answers, with when they came.
#[derive(Default)]
struct LastGood(HashMap<String, (Addresses, Instant)>);

/// A name did not resolve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DnsError(pub String);

impl Dns {
    /// A resolver that asks these name servers, or those of the system when there are none.
    #[must_use]
    pub fn asking(servers: &[SocketAddr]) -> Dns {
        if servers.is_empty() {
            return Dns::from_system();
        }
        let server = |server: &SocketAddr| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
            let connections = connections.map(|mut connection| {
                connection.port = server.port();
                connection
            });
            NameServerConfig::new(server.ip(), true, connections.into())
        };
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(server).collect());
        Dns { resolver: build(config, ResolverOpts::default()), last: Mutex::default() }
    }

    /// A resolver with the system's configuration; without one (a container with an empty
    /// `resolv.conf`), only literals and `localhost` resolve, and other names say why.
    fn from_system() -> Dns {
        match hickory_resolver::system_conf::read_system_conf() {
            Ok((config, options)) => Dns { resolver: build(config, options), last: Mutex::default() },
            Err(error) => {
                tracing::warn!(%error, "no usable resolver configuration; only addresses and localhost resolve");
                Dns { resolver: None, last: Mutex::default() }
            }
        }
    }

    /// The addresses of `host`.
    ///
    /// # Errors
    /// When the name does not resolve; the caller's deadline bounds the wait.
    pub async fn resolve(&self, host: &str) -> Result<Addresses, DnsError> {
        if let Some(address) = literal(host) {
            return Ok(smallvec![address]);
        }
        if is_localhost(host) {
            return Ok(smallvec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let Some(resolver) = &self.resolver else {
            return Err(DnsError("this machine has no usable resolver configuration".into()));
        };
        let lookup = async {
            let answer = resolver.lookup_ip(host).await.map_err(|error| DnsError(error.to_string()))?;
            let mut addresses: Addresses = answer.iter().collect();
            if addresses.is_empty() {
                return Err(DnsError(format!("'{host}' has no address")));
            }
            addresses.sort_by_key(IpAddr::is_ipv6);
            Ok(addresses)
        };
        let Some(stale) = self.last().recall(host, Instant::now()) else {
            let addresses = lookup.await?;
            self.last().keep(host, &addresses, Instant::now());
            return Ok(addresses);
        };
        match tokio::time::timeout(STALE_AFTER, lookup).await {
            Ok(Ok(addresses)) => {
                self.last().keep(host, &addresses, Instant::now());
                Ok(addresses)
            }
            Ok(Err(error)) => {
                tracing::debug!(%host, %error, "the last good answer is used");
                Ok(stale)
            }
            Err(_) => Ok(stale),
        }
    }

    fn last(&self) -> MutexGuard<'_, LastGood> {
        // Whole after every call, so a panic elsewhere does not spoil it.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LastGood {
    /// An answer that is still good enough when there is no other.
    fn recall(&self, host: &str, now: Instant) -> Option<Addresses> {
        let (addresses, at) = self.0.get(host)?;
        (now.saturating_duration_since(*at) < STALE_LIMIT).then(|| addresses.clone())
    }

    fn keep(&mut self, host: &str, addresses: &Addresses, now: Instant) {
        if let Some(entry) = self.0.get_mut(host) {
            entry.0.clone_from(addresses);
            entry.1 = now;
            return;
        }
        if self.0.len() >= LAST_GOOD_ENTRIES {
            self.0.retain(|_, (_, at)| now.saturating_duration_since(*at) < STALE_LIMIT);
        }
        // When all of them are young the new name does without.
        if self.0.len() < LAST_GOOD_ENTRIES {
            self.0.insert(host.to_owned(), (addresses.clone(), now));
        }
    }
}

fn build(config: ResolverConfig, mut options: ResolverOpts) -> Option<TokioResolver> {
    options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
    options.cache_size = CACHE_ENTRIES;
    options.positive_min_ttl = Some(MIN_TTL);
    options.positive_max_ttl = Some(MAX_TTL);
    options.negative_max_ttl = Some(Duration::from_secs(5));
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options)
        .build()
        .map_err(|error| tracing::warn!(%error, "the resolver could not be built"))
        .ok()
}

fn literal(host: &str) -> Option<IpAddr> {
    host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host).parse().ok()
}

fn is_localhost(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || host.len() > ".localhost".len()
            && host
                .get(host.len() - ".localhost".len()..)
                .is_some_and(|end| end.eq_ignore_ascii_case(".localhost"))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::{Duration, Instant};

    use super::{Addresses, Dns, LAST_GOOD_ENTRIES, LastGood, STALE_LIMIT, is_localhost};

    #[test]
    fn the_last_good_answer_is_kept_for_a_bounded_time_and_number() {
        let (mut last, start) = (LastGood::default(), Instant::now());
        let addresses: Addresses = ["10.0.0.1".parse().expect("an address")].into_iter().collect();
        last.keep("a", &addresses, start);
        let end = start + STALE_LIMIT;
        assert_eq!(last.recall("a", end - Duration::from_secs(1)), Some(addresses.clone()));
        assert_eq!(last.recall("a", end), None);
        for name in 0..LAST_GOOD_ENTRIES * 2 {
            last.keep(&name.to_string(), &addresses, start);
        }
        assert_eq!(last.0.len(), LAST_GOOD_ENTRIES);
        last.keep("late", &addresses, end);
        assert_eq!(last.0.len(), 1, "what is too old made room");
    }

    #[tokio::test]
    async fn literals_and_localhost_need_no_resolver() {
        let dns = Dns { resolver: None, last: Mutex::default() };
        for (host, expected) in [
            ("10.1.2.3", "10.1.2.3"),
            ("[::1]", "::1"),
            ("2001:db8::7", "2001:db8::7"),
            ("LocalHost", "127.0.0.1"),
        ] {
            let addresses = dns.resolve(host).await.expect("a literal");
            assert_eq!(addresses.first().map(ToString::to_string).as_deref(), Some(expected), "{host}");
        }
        assert!(dns.resolve("books.example").await.is_err());
    }

    #[test]
    fn names_below_localhost_are_local_and_lookalikes_are_not() {
        assert!(is_localhost("a.localhost") && is_localhost("localhost."));
        assert!(!is_localhost("notlocalhost") && !is_localhost("localhost.example"));
    }
}
