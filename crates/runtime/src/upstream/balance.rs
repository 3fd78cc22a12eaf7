// SPDX-License-Identifier: Apache-2.0
//! Which endpoint of a target serves the next request. A plain target is a weighted round
//! robin, spread evenly over the cycle rather than in blocks, without any state in the
//! route; any other asks its [`super::group::Group`]. `request` calls it for every request;
//! it never looks at the network.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Instant;

use super::choose;
use super::group::{Chance, Group};
use super::pick::{Guard, PickInput, Picked};
use crate::error::{Failure, Reason};
use crate::router::{Endpoint, Target};

/// Counters are shared by targets whose addresses fall into the same slot. Two busy targets
/// in one slot still get their shares on average; only the strict alternation is lost.
const SLOTS: usize = 256;

/// One worker's turns and dice.
pub struct Balancer {
    turns: Box<[Cell<u32>]>,
    dice: RefCell<fastrand::Rng>,
}

impl Default for Balancer {
    fn default() -> Balancer {
        Balancer::seeded(fastrand::u64(..))
    }
}

impl Balancer {
    /// A balancer whose every choice follows from this seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Balancer {
        let mut dice = fastrand::Rng::with_seed(seed);
        // Workers start at different places, or their first requests would all go to one endpoint.
        Balancer { turns: (0..SLOTS).map(|_| Cell::new(dice.u32(..))).collect(), dice: RefCell::new(dice) }
    }

    /// Takes an endpoint for a request.
    ///
    /// # Errors
    /// When no endpoint of the target may take it now.
    pub fn pick<'t>(&self, target: &'t Target, input: &PickInput<'_>) -> Result<Picked<'t>, Failure> {
        if let Some(group) = &target.group {
            return self.pick_guarded(group, input, Instant::now()).map(Picked::Guarded);
        }
        let endpoint = match target.endpoints.as_slice() {
            [only] => Some(only),
            several => {
                let shares = several.iter().map(share_for(several, input));
                choose::at_turn(shares, self.turn(std::ptr::from_ref(target).addr()))
                    .and_then(|index| several.get(index))
            }
        };
        let endpoint = endpoint.filter(|endpoint| endpoint.weight > 0);
        endpoint
            .map(Picked::Plain)
            .ok_or_else(|| Failure::with(Reason::UpstreamUnknown, "every target has weight 0"))
    }

    pub(super) fn pick_guarded(
        &self,
        group: &Arc<Group>,
        input: &PickInput<'_>,
        now: Instant,
    ) -> Result<Guard, Failure> {
        let turn = self.turn(Arc::as_ptr(group).addr());
        group.pick(input, &mut Chance { turn, dice: &mut self.dice.borrow_mut(), now })
    }

    /// Something decided by chance.
    pub fn with_dice<T>(&self, decide: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        decide(&mut self.dice.borrow_mut())
    }

    fn turn(&self, address: usize) -> u32 {
        // The low bits of an allocation's address are always zero.
        let slot = (address >> 6) % SLOTS;
        self.turns.get(slot).map_or(0, |turn| turn.replace(turn.get().wrapping_add(1)))
    }
}

/// The shares of a plain target's endpoints: their weights, but nothing for those that failed the
/// request before, while there is another.
fn share_for<'t>(
    several: &'t [Endpoint],
    input: &'t PickInput<'_>,
) -> impl Fn(&Endpoint) -> u32 + Clone + 't {
    let is_left = |endpoint: &Endpoint| endpoint.weight > 0 && !input.has_tried(endpoint);
    let avoid = !input.tried.is_empty() && several.iter().any(is_left);
    move |endpoint| if avoid && input.has_tried(endpoint) { 0 } else { u32::from(endpoint.weight) }
}
