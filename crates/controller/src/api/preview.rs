// SPDX-License-Identifier: Apache-2.0
//! What a dry run checks beyond the documents themselves: handles and claims that other
//! artifacts hold, as far as this replica knows. A dry run promises nothing, so a
//! snapshot will do; the store decides when it counts.

use std::collections::HashMap;
use std::sync::Arc;

use ferrogate_model::kinds::RestApi;
use ferrogate_model::{Kind, ResourceName, route};
use ferrogate_store::Guard;

use super::App;
use super::body::off_thread;
use super::error::ApiError;
use super::read::Reading;
use super::refused::{claimed, guard_refusal};
use super::write::Subject;
use crate::deploy::Admitted;
use crate::snapshot::{Entry, Snapshot};

/// Refuses what the store would refuse of a write with this guard.
///
/// # Errors
/// With the first conflict.
pub async fn check(app: &Arc<App>, admitted: &Admitted, guard: Guard) -> Result<(), ApiError> {
    let snapshot = Reading::of(app)?.snapshot;
    let entry = snapshot.get(&admitted.name);
    // A document that pins the artifact's own id may replace it.
    let same = guard == Guard::Absent && entry.is_some_and(|entry| admitted.uuid == Some(entry.stored.uuid));
    if !same {
        allowed(&snapshot, &admitted.name, guard)?;
    }
    claims(snapshot, vec![(Subject::of(admitted, guard), admitted.claims.clone())]).await
}

/// Refuses what a guard forbids.
///
/// # Errors
/// As the store's refusal is answered.
pub fn allowed(snapshot: &Snapshot, name: &ResourceName, guard: Guard) -> Result<(), ApiError> {
    let found = snapshot.get(name).map(|entry| entry.stored.revision);
    if guard.holds(found) { Ok(()) } else { Err(guard_refusal(name, found, guard)) }
}

/// Refuses claims that another artifact holds. Every payload is read for it, so it runs off
/// the async threads.
///
/// # Errors
/// With the first conflict.
pub async fn claims(snapshot: Arc<Snapshot>, wanted: Vec<(Subject, Vec<String>)>) -> Result<(), ApiError> {
    off_thread("the search for conflicts", move || {
        let replaced: Vec<&ResourceName> = wanted.iter().map(|(subject, _)| &subject.name).collect();
        let claimants: HashMap<&str, &Subject> = wanted
            .iter()
            .flat_map(|(subject, claims)| claims.iter().map(move |claim| (claim.as_str(), subject)))
            .collect();
        let others = snapshot.entries().filter(|entry| {
            entry.stored.name.kind == Kind::RestApi && !replaced.contains(&&entry.stored.name)
        });
        for entry in others {
            for claim in held(entry) {
                if let Some(subject) = claimants.get(claim.as_str()) {
                    return Err(claimed(subject, &claim, entry.stored.name.clone()));
                }
            }
        }
        Ok(())
    })
    .await?
}

fn held(entry: &Entry) -> Vec<String> {
    let payload = entry.stored.payload.as_deref().unwrap_or_default();
    serde_json::from_str::<RestApi>(payload).map(|api| route::claims(&api)).unwrap_or_default()
}
