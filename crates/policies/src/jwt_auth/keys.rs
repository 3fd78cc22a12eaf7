// SPDX-License-Identifier: Apache-2.0
//! One key manager's keys: what a token's signature may be checked with, and when to get
//! them anew. Keys are got beside requests; those held go on working when their source does
//! not, so that a provider's outage locks nobody out. No clock, no socket: requests bring the
//! time, [`Fetch`] the documents.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use ferrogate_policy::Fetch;
use ferrogate_policy::fetch::{Order, Source};
use futures::channel::oneshot;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};

/// The largest key set read.
const MAX_BYTES: usize = 1 << 20;

/// The most keys of one set that are tried: what a token without a key id costs.
const MAX_KEYS: usize = 64;

/// An unknown key id asks for the keys anew, but not more often than this: anybody can
/// make one up.
const UNKNOWN_KEY_PAUSE: Duration = Duration::from_secs(10);

/// When keys are got, and how often it is tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// Older keys are got anew.
    pub ttl: Duration,
    /// How long one try may take.
    pub timeout: Duration,
    /// Tries after the first that failed.
    pub retries: u32,
    /// Between two tries.
    pub pause: Duration,
}

/// A key that signatures are checked with.
pub(super) struct Key {
    pub kid: Option<String>,
    /// What the key is said to be for; else whatever its kind can do.
    algorithm: Option<Algorithm>,
    elliptic: bool,
    pub decoding: DecodingKey,
}

/// The keys of one manager.
pub(super) struct Keys {
    source: Option<Source>,
    schedule: Schedule,
    fetch: Arc<dyn Fetch>,
    held: ArcSwapOption<Vec<Key>>,
    /// Grows when keys change, of whatever manager: what was verified before is void.
    generation: Arc<AtomicU64>,
    /// Before this nobody needs to look whether the keys are old.
    fresh_until_ms: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How many tries of this round have failed, while another is under way or will be.
    trying: Option<u32>,
    /// When the latest round of tries began; 0 is never.
    began_ms: u64,
    /// The document held, to see whether it changed.
    document: Bytes,
    waiting: Vec<oneshot::Sender<()>>,
}

impl Key {
    /// Whether a signature of this kind can be this key's.
    pub fn fits(&self, algorithm: Algorithm, kid: Option<&str>) -> bool {
        let kind = match algorithm {
            Algorithm::RS256 | Algorithm::PS256 => !self.elliptic,
            Algorithm::ES256 => self.elliptic,
            _ => false,
        };
        let named = match (kid, &self.kid) {
            (Some(kid), Some(own)) => kid == own,
            // A key from a PEM file has no name.
            (None, _) | (_, None) => true,
        };
        kind && named && self.algorithm.is_none_or(|own| own == algorithm)
    }

    fn of_jwk(jwk: &Jwk) -> Option<Key> {
        let elliptic = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => false,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => true,
            // Shared secrets above all: whoever can check could sign.
            _ => return None,
        };
        let usage = jwk.common.public_key_use.as_ref();
        if usage.is_some_and(|usage| *usage != PublicKeyUse::Signature) {
            return None;
        }
        let algorithm = match jwk.common.key_algorithm {
            None => None,
            Some(named) => Some(named.to_string().parse().ok()?),
        };
        let decoding = DecodingKey::from_jwk(jwk).ok()?;
        Some(Key { kid: jwk.common.key_id.clone(), algorithm, elliptic, decoding })
    }
}

/// Reads a JSON Web Key Set (RFC 7517), or public keys and certificates in PEM. Keys that no
/// accepted signature could be checked with are left out.
///
/// # Errors
/// When no key is left.
pub(super) fn parse(document: &[u8]) -> Result<Vec<Key>, String> {
    const BEGIN: &str = "-----BEGIN ";
    let text = std::str::from_utf8(document).map_err(|_| "it is not text".to_owned())?;
    let keys: Vec<Key> = if let Some(first) = text.find(BEGIN) {
        let rest = text.get(first..).unwrap_or_default();
        rest.split_inclusive(BEGIN)
            .filter_map(|block| pem(&format!("{BEGIN}{}", block.trim_end_matches(BEGIN))))
            .collect()
    } else {
        let set: JwkSet = serde_json::from_str(text).map_err(|error| error.to_string())?;
        set.keys.iter().filter_map(Key::of_jwk).take(MAX_KEYS).collect()
    };
    if keys.is_empty() {
        return Err("it has no RSA or P-256 key for signatures".to_owned());
    }
    Ok(keys)
}

fn pem(block: &str) -> Option<Key> {
    let rsa = DecodingKey::from_rsa_pem(block.as_bytes()).map(|decoding| (false, decoding));
    let (elliptic, decoding) =
        rsa.or_else(|_| DecodingKey::from_ec_pem(block.as_bytes()).map(|decoding| (true, decoding))).ok()?;
    Some(Key { kid: None, algorithm: None, elliptic, decoding })
}

impl Keys {
    /// Keys from a source that is asked when the first request needs it.
    pub fn remote(
        source: Source,
        schedule: Schedule,
        fetch: Arc<dyn Fetch>,
        generation: Arc<AtomicU64>,
    ) -> Arc<Keys> {
        let held = ArcSwapOption::empty();
        Arc::new(Keys {
            source: Some(source),
            schedule,
            fetch,
            held,
            generation,
            fresh_until_ms: AtomicU64::new(0),
            state: Mutex::default(),
        })
    }

    /// Keys that never change.
    pub fn fixed(keys: Vec<Key>, schedule: Schedule, fetch: Arc<dyn Fetch>) -> Arc<Keys> {
        let held = ArcSwapOption::from_pointee(keys);
        Arc::new(Keys {
            source: None,
            schedule,
            fetch,
            held,
            generation: Arc::default(),
            fresh_until_ms: AtomicU64::new(u64::MAX),
            state: Mutex::default(),
        })
    }

    /// The keys held, if there are any yet.
    pub fn held(&self) -> Option<Arc<Vec<Key>>> {
        self.held.load_full()
    }

    /// Gets the keys anew beside the request when they are due.
    pub fn keep_fresh(self: &Arc<Keys>, now_ms: u64) {
        if self.fresh_until_ms.load(Ordering::Relaxed) <= now_ms {
            self.renew(self.schedule.ttl, now_ms);
        }
    }

    /// For a request that found no key: true when waiting for [`Keys::next`] may help.
    pub fn seek(self: &Arc<Keys>, now_ms: u64) -> bool {
        let pause = if self.held.load().is_some() { UNKNOWN_KEY_PAUSE } else { self.schedule.pause };
        self.source.is_some() && self.renew(pause, now_ms)
    }

    /// Ready when the round's first try has ended, well or badly; at once when that is not under
    /// way. Nobody waits for the others: with the pause before them they take longer than a client
    /// should wait.
    pub fn next(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state();
        if state.trying == Some(0) {
            // Those who left make room; each of the rest is a request in flight.
            state.waiting.retain(|waiting| !waiting.is_canceled());
            state.waiting.push(sender);
        }
        receiver
    }

    /// Begins to get the keys unless that is under way or was begun less than `pause` ago.
    /// True when the first try is under way.
    fn renew(self: &Arc<Keys>, pause: Duration, now_ms: u64) -> bool {
        let mut state = self.state();
        if let Some(failed) = state.trying {
            return failed == 0;
        }
        let pause = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        if state.began_ms != 0 && now_ms < state.began_ms.saturating_add(pause) {
            return false;
        }
        state.trying = Some(0);
        state.began_ms = now_ms.max(1);
        let ttl = u64::try_from(self.schedule.ttl.as_millis()).unwrap_or(u64::MAX);
        self.fresh_until_ms.store(now_ms.saturating_add(ttl), Ordering::Relaxed);
        drop(state);
        self.attempt(0);
        true
    }

    fn attempt(self: &Arc<Keys>, failed: u32) {
        let Some(source) = self.source.clone() else { return };
        let delay = if failed == 0 { Duration::ZERO } else { self.schedule.pause };
        let order = Order { source, delay, timeout: self.schedule.timeout, max_bytes: MAX_BYTES };
        let keys = Arc::clone(self);
        self.fetch.start(order, Box::new(move |got| keys.ended(got, failed)));
    }

    fn ended(self: &Arc<Keys>, got: Result<Bytes, String>, failed: u32) {
        let parsed = got.and_then(|document| Ok((parse(&document)?, document)));
        let again = parsed.is_err() && failed < self.schedule.retries;
        let mut state = self.state();
        match parsed {
            Ok((keys, document)) if state.document != document => {
                state.document = document;
                self.held.store(Some(Arc::new(keys)));
                self.generation.fetch_add(1, Ordering::Release);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(source = ?self.source, error, "keys for tokens were not got"),
        }
        state.trying = again.then_some(failed + 1);
        for waiting in state.waiting.drain(..) {
            drop(waiting);
        }
        drop(state);
        if again {
            self.attempt(failed + 1);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
