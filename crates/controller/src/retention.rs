// SPDX-License-Identifier: Apache-2.0
//! Keeps the change log bounded: revisions older than the newest N are dropped, and with
//! them the way back to them. The current artifacts are never touched. Every replica
//! does it; doing it twice changes nothing.

use std::sync::Arc;
use std::time::Duration;

use ferrogate_model::Revision;
use ferrogate_store::{Store, StoreError};
use tokio_util::sync::CancellationToken;

/// How often to look.
const EVERY: Duration = Duration::from_secs(600);

/// Prunes until told to stop. `keep` is how many revisions stay readable.
pub async fn run(store: Arc<dyn Store>, keep: u64, token: CancellationToken) {
    loop {
        tokio::select! {
            // Both arms only wait.
            () = token.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        match once(store.as_ref(), keep).await {
            Ok(0) => {}
            Ok(dropped) => tracing::info!(dropped, keep, "old revisions dropped from the change log"),
            Err(error) => tracing::warn!(%error, "the change log could not be pruned"),
        }
    }
}

/// Drops what is more than `keep` revisions old, once a tenth more than that has gathered:
/// many small deletions cost more than a few large ones.
///
/// # Errors
/// When the store does not answer.
pub async fn once(store: &dyn Store, keep: u64) -> Result<u64, StoreError> {
    let head = store.head().await?;
    let readable = head.position.revision.0.saturating_sub(head.floor.0);
    if readable <= keep.saturating_add(keep / 10) {
        return Ok(0);
    }
    store.prune(Revision(head.position.revision.0.saturating_sub(keep))).await
}
