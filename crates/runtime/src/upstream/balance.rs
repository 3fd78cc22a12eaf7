// SPDX-License-Identifier: Apache-2.0
//! Which endpoint of a target serves the next request: weighted round robin, spread evenly
//! over the cycle rather than in blocks, without any state in the route. `request` calls
//! it once per request; it never looks at the network.

use std::cell::Cell;
use std::sync::Arc;

use crate::router::{Endpoint, Target};

/// Counters are shared by targets whose addresses fall into the same slot. Two busy targets
/// in one slot still get their shares on average; only the strict alternation is lost.
const SLOTS: usize = 256;

/// One worker's round robin.
pub struct Balancer {
    turns: Box<[Cell<u32>]>,
}

impl Default for Balancer {
    fn default() -> Balancer {
        // Workers start at different places, or their first requests would all go to one endpoint.
        Balancer { turns: (0..SLOTS).map(|_| Cell::new(fastrand::u32(..))).collect() }
    }
}

impl Balancer {
    /// The endpoint whose turn it is; `None` when no endpoint takes traffic.
    #[must_use]
    pub fn pick<'t>(&self, target: &'t Arc<Target>) -> Option<&'t Endpoint> {
        let endpoints = &target.endpoints;
        if endpoints.len() <= 1 {
            return endpoints.first().filter(|endpoint| endpoint.weight > 0);
        }
        // The low bits of an allocation's address are always zero.
        let slot = (Arc::as_ptr(target).addr() >> 6) % SLOTS;
        let turn = self.turns.get(slot).map_or(0, |turn| turn.replace(turn.get().wrapping_add(1)));
        at_turn(endpoints, turn)
    }
}

/// The endpoint at this turn of the endless schedule.
fn at_turn(endpoints: &[Endpoint], turn: u32) -> Option<&Endpoint> {
    let total: u32 = endpoints.iter().map(|endpoint| u32::from(endpoint.weight)).sum();
    // A step that shares no factor with the cycle's length visits every place exactly once,
    // and one near the golden ratio leaves no two visits of an endpoint close together.
    let mut place = u64::from(turn.checked_rem(total)?) * u64::from(step(total)) % u64::from(total);
    endpoints.iter().find(|endpoint| {
        let weight = u64::from(endpoint.weight);
        let hit = place < weight;
        place = place.saturating_sub(weight);
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ferrogate_model::kinds::rest_api::Scheme;

    use super::at_turn;
    use crate::router::Endpoint;

    fn check(weights: &[u8]) {
        let endpoints: Vec<Endpoint> = weights
            .iter()
            .enumerate()
            .map(|(index, weight)| Endpoint {
                scheme: Scheme::Http,
                host: format!("h{index}"),
                port: 80,
                weight: *weight,
            })
            .collect();
        let total: u32 = weights.iter().map(|weight| u32::from(*weight)).sum();
        let mut seen = BTreeMap::<&str, u32>::new();
        for turn in 0..total {
            let endpoint = at_turn(&endpoints, turn).expect("some endpoint has weight");
            *seen.entry(&endpoint.host).or_default() += 1;
        }
        for endpoint in &endpoints {
            let count = seen.get(endpoint.host.as_str()).copied().unwrap_or_default();
            assert_eq!(count, u32::from(endpoint.weight), "{} of {weights:?}", endpoint.host);
        }
    }

    #[test]
    fn every_cycle_gives_each_endpoint_its_weight() {
        for weights in [&[1, 1][..], &[100, 100], &[70, 30], &[1, 2, 3], &[0, 5], &[100, 1, 100], &[1]] {
            check(weights);
        }
        assert!(at_turn(&[], 3).is_none());
    }
}
