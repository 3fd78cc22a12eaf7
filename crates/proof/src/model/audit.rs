// SPDX-License-Identifier: Apache-2.0
//! Whether a step of the model broke a promise. What was true is what the database ever
//! held; whether a position counts as live is the product's own judgement. Called after
//! every action; it looks only at what the action changed.

use std::collections::BTreeMap;

use ferrogate_controller::status::live::{Scope, Target, judge};
use ferrogate_model::{Position, Revision};
use ferrogate_store::{Cluster, RuntimeLease};

use super::database::{Set, name};
use super::runtime::Served;
use super::world::{Action, World};
use super::{CONTROLLERS, RUNTIMES};

/// What broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Broken {
    /// P1: a position does not hold what was committed up to it.
    Line,
    /// P2: a runtime went back.
    Back,
    /// P3: a runtime counted as live does not serve the position.
    Live,
    /// P6: two controllers at one position differ.
    Bytes,
    /// An assertion of the product failed.
    Assertion,
}

/// Compares the world before and after an action, and notes what broke.
pub fn look(before: &World, after: &mut World, action: Action) {
    let mut broken = Vec::new();
    if !controllers_tell_the_truth(before, after) {
        broken.push(Broken::Line);
    }
    if !controllers_agree(after) {
        broken.push(Broken::Bytes);
    }
    for index in 0..RUNTIMES {
        let (old, new) = (&before.runtimes[index], &after.runtimes[index]);
        if new.served != old.served && !is_true(after, &new.served) {
            broken.push(Broken::Line);
        }
        let restarted = action == Action::CrashRuntime(index);
        let (was, is) = (old.served.mark.position, new.served.mark.position);
        if (!restarted && is < was) || (restarted && is < new.acknowledged) {
            broken.push(Broken::Back);
        }
    }
    promise(before, after);
    if after.runtimes.iter().any(|runtime| runtime.served.mark.position < runtime.promised) {
        broken.push(Broken::Live);
    }
    after.broken = broken;
}

fn controllers_tell_the_truth(before: &World, after: &World) -> bool {
    let committed = before.database != after.database;
    (0..CONTROLLERS).all(|index| {
        let (Some(snapshot), old) =
            (after.controllers[index].published(), before.controllers[index].published())
        else {
            return true;
        };
        let moved = old.is_none_or(|old| !std::sync::Arc::ptr_eq(old, snapshot));
        // A commit may also change what an earlier position should have been.
        if !moved && !committed {
            return true;
        }
        let Some(truth) = after.database.truth(snapshot.position()) else { return false };
        let held = snapshot.entries().filter_map(|entry| {
            let content = entry.stored.payload.as_ref()?.parse().ok()?;
            Some((entry.stored.name.clone(), (entry.stored.revision.0, content)))
        });
        named(truth).eq(held)
    })
}

fn controllers_agree(world: &World) -> bool {
    let [Some(one), Some(other)] = world.controllers.each_ref().map(|controller| controller.published())
    else {
        return true;
    };
    one.position() != other.position() || one.digest() == other.digest() && one.bytes() == other.bytes()
}

fn is_true(world: &World, served: &Served) -> bool {
    let position = served.mark.position;
    if position == Position::default() {
        return served.resources.is_empty();
    }
    let Some(truth) = world.database.truth(position) else { return false };
    let held = served.resources.values().filter_map(|resource| {
        let content = std::str::from_utf8(&resource.payload).ok()?.parse().ok()?;
        Some((resource.name.clone(), (resource.version.0, content)))
    });
    named(truth).eq(held)
}

fn named(set: &Set) -> impl Iterator<Item = (ferrogate_model::ResourceName, (u64, u8))> + '_ {
    set.iter().map(|(index, held)| (name(*index), *held))
}

/// Notes what any controller would answer as live now, knowing what both were told.
fn promise(before: &World, after: &mut World) {
    let told = |world: &World| world.controllers.each_ref().map(|controller| controller.fleet);
    if told(before) == told(after) && before.database == after.database {
        return;
    }
    let mut runtimes: BTreeMap<usize, RuntimeLease> = BTreeMap::new();
    for fleet in told(after) {
        for (index, applied) in fleet.iter().enumerate() {
            if let Some(applied) = applied {
                let known = runtimes.entry(index).or_insert_with(|| lease(index));
                known.applied = known.applied.max(*applied);
            }
        }
    }
    let counted: Vec<usize> = runtimes.keys().copied().collect();
    let cluster = Cluster { controllers: Vec::new(), runtimes: runtimes.into_values().collect(), now: 0 };
    let positions: Vec<Position> = after.database.positions().collect();
    for position in positions {
        let target = Target { position, first: Revision(0), names: Vec::new() };
        if judge(&cluster, &target, &Scope::All).live {
            for index in &counted {
                let promised = &mut after.runtimes[*index].promised;
                *promised = (*promised).max(position);
            }
        }
    }
}

fn lease(index: usize) -> RuntimeLease {
    RuntimeLease {
        id: index.to_string(),
        zone: String::new(),
        controller: String::new(),
        applied: Position::default(),
        from_cache: false,
        rejects: Vec::new(),
        version: String::new(),
        connected: true,
        behind_since: None,
        renewed_at: 0,
    }
}
