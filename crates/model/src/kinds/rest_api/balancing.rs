// SPDX-License-Identifier: Apache-2.0
//! `upstreamDefinitions[].loadBalancing`: which target of a definition serves a request.
//! An extension of the contract, described in `docs/upstreams.md`. What does not go
//! together (a key to hash without the policy that hashes) is refused here, so that a
//! [`LoadBalancing`] says one thing only.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{duration_ms, values};
use crate::fields::{Fields, Findings};

/// The cookie of `sticky-cookie` when the author names none.
pub const DEFAULT_COOKIE: &str = "ferrogate-upstream";

const MAX_SLOW_START: Duration = Duration::from_secs(3600);
const MAX_COOKIE_AGE: Duration = Duration::from_secs(366 * 24 * 3600);

/// How requests are spread over a definition's targets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancing {
    /// The rule.
    #[serde(default)]
    pub policy: BalancingPolicy,
    /// Percent of targets that must be usable; with fewer, all are used. `None` is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub panic_threshold: Option<u8>,
    /// How long a target that came back takes to get its full share; `None` gives it at once.
    #[serde(default, with = "duration_ms", skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<Duration>,
}

/// The rule by which one target is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BalancingPolicy {
    /// In turn, by weight.
    #[default]
    RoundRobin,
    /// Of two taken at random by weight, the one with fewer requests under way.
    LeastRequest,
    /// Of two taken at random by weight, the one that answers sooner.
    Ewma,
    /// The same target for the same key, as long as it is usable.
    RingHash(HashKey),
    /// The target that a cookie of ours names.
    StickyCookie(StickyCookie),
}

/// What of a request is hashed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HashKey {
    /// The first value of a header; lower case.
    Header(String),
    /// The value of a cookie.
    Cookie(String),
    /// The client's address.
    ClientAddress,
}

/// The cookie that names a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StickyCookie {
    /// Its name.
    pub name: String,
    /// `Max-Age`; without it the cookie ends with the client's session.
    #[serde(default, with = "duration_ms", skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
}

#[derive(Clone, Copy, PartialEq)]
enum Word {
    RoundRobin,
    LeastRequest,
    Ewma,
    RingHash,
    StickyCookie,
}

pub(super) fn read(definition: &Fields<'_>, found: &mut Findings) -> Option<LoadBalancing> {
    if !definition.has("loadBalancing") {
        return None;
    }
    let fields = definition.fields("loadBalancing", found);
    fields.only(&["policy", "hashOn", "name", "ttl", "panicThreshold", "slowStart"], found);
    let words = [
        ("round-robin", Word::RoundRobin),
        ("least-request", Word::LeastRequest),
        ("ewma", Word::Ewma),
        ("ring-hash", Word::RingHash),
        ("sticky-cookie", Word::StickyCookie),
    ];
    let panic_threshold = values::whole(&fields, "panicThreshold", 0..=100, found);
    let slow_start = values::duration(&fields, "slowStart", Duration::from_millis(1)..=MAX_SLOW_START, found);
    let word = values::choice(&fields, "policy", &words, found).unwrap_or(Word::RoundRobin);
    let belongs: &[&str] = match word {
        Word::RoundRobin | Word::LeastRequest | Word::Ewma => &[],
        Word::RingHash => &["hashOn", "name"],
        Word::StickyCookie => &["name", "ttl"],
    };
    for name in ["hashOn", "name", "ttl"] {
        if fields.has(name) && !belongs.contains(&name) {
            found.violations.push(fields.path(name), "Has no meaning with this load balancing policy");
        }
    }
    let policy = match word {
        Word::RoundRobin => BalancingPolicy::RoundRobin,
        Word::LeastRequest => BalancingPolicy::LeastRequest,
        Word::Ewma => BalancingPolicy::Ewma,
        Word::RingHash => BalancingPolicy::RingHash(hash_key(&fields, found)?),
        Word::StickyCookie => BalancingPolicy::StickyCookie(StickyCookie {
            name: values::token(&fields, "name", found).unwrap_or_else(|| DEFAULT_COOKIE.to_owned()),
            ttl: values::duration(&fields, "ttl", Duration::from_secs(1)..=MAX_COOKIE_AGE, found),
        }),
    };
    Some(LoadBalancing { policy, panic_threshold, slow_start })
}

/// `hashOn` with its `name`, wherever a key to hash can stand.
pub(super) fn hash_key(fields: &Fields<'_>, found: &mut Findings) -> Option<HashKey> {
    let words = [("header", 0), ("cookie", 1), ("client-address", 2)];
    if !fields.has("hashOn") {
        found.violations.push(fields.path("hashOn"), "What to hash is required");
        return None;
    }
    let word = values::choice(fields, "hashOn", &words, found)?;
    if word == 2 {
        if fields.has("name") {
            found.violations.push(fields.path("name"), "The client's address has no name");
        }
        return Some(HashKey::ClientAddress);
    }
    if !fields.has("name") {
        found.violations.push(fields.path("name"), "The name of the header or cookie is required");
    }
    let name = values::token(fields, "name", found)?;
    Some(if word == 0 { HashKey::Header(name.to_ascii_lowercase()) } else { HashKey::Cookie(name) })
}
