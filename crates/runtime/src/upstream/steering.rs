// SPDX-License-Identifier: Apache-2.0
//! What is done to a route's requests on their way to an upstream beyond sending them once:
//! divided over several definitions, copied to another, delayed or failed on purpose, sent
//! again. Only routes that ask for any of it have a [`Steering`]; all others cost one test
//! of a pointer. `prepare` compiles it; `request` follows it. It decides and sends nothing.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_model::kinds::rest_api::Fault;
use http::StatusCode;

use super::choose;
use super::hash::{self, Key};
use super::pick::Header;
use super::retry::Retry;
use crate::router::Target;

/// Everything a route's requests are steered by.
#[derive(Default)]
pub struct Steering {
    /// Divided over several definitions.
    pub split: Option<Split>,
    /// Copied to another.
    pub mirror: Option<Mirror>,
    /// Delayed or failed on purpose.
    pub fault: Option<Fault>,
    /// Sent again.
    pub retry: Option<Retry>,
}

/// Requests divided over several definitions.
pub struct Split {
    parts: Vec<(Arc<Target>, u32)>,
    key: Option<Key>,
}

/// Requests copied to another definition.
pub struct Mirror {
    /// Where to.
    pub target: Arc<Target>,
    /// So many of a hundred.
    pub percent: u8,
}

/// What a fault does to one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Injected {
    /// It waits.
    pub delay: Option<Duration>,
    /// And is answered with this status.
    pub abort: Option<StatusCode>,
}

impl Steering {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Steering { split, mirror, fault, retry } = self;
        split.is_none() && mirror.is_none() && fault.is_none() && retry.is_none()
    }

    /// The longest request body to hold in memory, for what needs it more than once.
    #[must_use]
    pub fn held_body_bytes(&self) -> usize {
        let retried = self.retry.as_ref().map_or(0, Retry::max_body_bytes);
        let mirrored = if self.mirror.is_some() { super::mirror::MAX_BODY_BYTES } else { 0 };
        retried.max(mirrored)
    }
}

impl Split {
    /// A split by these shares, of which some is not 0. With a key, the same key always goes
    /// the same way.
    #[must_use]
    pub fn new(parts: Vec<(Arc<Target>, u32)>, key: Option<Key>) -> Split {
        Split { parts, key }
    }

    /// Where this request goes.
    #[must_use]
    pub fn choose(&self, header: Header<'_>, client: IpAddr, dice: f64) -> Option<&Arc<Target>> {
        let keyed = self.key.as_ref().and_then(|key| key.of(header, client));
        // Mixed with a constant, so that which part a key goes to says nothing about which
        // endpoint of it the same key leads to.
        let dice = keyed.map_or(dice, |key| hash::fraction(hash::mix(key ^ 0x9e37_79b9_7f4a_7c15)));
        let total: u32 = self.parts.iter().map(|(_, share)| share).sum();
        let place = (dice.clamp(0.0, 1.0) * f64::from(total)) as u64;
        let index = choose::at_place(self.parts.iter().map(|(_, share)| *share), place);
        self.parts.get(index?).map(|(target, _)| target)
    }
}

/// What a fault does to a request with these dice.
#[must_use]
pub fn inject(fault: &Fault, dice: &mut fastrand::Rng) -> Injected {
    let mut hits = |percent: u8| dice.u8(..100) < percent;
    Injected {
        delay: fault.delay.filter(|delay| hits(delay.percent)).map(|delay| delay.duration),
        abort: fault
            .abort
            .filter(|abort| hits(abort.percent))
            .and_then(|abort| StatusCode::from_u16(abort.status).ok()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;
    use std::time::Duration;

    use ferrogate_model::kinds::rest_api::{Fault, FaultAbort, FaultDelay, HashKey};
    use http::HeaderName;

    use super::{Split, inject};
    use crate::router::Target;
    use crate::upstream::hash::Key;

    fn split(shares: &[(&str, u32)], key: Option<Key>) -> Split {
        let target = |name: &str| Target {
            name: name.to_owned(),
            endpoints: Default::default(),
            base_path: String::new(),
            connect_timeout: Duration::ZERO,
            group: None,
        };
        Split::new(shares.iter().map(|(name, share)| (Arc::new(target(name)), *share)).collect(), key)
    }

    #[test]
    fn shares_are_kept_and_a_key_always_goes_the_same_way() {
        const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let shares = [("stable", 90), ("none", 0), ("canary", 10)];
        let by_dice = split(&shares, None);
        let mut dice = fastrand::Rng::with_seed(3);
        let mut seen = BTreeMap::<String, usize>::new();
        for _ in 0..10_000 {
            let target = by_dice.choose(&|_| None, CLIENT, dice.f64()).expect("a target");
            *seen.entry(target.name.clone()).or_default() += 1;
        }
        assert!(seen["canary"].abs_diff(1000) < 150 && !seen.contains_key("none"), "{seen:?}");
        let edges = [(0.0, "stable"), (0.899, "stable"), (0.901, "canary"), (0.999_999, "canary")];
        for (dice, expected) in edges {
            assert_eq!(
                by_dice.choose(&|_| None, CLIENT, dice).map(|target| target.name.as_str()),
                Some(expected)
            );
        }
        let by_key = split(&shares, Key::new(&HashKey::Header("x-user".to_owned())));
        let mut canary = 0;
        for user in 0..1000 {
            let user = format!("user-{user}");
            let header = |name: &HeaderName| (name == "x-user").then_some(user.as_bytes());
            let first = by_key.choose(&header, CLIENT, 0.1).expect("a target").name.clone();
            assert_eq!(
                by_key.choose(&header, CLIENT, 0.95).map(|target| target.name.clone()),
                Some(first.clone())
            );
            canary += usize::from(first == "canary");
        }
        assert!(canary.abs_diff(100) < 40, "{canary} of 1000");
    }

    #[test]
    fn faults_follow_their_seed() {
        let fault = Fault {
            delay: Some(FaultDelay { duration: Duration::from_secs(1), percent: 30 }),
            abort: Some(FaultAbort { status: 503, percent: 10 }),
        };
        let run = |seed| -> Vec<super::Injected> {
            let mut dice = fastrand::Rng::with_seed(seed);
            (0..1000).map(|_| inject(&fault, &mut dice)).collect()
        };
        let injected = run(5);
        assert_eq!(injected, run(5), "one seed, one sequence");
        let delayed = injected.iter().filter(|injected| injected.delay.is_some()).count();
        let aborted = injected.iter().filter(|injected| injected.abort.is_some()).count();
        assert!(delayed.abs_diff(300) < 60 && aborted.abs_diff(100) < 40, "{delayed}, {aborted}");
        let always = Fault { delay: None, abort: Some(FaultAbort { status: 500, percent: 100 }) };
        let mut dice = fastrand::Rng::with_seed(1);
        assert!((0..100).all(|_| inject(&always, &mut dice).abort.is_some()));
    }
}
