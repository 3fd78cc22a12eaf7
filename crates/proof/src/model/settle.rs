// SPDX-License-Identifier: Apache-2.0
//! What happens when the faults stop: everybody goes on as the product does, one step at
//! a time and in a fixed order, and after a bounded number of rounds all replicas must
//! hold what the database holds (promise P7).

use super::world::{Action, World};
use super::{CONTROLLERS, RUNTIMES};

/// Enough for every replica to be sent away once, to be sent everything and to be found
/// different once; what needs more does not converge.
const ROUNDS: usize = 60;

/// Whether the world converges from here without a further fault. `runtimes` take part.
pub fn converges(world: &World, runtimes: usize) -> bool {
    settled(world, runtimes).is_some()
}

/// The gateway in sync at its first batch.
pub fn after_first_batch(empty: &World, runtimes: usize) -> Option<World> {
    settled(&empty.after(Action::Write)?, runtimes)
}

fn settled(world: &World, runtimes: usize) -> Option<World> {
    let mut world = world.clone();
    while world.database.open() > 0 {
        step(&mut world, Action::Commit(0));
    }
    // After a stream is lost the other controller is tried, as the client's order has it.
    let mut next = [0; RUNTIMES];
    for _ in 0..ROUNDS {
        for controller in 0..CONTROLLERS {
            step(&mut world, Action::Read(controller));
            step(&mut world, Action::Apply(controller));
        }
        for (runtime, next) in next.iter_mut().enumerate().take(runtimes) {
            if step(&mut world, Action::Connect(runtime, *next)) {
                *next = (*next + 1) % CONTROLLERS;
            }
            let moves = [
                Action::Hear(runtime),
                Action::HearLate(runtime),
                Action::Receive(runtime),
                Action::Persist(runtime),
            ];
            let moved = moves.map(|action| step(&mut world, action));
            if !moved.contains(&true) {
                step(&mut world, Action::TimeOut(runtime));
            }
        }
        if converged(&world, runtimes) {
            return Some(world);
        }
    }
    None
}

/// Takes a step if it is possible. One that breaks a promise is found where it is taken by
/// the model itself; here it is not taken.
fn step(world: &mut World, action: Action) -> bool {
    match world.after(action) {
        Some(next) if next.broken.is_empty() => {
            *world = next;
            true
        }
        Some(_) | None => false,
    }
}

fn converged(world: &World, runtimes: usize) -> bool {
    let head = world.database.head().position;
    let at_head = |controller: usize| {
        world.controllers[controller].published().is_some_and(|snapshot| snapshot.position() == head)
    };
    let told = |runtime: usize| {
        let stream = world.runtimes[runtime].stream.as_ref();
        stream.is_some_and(|stream| world.controllers[stream.controller].fleet[runtime] == Some(head))
    };
    (0..CONTROLLERS).all(at_head)
        && (0..runtimes).all(|index| {
            let runtime = &world.runtimes[index];
            runtime.served.mark.position == head && runtime.disk.mark.position == head && told(index)
        })
}
