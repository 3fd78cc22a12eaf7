// SPDX-License-Identifier: Apache-2.0
//! Names to addresses of both families, with the answers' own lifetimes, the hosts file honoured, IPv4
//! before IPv6 (contract 4.6); while nobody answers, the last good answer for a bounded time. Address literals
//! and `localhost` never reach the network. Each worker has a resolver, which `upstream::connect`
//! asks for a new connection; health checks and `upstream::names` share one beside the workers.

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::{Either, select};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use smallvec::{SmallVec, smallvec};
use tokio::time::timeout;

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

/// So long IPv6 addresses are waited for when those of IPv4 are there (RFC 8305, 3): most
/// names have none, and some servers never say so.
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// One worker's resolver.
pub struct Dns {
    families: Option<Families>,
    last: Mutex<LastGood>,
}

/// A resolver for each family: one for both would wait for the slower of them.
struct Families {
    v4: TokioResolver,
    v6: TokioResolver,
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
        Dns { families: Families::build(&config, &ResolverOpts::default()), last: Mutex::default() }
    }

    /// A resolver with the system's configuration; without one (a container with an empty
    /// `resolv.conf`), only literals and `localhost` resolve, and other names say why.
    fn from_system() -> Dns {
        match hickory_resolver::system_conf::read_system_conf() {
            Ok((config, options)) => {
                Dns { families: Families::build(&config, &options), last: Mutex::default() }
            }
            Err(error) => {
                tracing::warn!(%error, "no usable resolver configuration; only addresses and localhost resolve");
                Dns { families: None, last: Mutex::default() }
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
        let Some(families) = &self.families else {
            return Err(DnsError("this machine has no usable resolver configuration".into()));
        };
        let stale = self.last().recall(host, Instant::now());
        let found = match &stale {
            None => families.lookup(host, &[]).await?,
            // What a resolver does not say in time, or cannot, is as it was.
            Some(stale) => match timeout(STALE_AFTER, families.lookup(host, stale)).await {
                Ok(Ok(addresses)) => addresses,
                Ok(Err(error)) => {
                    tracing::debug!(%host, %error, "the last good answer is used");
                    return Ok(stale.clone());
                }
                Err(_) => return Ok(stale.clone()),
            },
        };
        self.last().keep(host, &found, Instant::now());
        Ok(found)
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

impl Families {
    fn build(config: &ResolverConfig, options: &ResolverOpts) -> Option<Families> {
        let family = |strategy| {
            let mut options = options.clone();
            options.ip_strategy = strategy;
            options.cache_size = CACHE_ENTRIES;
            options.positive_min_ttl = Some(MIN_TTL);
            options.positive_max_ttl = Some(MAX_TTL);
            options.negative_max_ttl = Some(Duration::from_secs(5));
            TokioResolver::builder_with_config(config.clone(), TokioRuntimeProvider::default())
                .with_options(options)
                .build()
                .map_err(|error| tracing::warn!(%error, "the resolver could not be built"))
                .ok()
        };
        Some(Families { v4: family(LookupIpStrategy::Ipv4Only)?, v6: family(LookupIpStrategy::Ipv6Only)? })
    }

    /// The addresses of a name, of which these are the last that were known.
    async fn lookup(&self, host: &str, stale: &[IpAddr]) -> Result<Addresses, DnsError> {
        let ask = async |resolver: &TokioResolver| match resolver.lookup_ip(host).await {
            Ok(answer) => Ok(answer.iter().collect()),
            // That there is none is an answer.
            Err(error) if error.is_no_records_found() => Ok(Addresses::new()),
            Err(error) => Err(DnsError(error.to_string())),
        };
        let addresses = both(ask(&self.v4), ask(&self.v6), stale).await?;
        if addresses.is_empty() {
            return Err(DnsError(format!("'{host}' has no address")));
        }
        Ok(addresses)
    }
}

/// What both families come to, IPv4 first. IPv4 is waited for as long as it takes, IPv6 a moment
/// longer; where there are no addresses of IPv4, as long as it takes as well. A family of which
/// nobody can say anything keeps the addresses that it had.
async fn both(
    v4: impl Future<Output = Result<Addresses, DnsError>>,
    v6: impl Future<Output = Result<Addresses, DnsError>>,
    stale: &[IpAddr],
) -> Result<Addresses, DnsError> {
    let of_v4 = |answer: &Result<Addresses, DnsError>| answer.as_ref().is_ok_and(|found| !found.is_empty());
    let (v4, v6) = match select(pin!(v4), pin!(v6)).await {
        Either::Left((v4, v6)) if of_v4(&v4) => (v4, timeout(RESOLUTION_DELAY, v6).await.ok()),
        Either::Left((v4, v6)) => (v4, Some(v6.await)),
        Either::Right((v6, v4)) => (v4.await, Some(v6)),
    };
    let v6 = v6.unwrap_or_else(|| Ok(Addresses::new()));
    let kept = |v4: bool| stale.iter().copied().filter(move |address| address.is_ipv4() == v4);
    match (v4, v6) {
        (Ok(v4), Ok(v6)) => Ok(v4.into_iter().chain(v6).collect()),
        (Ok(v4), Err(_)) => Ok(v4.into_iter().chain(kept(false)).collect()),
        (Err(_), Ok(v6)) => Ok(kept(true).chain(v6).collect()),
        (Err(error), Err(_)) => Err(error),
    }
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

    use tokio::time::sleep;

    use super::{Addresses, Dns, DnsError, LAST_GOOD_ENTRIES, LastGood, STALE_LIMIT, both, is_localhost};

    /// An answer of this address, of none where it is empty, or no answer, after so many milliseconds.
    async fn after(ms: u64, address: Option<&str>) -> Result<Addresses, DnsError> {
        sleep(Duration::from_millis(ms)).await;
        let address = address.ok_or_else(|| DnsError("lost".into()))?;
        Ok(address.parse().into_iter().collect())
    }

    #[tokio::test(start_paused = true)]
    async fn ipv4_comes_first_and_ipv6_has_a_moment_more() {
        let (four, six) = (Some("10.0.0.1"), Some("::1"));
        let (none, lost) = (Some(""), None);
        for (v4, v6, stale, expected, took) in [
            ((20, four), (60, six), "", "10.0.0.1 ::1", 60),
            ((60, four), (20, six), "", "10.0.0.1 ::1", 60),
            ((20, four), (5_000, six), "", "10.0.0.1", 70),
            ((20, four), (5_000, lost), "", "10.0.0.1", 70),
            ((20, four), (20, none), "", "10.0.0.1", 20),
            ((20, none), (5_000, six), "", "::1", 5_000),
            ((5_000, none), (20, six), "10.0.0.2", "::1", 5_000),
            ((20, lost), (30, six), "10.0.0.2 ::2", "10.0.0.2 ::1", 30),
            ((20, four), (30, lost), "10.0.0.2 ::2", "10.0.0.1 ::2", 30),
            ((20, none), (30, lost), "", "", 30),
            ((20, lost), (30, lost), "10.0.0.2", "lost", 30),
        ] {
            let begun = tokio::time::Instant::now();
            let stale: Addresses = stale.split(' ').filter_map(|text| text.parse().ok()).collect();
            let answer = both(after(v4.0, v4.1), after(v6.0, v6.1), &stale).await;
            let told = match &answer {
                Ok(addresses) => addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
                Err(DnsError(text)) => text.clone(),
            };
            assert_eq!((told.as_str(), begun.elapsed().as_millis()), (expected, took), "{v4:?} {v6:?}");
        }
    }

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
        let dns = Dns { families: None, last: Mutex::default() };
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
