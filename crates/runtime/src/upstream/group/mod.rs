// SPDX-License-Identifier: Apache-2.0
//! A target that is more than a weighted turn: its endpoints with their states, and the
//! settings that say which of them takes a request. Only targets that need it have a
//! [`Group`]; all others cost one test of a pointer. `prepare` compiles it, `balance` asks
//! it, and what it hands out is a guard that tells the states how the request went.

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ferrogate_model::kinds::rest_api::{
    BalancingPolicy, CircuitBreaker, OutlierDetection, UpstreamDefinition, UpstreamProtocol,
};
use http::HeaderValue;
use smallvec::SmallVec;

use super::choose::{self, Candidate};
use super::hash::{self, Key};
use super::health::Health;
use super::pick::{Guard, PickInput};
use super::states::EndpointState;
use crate::error::{Failure, Reason};
use crate::router::Endpoint;

/// Endpoints of the runtime's own zone are given this much more than their usable share of
/// the zone before requests spill over to others: with 1.4, a zone keeps all of its requests
/// while at least 72 percent of its weight is usable.
const ZONE_OVERCOMMIT: f64 = 1.4;

/// With fewer usable endpoints than this percentage, all are used: when most seem broken the
/// fault is likelier in what looks at them, and the rest would not carry the load.
const DEFAULT_PANIC_PERCENT: u8 = 50;

/// An endpoint that has just come back gets this part of its share at first.
const SLOW_START_PERCENT: u64 = 10;

/// Endpoints looked at in one pick; more of them go to the heap.
type Members<'m> = SmallVec<[&'m Arc<Member>; 8]>;
type Candidates<'m> = SmallVec<[Candidate<'m>; 8]>;

/// A target's endpoints and how one is taken.
pub struct Group {
    rule: Rule,
    panic_percent: usize,
    slow_start_us: Option<u64>,
    outlier: Option<OutlierDetection>,
    breaker: CircuitBreaker,
    /// They change where names are followed, and never within a pick.
    members: ArcSwap<Vec<Arc<Member>>>,
    /// Ejections are counted and made one at a time, or two workers could each see room for one.
    ejecting: Mutex<()>,
}

/// One endpoint of a group.
pub struct Member {
    /// Where it is.
    pub endpoint: Endpoint,
    /// What is known of it.
    pub state: Arc<EndpointState>,
    /// What it says of itself, where it is asked.
    pub health: Option<Arc<Health>>,
    /// It runs in the runtime's own zone.
    pub local: bool,
    /// Its number among all endpoints: where keys find it, and what its cookie says.
    pub place: u64,
}

/// The compiled balancing policy.
enum Rule {
    InTurn,
    LessBusy,
    Sooner,
    ByKey(Key),
    ByCookie(Sticky),
}

/// The compiled sticky cookie.
struct Sticky {
    name: String,
    /// Everything of `set-cookie` after the value.
    attributes: String,
}

/// What one pick goes by.
pub(super) struct Chance<'a> {
    pub(super) turn: u32,
    pub(super) dice: &'a mut fastrand::Rng,
    pub(super) now: Instant,
}

impl Member {
    /// An endpoint of the group `name`, which makes its place differ from the same address's
    /// in other groups: a cookie must not tell which APIs share a backend.
    #[must_use]
    pub fn new(endpoint: Endpoint, state: Arc<EndpointState>, local: bool, name: &str) -> Member {
        let Endpoint { scheme, protocol: _, tls: _, host, port, address, weight: _, owner: _ } = &endpoint;
        let mut text = format!("{name} {scheme:?} {host} {port}");
        if let Some(address) = address {
            text.push_str(&format!(" {address}"));
        }
        let place = hash::of_bytes(text.as_bytes());
        Member { endpoint, state, health: None, local, place }
    }

    /// The same, asked whether it is well.
    #[must_use]
    pub fn checked(self, health: Option<Arc<Health>>) -> Member {
        Member { health, ..self }
    }

    /// The same, with connections that it shares with nobody where they are counted: others know
    /// nothing of its limit, and would take what it is counted for.
    #[must_use]
    pub fn counted(mut self, counted: bool) -> Member {
        self.endpoint.owner = counted.then_some(self.place);
        self
    }

    /// How long it has been back after it was ejected or unwell.
    fn back_for_us(&self, now: Instant) -> Option<u64> {
        let well = self.health.as_ref().and_then(|health| health.back_for_us(now));
        well.into_iter().chain(self.state.record.back_for_us(self.state.micros(now))).min()
    }
}

impl Group {
    /// A group of these members. `cookie_path` is where a sticky cookie is sent back to.
    #[must_use]
    pub fn new(members: Vec<Arc<Member>>, definition: &UpstreamDefinition, cookie_path: &str) -> Group {
        let balancing = definition.load_balancing.clone().unwrap_or_default();
        let rule = match balancing.policy {
            BalancingPolicy::RoundRobin => Rule::InTurn,
            BalancingPolicy::LeastRequest => Rule::LessBusy,
            BalancingPolicy::Ewma => Rule::Sooner,
            BalancingPolicy::RingHash(key) => Key::new(&key).map_or(Rule::InTurn, Rule::ByKey),
            BalancingPolicy::StickyCookie(cookie) => {
                Rule::ByCookie(Sticky::new(cookie.name, cookie.ttl, cookie_path))
            }
        };
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
        Group {
            rule,
            panic_percent: usize::from(balancing.panic_threshold.unwrap_or(DEFAULT_PANIC_PERCENT)),
            slow_start_us: balancing.slow_start.map(micros),
            outlier: definition.outlier_detection,
            breaker: definition.circuit_breaker.unwrap_or_default(),
            members: ArcSwap::from_pointee(members),
            ejecting: Mutex::default(),
        }
    }

    /// Its endpoints as they are now.
    #[must_use]
    pub fn members(&self) -> Arc<Vec<Arc<Member>>> {
        self.members.load_full()
    }

    /// Puts others in their place; those that stay are passed on as they are.
    pub(super) fn replace(&self, members: Vec<Arc<Member>>) {
        self.members.store(Arc::new(members));
    }

    /// The limits of each endpoint.
    #[must_use]
    pub fn breaker(&self) -> CircuitBreaker {
        self.breaker
    }

    /// Takes an endpoint.
    pub(super) fn pick(
        self: &Arc<Group>,
        input: &PickInput<'_>,
        chance: &mut Chance<'_>,
    ) -> Result<Guard, Failure> {
        let key = match &self.rule {
            Rule::ByKey(key) => key.of(input.header, input.client),
            Rule::InTurn | Rule::LessBusy | Rule::Sooner | Rule::ByCookie(_) => None,
        };
        let members = self.members.load();
        let (mut candidates, panics) = self.candidates(&members, input, chance.now)?;
        if let Rule::ByCookie(sticky) = &self.rule
            && let Some(place) = sticky.place(input)
            && let Some(named) = candidates.iter().find(|candidate| candidate.member.place == place)
            && named.member.state.load.try_enter(self.breaker.max_requests)
        {
            return Ok(Guard::new(self.clone(), named.member.clone(), chance.now, None));
        }
        // When all are used because most seem broken, so are those of other zones.
        if !panics {
            prefer_zone(&mut candidates, &members, |share| {
                let dice = key.map_or_else(|| chance.dice.f64(), |key| hash::fraction(hash::mix(key)));
                dice < share
            });
        }
        while let Some(index) = self.take(&candidates, key, chance) {
            let taken = candidates.remove(index).member;
            // Another worker may have given it its last request since it was looked at.
            if taken.state.load.try_enter(self.breaker.max_requests) {
                let cookie = match &self.rule {
                    Rule::ByCookie(sticky) => sticky.set(taken),
                    Rule::InTurn | Rule::LessBusy | Rule::Sooner | Rule::ByKey(_) => None,
                };
                return Ok(Guard::new(self.clone(), taken.clone(), chance.now, cookie));
            }
        }
        Err(overflow())
    }

    /// Every endpoint that may take this request, those already tried only if no other may; and
    /// whether most are broken, so that all are used.
    fn candidates<'m>(
        &self,
        members: &'m [Arc<Member>],
        input: &PickInput<'_>,
        now: Instant,
    ) -> Result<(Candidates<'m>, bool), Failure> {
        let in_service = members.iter().filter(|member| member.endpoint.weight > 0);
        let mut usable: Members<'m> =
            in_service.clone().filter(|member| self.is_usable(member, now)).collect();
        let all = in_service.clone().count();
        if all == 0 {
            return Err(Failure::with(Reason::UpstreamUnknown, "every target has weight 0"));
        }
        let panics = usable.len() * 100 < all * self.panic_percent;
        if panics {
            usable = in_service.collect();
        }
        if usable.is_empty() {
            return Err(Failure::with(Reason::CircuitOpen, "no endpoint is usable"));
        }
        let limit = self.breaker.max_requests.unwrap_or(u32::MAX);
        usable.retain(|member| member.state.load.requests() < limit);
        if usable.is_empty() {
            return Err(overflow());
        }
        if !usable.iter().all(|member| self.is_taken(member)) {
            usable.retain(|member| !self.is_taken(member));
        }
        if usable.iter().any(|member| !input.has_tried_member(member)) {
            usable.retain(|member| !input.has_tried_member(member));
        }
        Ok((self.weighted(&usable, now), panics))
    }

    /// The shares of these members; smaller for those that came back a short while ago.
    fn weighted<'m>(&self, members: &[&'m Arc<Member>], now: Instant) -> Candidates<'m> {
        let percent = |member: &Member| {
            let slow_start = self.slow_start_us?;
            let back = member.back_for_us(now)?;
            let percent = u128::from(back) * 100 / u128::from(slow_start);
            u32::try_from(percent.max(u128::from(SLOW_START_PERCENT))).ok().filter(|percent| *percent < 100)
        };
        // Plain weights while nobody is slow, for then a cycle is short and exact.
        let scale = if members.iter().any(|member| percent(member).is_some()) { 100 } else { 1 };
        let weigh = |member: &&'m Arc<Member>| {
            let percent = percent(member).unwrap_or(scale);
            Candidate { member, weight: u32::from(member.endpoint.weight) * percent }
        };
        members.iter().map(weigh).collect()
    }

    fn take(&self, candidates: &[Candidate<'_>], key: Option<u64>, chance: &mut Chance<'_>) -> Option<usize> {
        match (&self.rule, key) {
            (Rule::LessBusy, _) => {
                choose::two(candidates, chance.dice).map(|pair| choose::less_busy(candidates, pair))
            }
            (Rule::Sooner, _) => {
                choose::two(candidates, chance.dice).map(|pair| choose::sooner(candidates, pair, chance.now))
            }
            (Rule::ByKey(_), Some(key)) => choose::by_key(candidates, key),
            (Rule::InTurn | Rule::ByCookie(_) | Rule::ByKey(_), _) => {
                choose::at_turn(candidates.iter().map(|candidate| candidate.weight), chance.turn)
            }
        }
    }

    fn is_usable(&self, member: &Member, now: Instant) -> bool {
        let ejected = self.outlier.is_some() && member.state.record.is_out(member.state.micros(now));
        !ejected && member.health.as_ref().is_none_or(|health| health.is_usable())
    }

    /// Whether a request to it would be refused for want of a connection. Connections of HTTP/2 carry
    /// many requests, of which nobody knows here.
    fn is_taken(&self, member: &Member) -> bool {
        let CircuitBreaker { max_connections, max_pending, .. } = self.breaker;
        member.endpoint.protocol == UpstreamProtocol::Http1
            && member.state.load.is_taken(max_connections, max_pending)
    }

    /// Notes how a request went; an endpoint that fails too often is out for a while.
    pub(super) fn note(&self, member: &Member, failed: bool, now: Instant) {
        let Some(settings) = &self.outlier else { return };
        let now_us = member.state.micros(now);
        if !member.state.record.note(settings, failed, now_us) {
            return;
        }
        let _one_at_a_time = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let is_out = |member: &Member| member.state.record.is_out(member.state.micros(now));
        let members = self.members.load();
        let out = members.iter().filter(|member| is_out(member)).count();
        let percent = usize::from(settings.max_ejected_percent);
        let room = if percent == 0 { 0 } else { (members.len() * percent / 100).max(1) };
        if out < room && !is_out(member) {
            member.state.record.eject(settings, now_us);
            member.state.events.ejections.fetch_add(1, Ordering::Relaxed);
            let Endpoint { host, port, address, .. } = &member.endpoint;
            tracing::warn!(%host, port, ?address, "an upstream endpoint fails and is left alone for a while");
        }
    }
}

fn overflow() -> Failure {
    Failure::with(Reason::Overflow, "every usable endpoint has all the requests it may have")
}

/// Leaves only endpoints of the own zone, or only others, by the share of the zone's weight
/// that is usable. `keep` is asked whether this request belongs to a share.
fn prefer_zone(candidates: &mut Candidates<'_>, members: &[Arc<Member>], keep: impl FnOnce(f64) -> bool) {
    // Plain weights: one that comes back slowly is usable.
    let of = |zone: &mut dyn Iterator<Item = &Arc<Member>>, local: bool| -> u32 {
        zone.filter(|member| member.local == local).map(|member| u32::from(member.endpoint.weight)).sum()
    };
    let all = of(&mut members.iter(), true);
    let usable = |local| of(&mut candidates.iter().map(|candidate| candidate.member), local);
    let (local, remote) = (usable(true), usable(false));
    if local == 0 || remote == 0 {
        return;
    }
    let share = f64::from(local) / f64::from(all.max(1)) * ZONE_OVERCOMMIT;
    let stay = share >= 1.0 || keep(share);
    candidates.retain(|candidate| candidate.member.local == stay);
}

impl Sticky {
    fn new(name: String, ttl: Option<Duration>, path: &str) -> Sticky {
        // A path with a semicolon would end the attribute; such a cookie goes to the whole host.
        let path = if path.contains(';') { "/" } else { path };
        let mut attributes = format!("; Path={path}; HttpOnly; SameSite=Lax");
        if let Some(ttl) = ttl {
            attributes.push_str(&format!("; Max-Age={}", ttl.as_secs()));
        }
        Sticky { name, attributes }
    }

    /// The place that the request's cookie names.
    fn place(&self, input: &PickInput<'_>) -> Option<u64> {
        let value = std::str::from_utf8(hash::cookie(input.header, &self.name)?).ok()?;
        u64::from_str_radix(value, 16).ok()
    }

    fn set(&self, member: &Member) -> Option<HeaderValue> {
        HeaderValue::try_from(format!("{}={:016x}{}", self.name, member.place, self.attributes)).ok()
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = self.members.load();
        f.debug_list().entries(members.iter().map(|member| &member.endpoint)).finish()
    }
}
