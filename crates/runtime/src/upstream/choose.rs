// SPDX-License-Identifier: Apache-2.0
//! The rules by which one of several usable endpoints is taken. Pure: candidates, the
//! turn, the dice and the time come in, an index goes out, so that every rule can be tested
//! without a socket or a clock. `group` decides who is a candidate.

use std::sync::Arc;
use std::time::Instant;

use super::group::Member;
use super::hash;

/// An endpoint that may be taken, with its share.
#[derive(Clone, Copy)]
pub struct Candidate<'m> {
    /// The endpoint.
    pub member: &'m Arc<Member>,
    /// Its share against the others'; never 0.
    pub weight: u32,
}

/// The place at this turn of an endless schedule over shares, or `None` when all are 0.
/// A cycle visits every share exactly once, spread evenly rather than in blocks.
pub fn at_turn(shares: impl Iterator<Item = u32> + Clone, turn: u32) -> Option<usize> {
    let total: u32 = shares.clone().sum();
    // A step that shares no factor with the cycle's length visits every place exactly once,
    // and one near the golden ratio leaves no two visits of an endpoint close together.
    let place = u64::from(turn.checked_rem(total)?) * u64::from(step(total)) % u64::from(total);
    at_place(shares, place)
}

/// Two different candidates taken by weight; the same twice when there is only one.
pub fn two(candidates: &[Candidate<'_>], dice: &mut fastrand::Rng) -> Option<(usize, usize)> {
    let total: u64 = candidates.iter().map(|candidate| u64::from(candidate.weight)).sum();
    let shares = || candidates.iter().map(|candidate| candidate.weight);
    let first = at_place(shares(), dice.u64(..total.max(1)))?;
    let others = total.saturating_sub(candidates.get(first).map_or(0, |first| u64::from(first.weight)));
    if others == 0 {
        return Some((first, first));
    }
    let without = shares().enumerate().map(|(index, share)| if index == first { 0 } else { share });
    Some((first, at_place(without, dice.u64(..others))?))
}

/// The one with fewer requests under way, in relation to its weight. Of two with equally many the
/// first stays, which was taken by weight: the weight would count twice, and the lighter of two
/// idle endpoints never get a request.
pub fn less_busy(candidates: &[Candidate<'_>], pair: (usize, usize)) -> usize {
    let requests = |index: usize| candidates.get(index).map(|c| c.member.state.load.requests());
    if requests(pair.0) == requests(pair.1) {
        return pair.0;
    }
    lesser(candidates, pair, |candidate| {
        f64::from(candidate.member.state.load.requests() + 1) / f64::from(candidate.weight)
    })
}

/// The one that will answer sooner: its expected time, for everyone already waiting.
pub fn sooner(candidates: &[Candidate<'_>], pair: (usize, usize), now: Instant) -> usize {
    lesser(candidates, pair, |candidate| {
        let waiting = f64::from(candidate.member.state.load.requests() + 1);
        (candidate.member.state.expected_us(now) + 1.0) * waiting / f64::from(candidate.weight)
    })
}

/// The candidate whose score for this key is highest (weighted rendezvous hashing). Like a
/// ring of hashes it moves only the keys of what came or went; unlike one its shares are
/// exact and there is nothing to rebuild.
pub fn by_key(candidates: &[Candidate<'_>], key: u64) -> Option<usize> {
    let score = |candidate: &Candidate<'_>| {
        let place = hash::fraction(hash::mix(key ^ candidate.member.place));
        -f64::from(candidate.weight) / place.ln()
    };
    let scored = candidates.iter().map(score).enumerate();
    scored.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(index, _)| index)
}

fn lesser(
    candidates: &[Candidate<'_>],
    (first, second): (usize, usize),
    cost: impl Fn(&Candidate<'_>) -> f64,
) -> usize {
    match (candidates.get(first), candidates.get(second)) {
        (Some(a), Some(b)) if cost(b) < cost(a) => second,
        _ => first,
    }
}

pub(super) fn at_place(mut shares: impl Iterator<Item = u32>, mut place: u64) -> Option<usize> {
    shares.position(|share| {
        let share = u64::from(share);
        let hit = place < share;
        place = place.saturating_sub(share);
        hit
    })
}

fn step(total: u32) -> u32 {
    let ideal = (u64::from(total) * 618 / 1000).max(1);
    let ideal = u32::try_from(ideal).unwrap_or(1);
    (ideal..total).find(|step| gcd(*step, total) == 1).unwrap_or(1)
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
