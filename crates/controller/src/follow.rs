// SPDX-License-Identifier: Apache-2.0
//! What a replica makes of each step of its feed, without IO: which snapshot follows, and
//! whether it may be published. Invariant 4 begins here: what is published never goes
//! back. [`crate::replicate`] drives it; the protocol's model (`crates/proof`) drives the
//! same code through every interleaving of writers, failovers and restarts.

use std::sync::Arc;

use ferrogate_model::Position;
use ferrogate_store::Change;

use crate::snapshot::Snapshot;

/// Where a replica stands in the line.
#[derive(Clone, Debug, Default)]
pub struct Follower {
    current: Option<Arc<Snapshot>>,
    published: Position,
    /// While the past is retraced nothing is published: it would be served as the present.
    silent_until: Option<Position>,
}

/// Changes were told before any state: the feed was not started where the follower stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a change came before any state")]
pub struct NoState;

impl Follower {
    /// Goes on from the snapshot last published, or from nothing.
    #[must_use]
    pub fn new(published: Option<Arc<Snapshot>>) -> Follower {
        let position = published.as_ref().map(|snapshot| snapshot.position()).unwrap_or_default();
        Follower { current: published, published: position, silent_until: None }
    }

    /// Begins in the past, silent until the line has led to the head that was found there.
    #[must_use]
    pub fn retracing(past: Arc<Snapshot>, head: Position) -> Follower {
        Follower { current: Some(past), published: Position::default(), silent_until: Some(head) }
    }

    /// The position after which the feed must go on; `None` when it must begin with a state.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.current.as_ref().map(|snapshot| snapshot.position())
    }

    /// The next changes: the snapshot to publish, if there is one to publish now.
    ///
    /// # Errors
    /// When there is nothing they could change.
    ///
    /// # Panics
    /// As [`Snapshot::apply`], and when the snapshot would go back: the replication task
    /// restarts from what it published last.
    pub fn batch(&mut self, changes: Vec<Change>) -> Result<Option<Arc<Snapshot>>, NoState> {
        let current = self.current.as_ref().ok_or(NoState)?;
        let next = Arc::new(current.apply(changes));
        Ok(self.reach(next))
    }

    /// Everything anew: the snapshot to publish, if it may be published now.
    ///
    /// # Panics
    /// When the snapshot would go back.
    pub fn reset(&mut self, snapshot: Arc<Snapshot>) -> Option<Arc<Snapshot>> {
        self.reach(snapshot)
    }

    fn reach(&mut self, next: Arc<Snapshot>) -> Option<Arc<Snapshot>> {
        let position = next.position();
        self.current = Some(Arc::clone(&next));
        if self.silent_until.is_some_and(|head| position < head) {
            return None;
        }
        assert!(
            position >= self.published,
            "the snapshot would go back from {} to {position}",
            self.published
        );
        self.silent_until = None;
        self.published = position;
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::{Follower, NoState};
    use crate::snapshot::{Limits, Snapshot};
    use ferrogate_model::{Epoch, Position, Revision};
    use ferrogate_store::State;
    use std::sync::Arc;

    fn at(epoch: u64, revision: u64) -> Position {
        Position::new(Epoch(epoch), Revision(revision))
    }

    fn state(position: Position) -> Arc<Snapshot> {
        Arc::new(Snapshot::load(State { position, artifacts: Vec::new() }, Limits::default()))
    }

    #[test]
    fn the_past_is_retraced_in_silence_and_a_new_epoch_ends_it() {
        let mut follower = Follower::retracing(state(at(1, 3)), at(1, 9));
        assert_eq!(follower.position(), Some(at(1, 3)));
        assert!(follower.reset(state(at(1, 8))).is_none());
        assert_eq!(follower.position(), Some(at(1, 8)));
        assert!(follower.reset(state(at(2, 5))).is_some());
        assert!(follower.reset(state(at(2, 6))).is_some());
    }

    #[test]
    fn what_is_published_never_goes_back_and_changes_need_a_state() {
        let mut follower = Follower::new(Some(state(at(2, 5))));
        let back = std::panic::catch_unwind(move || follower.reset(state(at(2, 4))));
        assert!(back.is_err());
        assert_eq!(Follower::new(None).batch(Vec::new()).err(), Some(NoState));
    }
}
