// SPDX-License-Identifier: Apache-2.0
//! Bugs that a run can be given, to see that the simulation finds them. Each stands where
//! the product's own part would stand, and does what a plausible wrong version of it would
//! do. A run without one consists of the parts that ship alone.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ferrogate_base::tasks::Tasks;
use ferrogate_controller::follow::Follower;
use ferrogate_controller::replicate::Replica;
use ferrogate_controller::snapshot::{Limits, Snapshot};
use ferrogate_model::Position;
use ferrogate_store::{Changes, Store, StoreError};
use tokio::time::sleep;

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// A runtime acknowledges what it serves while its disk is still at work.
    AckBeforeDisk,
    /// A controller's cursor moves to the head that it sees, not with what is applied.
    CursorBeforeApply,
    /// A runtime states its revision as one of the database's present epoch.
    ResumeWithoutEpoch,
    /// A controller publishes whatever it loaded last, and does not compare revisions.
    SwapWithoutCheck,
}

/// How often the planted replications look for changes.
const POLL: Duration = Duration::from_millis(10);
/// More changes than a run ever makes.
const ALL: usize = 100_000;

/// Replication with the cursor outside of what it belongs to.
pub fn careless_cursor(tasks: &Tasks, store: Arc<dyn Store>, replica: Arc<Replica>) {
    let cursor = Arc::new(Mutex::new(None));
    tasks.spawn_restarting("replication", move || {
        follow(Arc::clone(&store), Arc::clone(&replica), Arc::clone(&cursor))
    });
}

async fn follow(
    store: Arc<dyn Store>,
    replica: Arc<Replica>,
    cursor: Arc<Mutex<Option<Position>>>,
) -> Result<(), StoreError> {
    let mut follower = Follower::new(replica.current());
    loop {
        // A failed read is tried again, as the product does.
        if let Ok(Some(next)) = advance(store.as_ref(), &cursor, &mut follower).await {
            replica.publish(&next);
        }
        sleep(POLL).await;
    }
}

async fn advance(
    store: &dyn Store,
    cursor: &Mutex<Option<Position>>,
    follower: &mut Follower,
) -> Result<Option<Arc<Snapshot>>, StoreError> {
    let at = *cursor.lock().unwrap_or_else(PoisonError::into_inner);
    let move_to = |position| *cursor.lock().unwrap_or_else(PoisonError::into_inner) = Some(position);
    if let Some(at) = at
        && let Changes::Line { changes, .. } = store.changes_since(at, ALL).await?
    {
        // The bug: what was committed since the read counts as applied before anything is.
        move_to(store.head().await?.position);
        return Ok(if changes.is_empty() { None } else { follower.batch(changes).unwrap_or_default() });
    }
    let state = store.load().await?;
    move_to(state.position);
    Ok(follower.reset(Arc::new(Snapshot::load(state, Limits::default()))))
}

/// Replication that loads everything now and then, several times at once, and publishes each
/// result as it comes.
pub fn careless_swap(tasks: &Tasks, store: Arc<dyn Store>, replica: Arc<Replica>) {
    let loads = tasks.clone();
    tasks.spawn("replication", async move {
        loop {
            let (store, replica) = (Arc::clone(&store), Arc::clone(&replica));
            loads.spawn("load", async move {
                if let Ok(state) = store.load().await {
                    replica.publish(&Arc::new(Snapshot::load(state, Limits::default())));
                }
            });
            sleep(POLL).await;
        }
    });
}
