// SPDX-License-Identifier: Apache-2.0
//! What a dry run checks beyond the documents themselves: handles and claims that other
//! artifacts hold, as far as this replica knows. A dry run promises nothing, so a
//! snapshot will do; the store decides when it counts.

use std::collections::HashMap;
use std::sync::Arc;

use ferrogate_model::kinds::RestApi;
use ferrogate_model::{Kind, ResourceName, route};

use super::App;
use super::error::ApiError;
use super::read::Reading;
use super::refused::{already_exists, not_found};
use crate::deploy::Admitted;
use crate::snapshot::{Entry, Snapshot};

/// Refuses what the store would refuse: `create` wants the artifacts absent, otherwise present.
///
/// # Errors
/// With the first conflict.
pub async fn check(app: &Arc<App>, admitted: &[Admitted], create: bool) -> Result<(), ApiError> {
    let snapshot = Reading::of(app)?.snapshot;
    for one in admitted {
        let entry = snapshot.get(&one.name);
        let found = entry.is_some();
        // A document that pins the artifact's own id may replace it.
        let same = entry.is_some_and(|entry| one.uuid == Some(entry.stored.uuid));
        if create && found && !same {
            return Err(already_exists(&one.name));
        }
        if !create && !found {
            return Err(not_found(&one.name));
        }
    }
    claims(snapshot, admitted).await
}

/// Refuses claims that another artifact holds. Every payload is read for it, so it runs off
/// the async threads.
///
/// # Errors
/// With the first conflict.
pub async fn claims(snapshot: Arc<Snapshot>, admitted: &[Admitted]) -> Result<(), ApiError> {
    let wanted: HashMap<String, ResourceName> = admitted
        .iter()
        .flat_map(|one| one.claims.iter().map(|claim| (claim.clone(), one.name.clone())))
        .collect();
    let replaced: Vec<ResourceName> = admitted.iter().map(|one| one.name.clone()).collect();
    let search = tokio::task::spawn_blocking(move || {
        let others = snapshot.entries().filter(|entry| {
            entry.stored.name.kind == Kind::RestApi && !replaced.contains(&entry.stored.name)
        });
        others.into_iter().find_map(|entry| {
            let taken = held(entry).into_iter().find(|claim| wanted.contains_key(claim))?;
            Some((taken, entry.stored.name.clone()))
        })
    });
    let conflict = search.await.map_err(|error| ApiError::Internal {
        message: "Internal server error",
        cause: format!("the search for conflicts failed: {error}"),
    })?;
    match conflict {
        None => Ok(()),
        Some((claim, holder)) => {
            Err(ApiError::Conflict(format!("{claim} is already held by RestApi '{}'", holder.handle)))
        }
    }
}

fn held(entry: &Entry) -> Vec<String> {
    let payload = entry.stored.payload.as_deref().unwrap_or_default();
    serde_json::from_str::<RestApi>(payload).map(|api| route::claims(&api)).unwrap_or_default()
}
