// SPDX-License-Identifier: Apache-2.0
//! Replication, and what watches it: metrics, and readiness until the first snapshot is
//! there and while a key is missing.

use std::sync::Arc;

use ferrogate_base::readiness::{Blocker, Readiness};
use ferrogate_base::tasks::Tasks;
use ferrogate_model::Kind;
use ferrogate_store::Store;

use crate::metrics::Metrics;
use crate::replicate::{Replica, StoreState};
use crate::snapshot::Limits;

/// Starts both in the background.
pub(super) fn replication(
    back: &Tasks,
    store: &Arc<dyn Store>,
    replica: &Arc<Replica>,
    metrics: &Arc<Metrics>,
    readiness: &Readiness,
) {
    let first = readiness.block("nothing has been read from the store yet");
    let readiness = readiness.clone();
    let (source, target, token) = (Arc::clone(store), Arc::clone(replica), back.token());
    back.spawn_restarting("replication", move || {
        Arc::clone(&target).run(Arc::clone(&source), Limits::default(), token.clone())
    });
    let (mut snapshots, metrics, replica) = (replica.snapshots(), Arc::clone(metrics), Arc::clone(replica));
    let mut states = replica.store_states();
    let token = back.token();
    back.spawn("snapshot watch", async move {
        let (mut first, mut sealed) = (Some(first), None::<Blocker>);
        loop {
            if let Some(snapshot) = snapshots.get() {
                let position = snapshot.position();
                metrics.published(position, Kind::ALL.map(|kind| (kind, snapshot.tally(kind))));
                first = None;
            }
            let state = states.get();
            metrics.set_store_available(matches!(state, StoreState::Available));
            sealed = match state {
                StoreState::Sealed { what, key } => sealed.or_else(|| {
                    let reason =
                        format!("{what} is sealed under the key '{key}', which this controller lacks");
                    Some(readiness.block(reason))
                }),
                // Down is not open: what was sealed before the outage is sealed still.
                StoreState::Unavailable { .. } => sealed,
                StoreState::Starting | StoreState::Available => None,
            };
            tokio::select! {
                biased;
                // All arms only wait. The replica, which owns both senders, is held above.
                () = token.cancelled() => break,
                _changed = snapshots.changed() => {}
                _changed = states.changed() => {}
            }
        }
        drop((first, sealed, replica));
    });
}
