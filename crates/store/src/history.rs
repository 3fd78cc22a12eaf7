// SPDX-License-Identifier: Apache-2.0
//! Whether the database still tells the history this process knows. A failover can
//! lose the tail of the line and a restore can take it back; the numbers are then
//! handed out a second time for other changes. Three signs give it away: another
//! lineage, a head below what was seen, another batch under a revision that was seen.
//! Both drivers [`judge`] every gateway row they read and begin a new epoch when told
//! so, before anything else is read or written. No IO here: the protocol's model
//! (`crates/proof`) and its simulated store decide with the same functions.

use std::sync::{Mutex, PoisonError};

use ferrogate_model::{Epoch, Position, Revision};
use uuid::Uuid;

use crate::rows::{self, GatewayRow};
use crate::{Head, StoreError};

/// The newest change this process knows of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seen {
    /// Where it is in the line.
    pub position: Position,
    /// The batch it belongs to; `None` when only its position is known.
    pub batch: Option<Uuid>,
}

/// What a read tells of the history, whichever database it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Where the line stands.
    pub head: Head,
    /// Whether the database has the lineage that the epoch was given for.
    pub same_lineage: bool,
    /// The batch of the revision that was seen last, as the database has it now.
    pub witness: Option<Uuid>,
}

/// What one process knows of its gateway's history; shared by every call of a store.
#[derive(Debug, Default)]
pub(crate) struct History {
    seen: Mutex<Seen>,
}

/// What a gateway row says of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the one we know, or one that somebody has already given a new epoch.
    Same,
    /// It is another one: the new epoch must be at least this.
    Changed(Epoch),
}

impl Seen {
    /// Remembers a change, if it is newer than the one remembered or says more of it.
    pub fn remember(&mut self, position: Position, batch: Option<Uuid>) {
        if position > self.position || (position == self.position && self.batch.is_none()) {
            *self = Seen { position, batch };
        }
    }

    /// The revision to ask the database's batch of, as the database counts.
    pub(crate) fn witness(&self) -> i64 {
        rows::signed(self.position.revision)
    }
}

impl History {
    /// What to compare the next row with. Take it *before* the row is read: a change
    /// seen by another call meanwhile may be newer than that row.
    pub(crate) fn seen(&self) -> Seen {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Seen::remember`].
    pub(crate) fn remember(&self, position: Position, batch: Option<Uuid>) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).remember(position, batch);
    }

    /// Remembers the head a row tells of.
    pub(crate) fn remember_row(&self, row: &GatewayRow) -> Result<(), StoreError> {
        let batch = row.head_batch.as_deref().map(rows::uuid).transpose()?;
        self.remember(row.head()?.position, batch);
        Ok(())
    }

    /// The least epoch a gateway may be created with.
    pub(crate) fn first_epoch(&self) -> i64 {
        rows::signed(Revision(self.seen().position.epoch.0)).saturating_add(1)
    }
}

/// Compares what a read tells with what was seen before it.
#[must_use]
pub fn judge(seen: &Seen, sight: &Sight) -> Verdict {
    let head = sight.head;
    let next = Verdict::Changed(Epoch(head.position.epoch.0.max(seen.position.epoch.0).saturating_add(1)));
    if !sight.same_lineage || head.position < seen.position {
        return next;
    }
    let readable = head.position.epoch == seen.position.epoch && seen.position.revision > head.floor;
    if readable && seen.batch.is_some() && sight.witness != seen.batch {
        return next;
    }
    Verdict::Same
}

/// As [`judge`], for a row as it was read.
pub(crate) fn judge_row(seen: &Seen, row: &GatewayRow) -> Result<Verdict, StoreError> {
    let witness = row.witness.as_deref().map(rows::uuid).transpose()?;
    let same_lineage = row.lineage == row.lineage_now;
    Ok(judge(seen, &Sight { head: row.head()?, same_lineage, witness }))
}

#[cfg(test)]
mod tests {
    use super::{History, Seen, Verdict, judge_row};
    use crate::rows::GatewayRow;
    use ferrogate_model::{Epoch, Position, Revision};
    use uuid::Uuid;

    const A: Uuid = Uuid::from_u128(1);
    const B: Uuid = Uuid::from_u128(2);

    fn row(epoch: i64, revision: i64, witness: Option<Uuid>) -> GatewayRow {
        GatewayRow {
            epoch,
            revision,
            floor: 2,
            lineage: "one".into(),
            lineage_now: "one".into(),
            witness: witness.map(|id| id.to_string()),
            head_batch: None,
        }
    }

    fn seen(epoch: u64, revision: u64, batch: Option<Uuid>) -> Seen {
        Seen { position: Position::new(Epoch(epoch), Revision(revision)), batch }
    }

    #[test]
    fn another_history_is_told_by_its_signs() {
        let changed = Verdict::Changed(Epoch(8));
        for (seen, row, verdict, why) in [
            (Seen::default(), row(7, 9, None), Verdict::Same, "nothing was seen"),
            (seen(7, 9, Some(A)), row(7, 9, Some(A)), Verdict::Same, "nothing moved"),
            (seen(7, 9, Some(A)), row(7, 12, Some(A)), Verdict::Same, "it moved on"),
            (seen(7, 9, None), row(7, 12, Some(A)), Verdict::Same, "the batch is not known"),
            (seen(7, 9, Some(A)), row(7, 12, Some(B)), changed, "written again by another batch"),
            (seen(7, 9, Some(A)), row(7, 8, None), changed, "the tail is gone"),
            (seen(7, 2, Some(A)), row(7, 12, None), Verdict::Same, "pruned away"),
            (seen(7, 9, Some(A)), row(8, 3, None), Verdict::Same, "somebody began a new epoch"),
            (seen(7, 9, Some(A)), row(6, 20, None), changed, "restored to an earlier epoch"),
        ] {
            assert_eq!(judge_row(&seen, &row).expect("a readable row"), verdict, "{why}");
        }
        let moved = GatewayRow { lineage_now: "two".into(), ..row(7, 9, None) };
        assert_eq!(judge_row(&Seen::default(), &moved).expect("a readable row"), changed);
    }

    #[test]
    fn memory_only_moves_forward() {
        let history = History::default();
        let at = |revision| Position::new(Epoch(7), Revision(revision));
        history.remember(at(5), Some(A));
        history.remember(at(4), Some(B));
        history.remember(at(5), None);
        assert_eq!(history.seen(), seen(7, 5, Some(A)));
        history.remember(at(6), None);
        history.remember(at(6), Some(B));
        assert_eq!(history.seen(), seen(7, 6, Some(B)));
    }
}
