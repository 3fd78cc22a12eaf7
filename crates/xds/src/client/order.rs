// SPDX-License-Identifier: Apache-2.0
//! Which controller next, and when. Those of the own zone come first, those whose zone
//! is not known yet second, the others last; among equals chance decides, so that
//! runtimes spread. Pure but for its random numbers; [`super::run`] asks it.

use std::time::Duration;

use ferrogate_base::backoff::Backoff;

/// Between two looks at a better controller that failed before.
const PROBE_DELAY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(15));
/// Before the first look at a controller never heard of.
const FIRST_PROBE_DELAY: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(1));
/// The delay doubles with every failure, this many times at most.
const MAX_DOUBLINGS: u32 = 4;
/// A controller that failed must answer this many looks in a row before it is gone back to.
const PROBES_TO_RETURN: u32 = 2;
/// The longest a controller may tell a runtime to stay away.
const MAX_RETRY_HINT: Duration = Duration::from_secs(5);

/// The controllers and what is known of them.
#[derive(Clone, Debug)]
pub(super) struct Order {
    own_zone: String,
    candidates: Vec<Candidate>,
    /// What is left of the current round, the next one last.
    round: Vec<usize>,
    last_failed: Option<usize>,
    hint: Duration,
    first: bool,
    backoff: Backoff,
    random: fastrand::Rng,
}

#[derive(Clone, Debug, Default)]
struct Candidate {
    zone: Option<String>,
    failures: u32,
    good_probes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Home,
    Unknown,
    Elsewhere,
}

impl Order {
    /// The zones that are known beforehand, one entry for each controller.
    pub(super) fn new(own_zone: String, zones: Vec<Option<String>>, backoff: Backoff) -> Order {
        let candidates = zones.into_iter().map(|zone| Candidate { zone, ..Candidate::default() }).collect();
        Order {
            own_zone,
            candidates,
            round: Vec::new(),
            last_failed: None,
            hint: Duration::ZERO,
            first: true,
            backoff,
            random: fastrand::Rng::new(),
        }
    }

    #[cfg(test)]
    fn with_seed(mut self, seed: u64) -> Order {
        self.random = fastrand::Rng::with_seed(seed);
        self
    }

    /// The controller to try, and how long to wait before. `None` when there are none.
    pub(super) fn next(&mut self) -> Option<(usize, Duration)> {
        let mut delay = Duration::ZERO;
        if self.round.is_empty() {
            self.begin_round();
            // A round begins after a delay; within it the next controller is tried at once.
            if !std::mem::take(&mut self.first) {
                delay = self.backoff.next_delay();
            }
            if self.round.len() == 1 {
                delay = delay.max(std::mem::take(&mut self.hint));
            }
        }
        self.round.pop().map(|index| (index, delay))
    }

    /// The controller could not be reached, or its stream ended.
    pub(super) fn failed(&mut self, index: usize, hint: Option<Duration>) {
        self.last_failed = Some(index);
        self.hint = hint.unwrap_or_default().min(MAX_RETRY_HINT);
        if let Some(candidate) = self.candidates.get_mut(index) {
            candidate.failures = candidate.failures.saturating_add(1);
            candidate.good_probes = 0;
        }
    }

    /// The controller has proved itself: what failed before is forgotten.
    pub(super) fn healthy(&mut self, index: usize) {
        self.backoff.reset();
        self.round.clear();
        if let Some(candidate) = self.candidates.get_mut(index) {
            candidate.failures = 0;
        }
    }

    /// The controller said where it is.
    pub(super) fn learned(&mut self, index: usize, zone: Option<String>) {
        if let (Some(candidate), Some(zone)) = (self.candidates.get_mut(index), zone) {
            candidate.zone = Some(zone);
        }
    }

    /// A controller worth a look while connected to this one, and after which delay.
    pub(super) fn probe(&mut self, current: usize) -> Option<(usize, Duration)> {
        let own = self.rank(current);
        let better = self.candidates.iter().enumerate().map(|(index, _)| index);
        let better = better.filter(|index| *index != current && self.rank(*index) < own);
        // The one that failed least: it is the likeliest to be back.
        let index = better.min_by_key(|index| self.candidates.get(*index).map(|c| c.failures))?;
        let failures = self.candidates.get(index)?.failures;
        let (low, high) = if failures == 0 { FIRST_PROBE_DELAY } else { PROBE_DELAY };
        let delay = low + (high - low).mul_f64(self.random.f64());
        Some((index, delay * 2_u32.pow(failures.saturating_sub(1).min(MAX_DOUBLINGS))))
    }

    /// A look succeeded or not: whether to move there now.
    pub(super) fn probed(&mut self, index: usize, current: usize, good: bool) -> bool {
        let better = self.rank(index) < self.rank(current);
        let Some(candidate) = self.candidates.get_mut(index) else { return false };
        if !good {
            candidate.good_probes = 0;
            candidate.failures = candidate.failures.saturating_add(1);
            return false;
        }
        candidate.good_probes = candidate.good_probes.saturating_add(1);
        better && (candidate.failures == 0 || candidate.good_probes >= PROBES_TO_RETURN)
    }

    fn begin_round(&mut self) {
        let mut round: Vec<usize> = (0..self.candidates.len()).collect();
        self.random.shuffle(&mut round);
        let last = self.last_failed.take();
        // Popped from the end, so the best one goes last; the one that has just failed is
        // tried after all others, whatever its rank.
        round.sort_by_key(|index| std::cmp::Reverse((Some(*index) == last, self.rank(*index))));
        self.round = round;
    }

    fn rank(&self, index: usize) -> Rank {
        if self.own_zone.is_empty() {
            return Rank::Home;
        }
        match self.candidates.get(index).and_then(|candidate| candidate.zone.as_ref()) {
            Some(zone) if *zone == self.own_zone => Rank::Home,
            Some(_) => Rank::Elsewhere,
            None => Rank::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Order;
    use ferrogate_base::backoff::Backoff;
    use std::time::Duration;

    const INITIAL: Duration = Duration::from_millis(100);

    fn order(own: &str, zones: &[Option<&str>]) -> Order {
        let backoff = Backoff::try_new(INITIAL, Duration::from_secs(2)).unwrap().with_seed(3);
        let zones = zones.iter().map(|zone| zone.map(str::to_owned)).collect();
        Order::new(own.to_owned(), zones, backoff).with_seed(7)
    }

    #[test]
    fn home_comes_first_then_the_unknown_then_the_others() {
        let mut order = order("b", &[Some("a"), None, Some("b")]);
        let round: Vec<_> = (0..3).filter_map(|_| order.next()).collect();
        assert_eq!(round, [(2, Duration::ZERO), (1, Duration::ZERO), (0, Duration::ZERO)]);
    }

    #[test]
    fn the_one_that_failed_is_tried_last_and_soon() {
        let mut order = order("b", &[Some("a"), Some("b")]);
        let (home, _) = order.next().unwrap();
        order.healthy(home);
        order.failed(home, None);
        let (next, delay) = order.next().unwrap();
        assert_eq!((home, next), (1, 0));
        assert!(delay <= INITIAL);
        assert_eq!(order.next(), Some((1, Duration::ZERO)));
    }

    #[test]
    fn a_lone_controller_is_given_the_time_it_asks_for() {
        let mut order = order("", &[None]);
        order.next().unwrap();
        order.failed(0, Some(Duration::from_secs(1)));
        assert_eq!(order.next(), Some((0, Duration::from_secs(1))));
        order.failed(0, None);
        assert!(order.next().unwrap().1 < Duration::from_secs(1));
    }

    #[test]
    fn equals_are_chosen_by_chance() {
        let mut order = order("a", &[Some("a"), Some("a"), Some("a")]);
        let mut firsts = [0_u32; 3];
        for _ in 0..300 {
            let (first, _) = order.next().unwrap();
            firsts[first] += 1;
            order.healthy(first);
        }
        assert!(firsts.iter().all(|count| *count > 50), "{firsts:?}");
    }

    #[test]
    fn the_unknown_is_looked_at_soon_and_the_failed_twice() {
        let mut order = order("b", &[Some("a"), None]);
        let (unknown, delay) = order.probe(0).unwrap();
        assert!(unknown == 1 && delay <= Duration::from_secs(1));
        order.learned(1, Some("b".to_owned()));
        assert!(order.probed(1, 0, true), "a good look at the home zone moves there");
        order.failed(1, None);
        let (_, delay) = order.probe(0).unwrap();
        assert!(delay >= Duration::from_secs(5) && delay <= Duration::from_secs(15));
        assert!(!order.probed(1, 0, true));
        assert!(order.probed(1, 0, true));
        assert!(!order.probed(1, 0, false));
        assert_eq!(order.probe(1), None, "nothing is better than home");
    }

    #[test]
    fn a_controller_found_elsewhere_is_not_moved_to() {
        let mut order = order("b", &[Some("a"), None]);
        order.learned(1, Some("c".to_owned()));
        assert!(!order.probed(1, 0, true));
        assert_eq!(order.probe(0), None);
    }
}
