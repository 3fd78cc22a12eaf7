// SPDX-License-Identifier: Apache-2.0
//! A TCP connection to one of a name's addresses: attempts are raced so that an address, or a
//! whole family of them, that does not answer costs a quarter of a second and not the
//! request (RFC 8305, "Happy Eyeballs"). Families alternate, IPv4 first (contract 4.6). Attempts
//! that lose are dropped. `connect` and the health checks call it.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use smallvec::SmallVec;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until};

use crate::dns::Addresses;
use crate::error::{Failure, Reason};

/// How long an attempt has before the next begins beside it (RFC 8305, 5 and 8).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Connects to whichever address answers first.
///
/// # Errors
/// With what the last attempt came to, when none succeeded by the deadline.
pub async fn dial(addresses: &[IpAddr], port: u16, deadline: Instant) -> Result<TcpStream, Failure> {
    let connect = |address| TcpStream::connect(SocketAddr::new(address, port));
    let stream = race(alternating(addresses), connect, deadline).await?;
    // Heads are written in one piece; waiting for more would only add latency.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY was not accepted");
    }
    Ok(stream)
}

async fn race<T, F>(
    addresses: Addresses,
    connect: impl Fn(IpAddr) -> F,
    deadline: Instant,
) -> Result<T, Failure>
where
    F: Future<Output = std::io::Result<T>>,
{
    let connect = &connect;
    let attempt = |address| async move { (address, connect(address).await) };
    let mut untried = addresses.into_iter();
    let mut attempts: FuturesUnordered<_> = untried.next().map(attempt).into_iter().collect();
    let mut failure = Failure::new(Reason::UpstreamUnresolved);
    while !attempts.is_empty() {
        tokio::select! {
            // Nothing is lost with the arms not taken: attempts stay where they are.
            Some((address, outcome)) = attempts.next() => match outcome {
                Ok(connected) => return Ok(connected),
                Err(error) => {
                    failure = Failure::with(Reason::UpstreamConnectFailed, format!("{address}: {error}"));
                }
            },
            () = sleep(ATTEMPT_DELAY), if untried.len() > 0 => {}
            () = sleep_until(deadline) => {
                return Err(Failure::with(Reason::UpstreamConnectTimeout, "no address answered"));
            }
        }
        attempts.extend(untried.next().map(attempt));
    }
    Err(failure)
}

/// The addresses with their families in turn, each in its own order.
fn alternating(addresses: &[IpAddr]) -> Addresses {
    let (v4, v6): (SmallVec<[IpAddr; 4]>, SmallVec<[IpAddr; 4]>) =
        addresses.iter().copied().partition(IpAddr::is_ipv4);
    let (mut v4, mut v6) = (v4.into_iter(), v6.into_iter());
    let mut mixed = Addresses::new();
    while mixed.len() < addresses.len() {
        mixed.extend(v4.next());
        mixed.extend(v6.next());
    }
    mixed
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::IpAddr;
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::{Addresses, alternating, race};
    use crate::error::Reason;

    fn addresses(texts: &[&str]) -> Addresses {
        texts.iter().map(|text| text.parse::<IpAddr>().expect("an address")).collect()
    }

    /// Dials addresses that answer after so many milliseconds, `None` by refusing; the winner,
    /// or why there is none, and when that was known.
    async fn dialled(answers: &[(&str, u64, bool)], limit_ms: u64) -> (Result<String, Reason>, u128) {
        let begun = Instant::now();
        let names: Vec<&str> = answers.iter().map(|(name, _, _)| *name).collect();
        let connect = |address: IpAddr| {
            let text = address.to_string();
            let (_, after, accepts) = *answers.iter().find(|(name, _, _)| *name == text).expect("known");
            async move {
                sleep(Duration::from_millis(after)).await;
                if accepts { Ok(text) } else { Err(io::Error::from(io::ErrorKind::ConnectionRefused)) }
            }
        };
        let deadline = begun + Duration::from_millis(limit_ms);
        let won = race(addresses(&names), connect, deadline).await;
        (won.map_err(|failure| failure.reason), begun.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_costs_a_quarter_of_a_second() {
        let (winner, took) = dialled(&[("10.0.0.1", 60_000, true), ("10.0.0.2", 20, true)], 5_000).await;
        assert_eq!((winner, took), (Ok("10.0.0.2".to_owned()), 270));
        // One that is merely slow wins while the next has not answered.
        let (winner, took) = dialled(&[("10.0.0.1", 300, true), ("10.0.0.2", 100, true)], 5_000).await;
        assert_eq!((winner, took), (Ok("10.0.0.1".to_owned()), 300));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_begins_the_next_attempt_at_once() {
        let refused = ("10.0.0.1", 5, false);
        let (winner, took) = dialled(&[refused, ("10.0.0.2", 10, true)], 5_000).await;
        assert_eq!((winner, took), (Ok("10.0.0.2".to_owned()), 15));
        let (winner, took) = dialled(&[refused, ("10.0.0.2", 10, false)], 5_000).await;
        assert_eq!((winner, took), (Err(Reason::UpstreamConnectFailed), 15));
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_ends_every_attempt() {
        let (winner, took) = dialled(&[("10.0.0.1", 60_000, true), ("10.0.0.2", 60_000, true)], 1_000).await;
        assert_eq!((winner, took), (Err(Reason::UpstreamConnectTimeout), 1_000));
        assert_eq!(dialled(&[], 1_000).await.0, Err(Reason::UpstreamUnresolved));
    }

    #[test]
    fn families_alternate_and_keep_their_order() {
        let mixed = alternating(&addresses(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "::1", "::2"]));
        assert_eq!(mixed, addresses(&["10.0.0.1", "::1", "10.0.0.2", "::2", "10.0.0.3"]));
        assert_eq!(alternating(&addresses(&["::1"])), addresses(&["::1"]));
    }
}
