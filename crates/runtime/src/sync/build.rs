// SPDX-License-Identifier: Apache-2.0
//! From one snapshot and an update to the next snapshot: pure, and in proportion to the
//! update. A refused resource keeps its last good version and its siblings apply
//! (invariant 6); an update that would not leave exactly the set its sender holds, or
//! that would go back, changes nothing (invariants 3 and 4).

use std::collections::BTreeSet;
use std::sync::Arc;

use ferrogate_base::parallel;
use ferrogate_model::{Digest, Reject, Resource, ResourceName};
use ferrogate_xds::Update;

use super::order::{self, Misfit};
use crate::lkg::{Change, Contents};
use crate::prepare::Compiler;
use crate::state::{HeldArtifact, Refused, Snapshot};

/// The next snapshot and how it came about.
pub(super) struct Built {
    pub snapshot: Snapshot,
    /// What is different, for the last-known-good file.
    pub change: Change,
    /// Refused in this update.
    pub rejects: Vec<Reject>,
    /// Changed artifacts with routes that others have as well in the finished snapshot, and how many.
    pub collisions: Vec<(ResourceName, usize)>,
}

/// Applies an update to a snapshot.
pub(super) fn build(compiler: &Compiler, current: &Snapshot, update: &Update) -> Result<Built, Misfit> {
    order::fits(current.position, update)?;
    let mut built = Built {
        snapshot: current.clone(),
        change: Change::default(),
        rejects: Vec::new(),
        collisions: Vec::new(),
    };
    let next = &mut built.snapshot;
    next.sequence += 1;
    next.position = update.position;
    for name in gone(current, update) {
        if next.delivered(&name).is_some() {
            next.remove(&name);
            built.change.removes.push(name);
        }
    }
    let mut ahead = ahead(compiler, current, update).into_iter();
    let mut accepted = Vec::new();
    for resource in &update.upserts {
        let prepared = ahead.next();
        let contribution = Digest::of_resource(resource);
        let same = next.artifacts.get(&resource.name).is_some_and(|held| held.contribution == contribution);
        if same && !next.refused.contains_key(&resource.name) {
            continue;
        }
        match prepared.unwrap_or_else(|| compiler.prepare(resource)) {
            Ok(artifact) => {
                // All old versions leave before the first new one comes: artifacts of one update may
                // take over each other's routes.
                next.remove(&resource.name);
                accepted.push((resource.name.clone(), artifact));
                built.change.upserts.push(resource.clone());
            }
            Err(refused) => {
                tracing::warn!(
                    artifact = %resource.name, version = %refused.version, reason = refused.reason,
                    "an artifact was refused; its last good version, if any, keeps serving"
                );
                built.rejects.push(refused.report(&resource.name));
                next.refuse(resource.name.clone(), Arc::new(refused.clone()));
                built.change.refused.push((resource.name.clone(), refused));
            }
        }
    }
    for (name, artifact) in accepted {
        let collisions = next.put(name.clone(), Arc::new(artifact));
        if collisions > 0 {
            built.collisions.push((name, collisions));
        }
    }
    order::matches(update, next.digest)?;
    Ok(built)
}

/// The snapshot that last-known-good contents stand for. What this binary refuses although
/// an earlier one took it is left out and reported, so that a controller sends it again.
pub(super) fn restore(compiler: &Compiler, contents: Contents) -> Snapshot {
    let mut snapshot = Snapshot { position: contents.mark.position, ..Snapshot::default() };
    let resources: Vec<Resource> = contents.resources.into_values().collect();
    for (name, prepared) in
        parallel::map(resources, |resource| (resource.name.clone(), compiler.prepare(&resource)))
    {
        match prepared {
            Ok(artifact) => {
                snapshot.put(name, Arc::new(artifact));
            }
            Err(refused) => {
                tracing::error!(artifact = %name, reason = refused.reason, "a stored artifact is refused");
                snapshot.refuse(name, Arc::new(refused));
            }
        }
    }
    for (name, refused) in contents.refused {
        snapshot.refuse(name, Arc::new(refused));
    }
    if snapshot.digest != contents.mark.digest {
        // The set is authentic, so this is a fault of ours; stating the digest of what is
        // really held makes the controller send everything.
        tracing::error!(position = %snapshot.position, "the last-known-good set does not have its stated digest");
    }
    snapshot
}

/// A runtime that serves nothing yet prepares its first set on all cores; one that serves
/// leaves them to its workers, and prepares each artifact when its turn comes.
fn ahead(compiler: &Compiler, current: &Snapshot, update: &Update) -> Vec<Result<HeldArtifact, Refused>> {
    if !current.artifacts.is_empty() {
        return Vec::new();
    }
    parallel::map(update.upserts.iter().collect(), |resource| compiler.prepare(resource))
}

/// The names an update removes.
fn gone(current: &Snapshot, update: &Update) -> Vec<ResourceName> {
    if !update.full {
        return update.removes.clone();
    }
    let kept: BTreeSet<&ResourceName> = update.upserts.iter().map(|resource| &resource.name).collect();
    let held: BTreeSet<&ResourceName> = current.artifacts.keys().chain(current.refused.keys()).collect();
    held.difference(&kept).map(|name| (*name).clone()).collect()
}
