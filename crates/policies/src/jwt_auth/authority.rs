// SPDX-License-Identifier: Apache-2.0
//! Who may vouch for tokens: the operator's key managers, which of them a token is checked
//! with, and the tokens judged before. One for the whole process, whatever the number of
//! routes. It decides whether a token is genuine; what a route asks of it, `checks` says.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::cache::Cache;
use super::keys::Keys;
use super::token::{ScopeClaim, Token};

/// A longer header value is no token.
const MAX_VALUE_BYTES: usize = 16 << 10;

/// Signatures that are accepted: never a shared secret's, never none (contract 6.3).
const ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::PS256, Algorithm::ES256];

/// A set of key managers, a bit each.
pub(super) type Managers = u64;

/// The most there may be.
pub(super) const MAX_MANAGERS: usize = Managers::BITS as usize;

/// A key manager of the operator's.
pub(super) struct Manager {
    pub name: String,
    pub issuer: Option<String>,
    pub scope_claim: ScopeClaim,
    pub keys: Arc<Keys>,
}

/// How judged tokens are remembered.
pub(super) struct Memory {
    pub cache: Cache<Judged>,
    pub good_ms: u64,
    pub bad_ms: u64,
}

/// All that vouches for tokens.
pub(super) struct Authority {
    pub managers: Vec<Manager>,
    pub validate_issuer: bool,
    pub leeway_ms: u64,
    pub memory: Option<Memory>,
    /// Of the keys.
    pub generation: Arc<AtomicU64>,
}

/// What was found out about a header value.
#[derive(Clone)]
pub(super) struct Judged {
    generation: u64,
    until_ms: u64,
    finding: Finding,
}

#[derive(Clone)]
enum Finding {
    Good(Arc<Token>),
    /// No key of these managers signed it.
    Bad {
        issuer: Option<Arc<str>>,
        tried: Managers,
    },
}

/// Why a token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is not acceptable.
    Rejected(&'static str),
    /// No key of these managers could have signed it, as far as keys are known.
    NoKey(Managers),
}

/// How a route wants a token carried, and by whom issued.
pub(super) struct Terms<'a> {
    pub scheme: &'a str,
    pub issuers: &'a [String],
}

#[derive(Deserialize)]
struct Issued {
    iss: Option<String>,
}

impl Authority {
    /// Whether the header's value is a genuine token whose time it is.
    ///
    /// # Errors
    /// When it is not, or not yet known.
    pub fn judge(&self, value: &[u8], terms: &Terms<'_>, now_ms: u64) -> Result<Arc<Token>, Refused> {
        let token = match self.remembered(value, terms, now_ms) {
            Some(known) => known?,
            None => self.examine(value, terms, now_ms)?,
        };
        if token.expires_ms.is_some_and(|at| now_ms > at.saturating_add(self.leeway_ms)) {
            return Err(Refused::Rejected("the token has expired"));
        }
        if token.begins_ms.is_some_and(|at| now_ms.saturating_add(self.leeway_ms) < at) {
            return Err(Refused::Rejected("the token is not valid yet"));
        }
        Ok(token)
    }

    fn remembered(
        &self,
        value: &[u8],
        terms: &Terms<'_>,
        now_ms: u64,
    ) -> Option<Result<Arc<Token>, Refused>> {
        let known = self.memory.as_ref()?.cache.get(value)?;
        if now_ms >= known.until_ms || known.generation != self.generation.load(Ordering::Acquire) {
            return None;
        }
        match known.finding {
            Finding::Good(token) => {
                let manager = self.managers.get(token.manager)?;
                // Its keys may be due although every token is known.
                manager.keys.keep_fresh(now_ms);
                let accepted = self.candidates(token.issuer.as_deref(), terms.issuers);
                let carried = carries(value, token.bare.len(), terms.scheme);
                (carried && accepted & (1 << token.manager) != 0).then_some(Ok(token))
            }
            Finding::Bad { issuer, tried } => {
                let accepted = self.candidates(issuer.as_deref(), terms.issuers);
                let futile = accepted & !tried == 0;
                futile.then_some(Err(Refused::Rejected("the token is known to be bad")))
            }
        }
    }

    fn examine(&self, value: &[u8], terms: &Terms<'_>, now_ms: u64) -> Result<Arc<Token>, Refused> {
        if value.len() > MAX_VALUE_BYTES {
            return Err(Refused::Rejected("the token is too long"));
        }
        let value = Bytes::copy_from_slice(value);
        let bare = credentials(&value, terms.scheme).ok_or(Refused::Rejected("there is no token"))?;
        let issuer = issuer(bare).ok_or(Refused::Rejected("the token is malformed"))?;
        let candidates = self.candidates(issuer.as_deref(), terms.issuers);
        if candidates == 0 {
            return Err(Refused::Rejected("nobody vouches for the token's issuer"));
        }
        // Before the keys are looked at: what is found with old ones must not outlive new ones.
        let generation = self.generation.load(Ordering::Acquire);
        let found = self.verify(&value, bare, candidates, now_ms);
        let (finding, ttl) = match &found {
            Ok(token) => {
                (Finding::Good(Arc::clone(token)), self.memory.as_ref().map(|memory| memory.good_ms))
            }
            Err(Refused::Rejected(_)) => {
                let issuer = issuer.map(Arc::from);
                (Finding::Bad { issuer, tried: candidates }, self.memory.as_ref().map(|memory| memory.bad_ms))
            }
            Err(Refused::NoKey(_)) => return found,
        };
        if let (Some(memory), Some(ttl)) = (&self.memory, ttl) {
            let until_ms = now_ms.saturating_add(ttl);
            memory.cache.insert(value.clone(), Judged { generation, until_ms, finding });
        }
        found
    }

    fn verify(
        &self,
        value: &Bytes,
        bare: &str,
        candidates: Managers,
        now_ms: u64,
    ) -> Result<Arc<Token>, Refused> {
        let header = decode_header(bare).map_err(|_| Refused::Rejected("the token is malformed"))?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(Refused::Rejected("the token's algorithm is not accepted"));
        }
        // What it lists must be understood (RFC 7515, 4.1.11), and nothing is.
        if header.crit.is_some() {
            return Err(Refused::Rejected("the token has critical extensions"));
        }
        let mut validation = Validation::new(header.alg);
        // Times are looked at anew for every request, by the request's clock; the audience is the route's.
        (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
        validation.required_spec_claims.clear();
        let mut fitting = false;
        for (index, manager) in self.chosen(candidates) {
            manager.keys.keep_fresh(now_ms);
            let Some(held) = manager.keys.held() else { continue };
            for key in held.iter().filter(|key| key.fits(header.alg, header.kid.as_deref())) {
                fitting = true;
                let Ok(data) = decode::<Map<String, Value>>(bare, &key.decoding, &validation) else {
                    continue;
                };
                let token = Token::new(index, data.claims, &manager.scope_claim, value, bare);
                return token.map(Arc::new).ok_or(Refused::Rejected("the token's times are unreadable"));
            }
        }
        if fitting {
            return Err(Refused::Rejected("the token's signature is nobody's"));
        }
        Err(Refused::NoKey(candidates))
    }

    /// Whether asking these managers for their keys may help; it has begun when it may.
    pub fn seek(&self, managers: Managers, now_ms: u64) -> bool {
        // Not `any`: all of them are to be asked.
        self.chosen(managers).filter(|(_, manager)| manager.keys.seek(now_ms)).count() > 0
    }

    /// Ready when each of them has answered, or failed to.
    pub async fn answered(&self, managers: Managers) {
        let waits: Vec<_> = self.chosen(managers).map(|(_, manager)| manager.keys.next()).collect();
        futures::future::join_all(waits).await;
    }

    fn chosen(&self, managers: Managers) -> impl Iterator<Item = (usize, &Manager)> {
        self.managers.iter().enumerate().filter(move |(index, _)| managers & (1 << index) != 0)
    }

    /// Whose keys a token of this issuer is checked with (contract 6.3).
    fn candidates(&self, issuer: Option<&str>, listed: &[String]) -> Managers {
        let is_listed = |name: &str| listed.iter().any(|one| one == name);
        if listed.is_empty() {
            let Some(issuer) = issuer else { return self.all(|_| true) };
            let exact = self.all(|manager| manager.issuer.as_deref() == Some(issuer));
            return match exact {
                0 if self.validate_issuer => self.all(|manager| manager.issuer.is_none()),
                0 => self.all(|_| true),
                exact => exact,
            };
        }
        let exact = issuer.map_or(0, |issuer| {
            self.all(|manager| {
                manager.issuer.as_deref() == Some(issuer) && (is_listed(issuer) || is_listed(&manager.name))
            })
        });
        match exact {
            0 => self.all(|manager| manager.issuer.is_none() && is_listed(&manager.name)),
            exact => exact,
        }
    }

    fn all(&self, accept: impl Fn(&Manager) -> bool) -> Managers {
        let mut managers = 0;
        for (index, manager) in self.managers.iter().enumerate() {
            managers |= Managers::from(accept(manager)) << index;
        }
        managers
    }
}

/// The token, when the value is exactly scheme and token; without a scheme, the token alone.
fn credentials<'v>(value: &'v [u8], scheme: &str) -> Option<&'v str> {
    let mut words = std::str::from_utf8(value).ok()?.split_ascii_whitespace();
    if !scheme.is_empty() && !words.next()?.eq_ignore_ascii_case(scheme) {
        return None;
    }
    let bare = words.next()?;
    words.next().is_none().then_some(bare)
}

/// The same for a value that was found to end with a token of this length.
fn carries(value: &[u8], bare: usize, scheme: &str) -> bool {
    let before = value.get(..value.len().saturating_sub(bare)).unwrap_or_default();
    before.trim_ascii().eq_ignore_ascii_case(scheme.as_bytes())
}

/// `iss` of a token that nobody has checked yet: only a hint at whom to check it with.
fn issuer(bare: &str) -> Option<Option<String>> {
    let mut parts = bare.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
    Some(serde_json::from_slice::<Issued>(&claims).ok()?.iss)
}
