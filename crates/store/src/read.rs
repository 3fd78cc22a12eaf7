// SPDX-License-Identifier: Apache-2.0
//! What both drivers decide about reading: whether a line can be continued, which part
//! of it to read, whether a revision can still be asked about. Pure.

use ferrogate_model::{Epoch, Position, Revision};

use crate::history::History;
use crate::rows::{self, ChangeRow};
use crate::{Change, Changes, Head, State, StoreError};

/// How long a committed batch can be asked about, in microseconds: a day. A writer whose
/// answer was lost asks at once or, at the latest, when its database is back.
pub(crate) const BATCHES_KEPT_MICROS: i64 = 24 * 3600 * 1_000_000;

/// The lease of a controller or runtime not heard of for this long is deleted: a day.
pub(crate) const LEASES_KEPT_MICROS: i64 = 24 * 3600 * 1_000_000;

/// One reading of the line.
pub(crate) struct Reading {
    /// Read what is above this revision,
    pub(crate) after: i64,
    /// up to the end of the batch that holds this one.
    pub(crate) until: i64,
    from: Revision,
    epoch: Epoch,
    head: Revision,
}

/// Whether the line cannot be continued from `after`.
#[must_use]
pub fn resync_needed(after: Position, head: Head) -> bool {
    after.epoch != head.position.epoch
        || after.revision < head.floor
        || after.revision > head.position.revision
}

/// Checks that the artifacts as of a revision can be told. Below the floor only a change
/// that was made at exactly that revision can: it is still there when nothing superseded
/// it before the floor, and so every revision that is listed can be read.
pub(crate) fn readable(at: Revision, head: Head, found: Option<&Change>) -> Result<(), StoreError> {
    let exact = found.is_some_and(|change| change.revision == at);
    if at <= head.position.revision && (at >= head.floor || exact) {
        return Ok(());
    }
    Err(StoreError::OutOfRange { asked: at, floor: head.floor, head: head.position.revision })
}

/// The state at a position from the newest change of each artifact.
pub(crate) fn state_at(position: Position, rows: Vec<ChangeRow>) -> Result<State, StoreError> {
    let mut artifacts = Vec::with_capacity(rows.len());
    for row in rows {
        artifacts.extend(row.into_change()?.artifact);
    }
    Ok(State { position, artifacts: rows::sorted(artifacts) })
}

impl Reading {
    pub(crate) fn new(after: Position, limit: usize, head: Head) -> Reading {
        let limit = u64::try_from(limit).unwrap_or(u64::MAX).max(1);
        Reading {
            after: rows::signed(after.revision),
            until: rows::signed(Revision(after.revision.0.saturating_add(limit))),
            from: after.revision,
            epoch: after.epoch,
            head: head.position.revision,
        }
    }

    /// Checks what was read and remembers its end.
    pub(crate) fn finish(self, rows: Vec<ChangeRow>, history: &History) -> Result<Changes, StoreError> {
        let last_batch = rows.last().map(ChangeRow::batch).transpose()?;
        let changes = rows::line(self.from, rows)?;
        let reached = changes.last().map_or(self.from, |last| last.revision);
        if reached > self.head || (changes.is_empty() && self.from < self.head) {
            return Err(crate::fault::corrupt(format!(
                "the line after {} reaches to {reached} though the head is {}",
                self.from, self.head
            )));
        }
        if let Some(batch) = last_batch {
            history.remember(Position::new(self.epoch, reached), Some(batch));
        }
        Ok(Changes::Line { epoch: self.epoch, changes, head: self.head })
    }
}

#[cfg(test)]
mod tests {
    use super::{readable, resync_needed};
    use crate::Head;
    use ferrogate_model::{Epoch, Position, Revision};

    const HEAD: Head = Head { position: Position::new(Epoch(7), Revision(9)), floor: Revision(4) };

    #[test]
    fn only_a_position_on_the_readable_line_is_continued() {
        for (epoch, revision, resync) in
            [(7, 4, false), (7, 9, false), (7, 3, true), (7, 10, true), (6, 5, true), (8, 5, true)]
        {
            let after = Position::new(Epoch(epoch), Revision(revision));
            assert_eq!(resync_needed(after, HEAD), resync, "{after}");
        }
    }

    #[test]
    fn a_revision_is_readable_from_floor_to_head() {
        for (at, is_readable) in [(3, false), (4, true), (9, true), (10, false)] {
            assert_eq!(readable(Revision(at), HEAD, None).is_ok(), is_readable, "{at}");
        }
    }
}
