// SPDX-License-Identifier: Apache-2.0
//! Figures: what one round saw, and medians over rounds. Ratios are taken within a round,
//! where the proxies ran one after the other on the same machine in the same state.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::peers::Kind;

/// What one proxy did in one round of one scenario.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Figure {
    /// Requests answered.
    pub requests: u64,
    /// Requests that failed, or were answered with something else than 2xx.
    pub errors: u64,
    /// Over how long, in seconds.
    pub seconds: f64,
    /// Processor time of the proxy, in microseconds per request.
    pub cpu_micros: f64,
    /// Latency in microseconds.
    pub p50: f64,
    /// As `p50`.
    pub p99: f64,
    /// As `p50`.
    pub p999: f64,
    /// Memory after the load, in KiB.
    pub memory_kib: u64,
}

/// The rounds of one scenario.
#[derive(Default)]
pub struct Rounds(Vec<BTreeMap<Kind, Figure>>);

impl Rounds {
    /// Adds a round.
    pub fn push(&mut self, round: BTreeMap<Kind, Figure>) {
        self.0.push(round);
    }

    /// Whether this proxy was measured.
    pub fn has(&self, kind: Kind) -> bool {
        self.0.iter().any(|round| round.contains_key(&kind))
    }

    /// The median of what `pick` takes from each round's figure.
    pub fn median(&self, kind: Kind, pick: impl Fn(&Figure) -> f64) -> f64 {
        median(self.0.iter().filter_map(|round| round.get(&kind)).map(pick).collect())
    }

    /// All errors of a proxy.
    pub fn errors(&self, kind: Kind) -> u64 {
        self.0.iter().filter_map(|round| round.get(&kind)).map(|figure| figure.errors).sum()
    }

    /// The median of the ratios of `kind` to the best (lowest) of `others` within each round,
    /// with the lowest and the highest ratio seen.
    pub fn ratio(
        &self,
        kind: Kind,
        others: &[Kind],
        pick: impl Fn(&Figure) -> f64,
    ) -> Option<(f64, f64, f64)> {
        let of_round = |round: &BTreeMap<Kind, Figure>| {
            let best =
                others.iter().filter_map(|other| round.get(other)).map(&pick).fold(f64::INFINITY, f64::min);
            let own = pick(round.get(&kind)?);
            (best.is_finite() && best > 0.0).then_some(own / best)
        };
        let ratios: Vec<f64> = self.0.iter().filter_map(of_round).collect();
        if ratios.is_empty() {
            return None;
        }
        let low = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let high = ratios.iter().copied().fold(0.0, f64::max);
        Some((median(ratios), low, high))
    }
}

/// The middle value; between the two middle ones when there are two.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.get(middle), values.len() % 2) {
        (None, _) => f64::NAN,
        (Some(value), 1) => *value,
        (Some(upper), _) => (values.get(middle - 1).unwrap_or(upper) + upper) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Figure, Rounds, median};
    use crate::peers::Kind;

    #[test]
    fn medians_are_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn ratios_are_taken_within_a_round_and_to_the_better_peer() {
        let mut rounds = Rounds::default();
        // The machine is twice as slow in the second round; the ratio does not see it.
        for slow in [1.0, 2.0] {
            let figure = |cpu: f64| Figure { cpu_micros: cpu * slow, ..Figure::default() };
            rounds.push(BTreeMap::from([
                (Kind::Nginx, figure(10.0)),
                (Kind::Haproxy, figure(12.0)),
                (Kind::Ferrogate, figure(9.0)),
            ]));
        }
        let ratio = rounds.ratio(Kind::Ferrogate, &[Kind::Nginx, Kind::Haproxy], |figure| figure.cpu_micros);
        assert_eq!(ratio, Some((0.9, 0.9, 0.9)));
        assert_eq!(rounds.ratio(Kind::Envoy, &[Kind::Nginx], |figure| figure.cpu_micros), None);
    }
}
