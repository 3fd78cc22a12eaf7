// SPDX-License-Identifier: Apache-2.0
//! What a follower of the line does with each answer of a store: no IO, no clock, so
//! that the very code that runs is driven by tests and by the protocol's model. It
//! asserts invariant 2 where the line is read: exactly the next revision, or a reload.

use ferrogate_model::Position;

use crate::{Change, Changes, State};

/// Where a follower stands, and what it asks next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    at: Option<Position>,
    /// What was handed out and not yet taken back as done.
    handed_out: Option<Position>,
    reload: bool,
}

/// What to ask the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// [`crate::Store::load`].
    Load,
    /// [`crate::Store::changes_since`] this position.
    ChangesSince(Position),
}

/// What to do with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Hand out these changes; `more` tells whether to ask again without waiting.
    Batch {
        /// Contiguous, from the cursor on, whole batches.
        changes: Vec<Change>,
        /// Whether the store has more already.
        more: bool,
    },
    /// Hand out this state.
    Reset(State),
    /// Ask again at once: the line cannot be continued.
    Reload,
    /// Nothing new: wait.
    Wait,
}

impl Cursor {
    /// A follower that has applied everything up to `start`, or nothing at all.
    #[must_use]
    pub const fn new(start: Option<Position>) -> Cursor {
        Cursor { at: start, handed_out: None, reload: start.is_none() }
    }

    /// The last position taken as done; `None` before the first state.
    #[must_use]
    pub const fn position(&self) -> Option<Position> {
        self.at
    }

    /// What was handed out is applied: the cursor moves there. A follower that was
    /// dropped before saying so is handed the same again.
    pub fn applied(&mut self) {
        if let Some(position) = self.handed_out.take() {
            self.at = Some(position);
            self.reload = false;
        }
    }

    /// What to ask next.
    #[must_use]
    pub const fn ask(&self) -> Ask {
        match (self.at, self.reload) {
            (Some(position), false) => Ask::ChangesSince(position),
            _ => Ask::Load,
        }
    }

    /// Takes the answer to [`Ask::ChangesSince`].
    ///
    /// # Panics
    /// When the answer skips, repeats, breaks off within a batch or is of another epoch:
    /// a store must never answer that, and whoever applied it could not tell.
    pub fn on_changes(&mut self, answer: Changes) -> Step {
        let Some(at) = self.at else { return Step::Reload };
        let (epoch, changes, head) = match answer {
            Changes::Resync(_) => {
                self.reload = true;
                return Step::Reload;
            }
            Changes::Line { epoch, changes, head } => (epoch, changes, head),
        };
        assert_eq!(epoch, at.epoch, "a line is continued in its epoch only");
        let mut reached = at.revision;
        for change in &changes {
            assert_eq!(change.revision, reached.next(), "the line has no gap and no repetition");
            reached = change.revision;
        }
        let Some(last) = changes.last() else { return Step::Wait };
        assert_eq!(last.batch_end, reached, "a batch is handed out whole");
        self.handed_out = Some(Position::new(epoch, reached));
        Step::Batch { more: head > reached, changes }
    }

    /// Takes the answer to [`Ask::Load`]. A state older than what was applied is not handed
    /// out, for nobody may go back: the line is asked again later, and the store, seeing
    /// where we stand, begins a new epoch if it has lost its tail.
    pub fn on_state(&mut self, state: State) -> Step {
        if self.at.is_some_and(|at| state.position < at) {
            self.reload = false;
            return Step::Wait;
        }
        self.handed_out = Some(state.position);
        Step::Reset(state)
    }
}

#[cfg(test)]
mod tests {
    use super::{Ask, Cursor, Step};
    use crate::{Change, Changes, Head, State};
    use ferrogate_model::{Epoch, Handle, Kind, Position, ResourceName, Revision};

    fn at(epoch: u64, revision: u64) -> Position {
        Position::new(Epoch(epoch), Revision(revision))
    }

    fn line(epoch: u64, revisions: &[(u64, u64)], head: u64) -> Changes {
        let name = ResourceName::new(Kind::RestApi, Handle::try_new("a").expect("a good handle"));
        let changes = revisions.iter().map(|(revision, end)| Change {
            revision: Revision(*revision),
            batch_end: Revision(*end),
            name: name.clone(),
            artifact: None,
            author: String::new(),
            at: 0,
        });
        Changes::Line { epoch: Epoch(epoch), changes: changes.collect(), head: Revision(head) }
    }

    fn state(epoch: u64, revision: u64) -> State {
        State { position: at(epoch, revision), artifacts: Vec::new() }
    }

    #[test]
    fn a_fresh_cursor_loads_then_follows() {
        let mut cursor = Cursor::new(None);
        assert_eq!(cursor.ask(), Ask::Load);
        assert_eq!(cursor.on_state(state(1, 3)), Step::Reset(state(1, 3)));
        assert_eq!(cursor.ask(), Ask::Load, "not applied yet");
        cursor.applied();
        assert_eq!(cursor.ask(), Ask::ChangesSince(at(1, 3)));
        assert!(matches!(cursor.on_changes(line(1, &[(4, 5), (5, 5)], 9)), Step::Batch { more: true, .. }));
        assert_eq!(cursor.position(), Some(at(1, 3)), "not applied yet");
        cursor.applied();
        assert_eq!(cursor.position(), Some(at(1, 5)));
        assert_eq!(cursor.on_changes(line(1, &[], 5)), Step::Wait);
    }

    #[test]
    fn a_resync_loads_and_an_older_state_is_not_taken() {
        let mut cursor = Cursor::new(Some(at(1, 7)));
        let head = Head { position: at(2, 5), floor: Revision(0) };
        assert_eq!(cursor.on_changes(Changes::Resync(head)), Step::Reload);
        assert_eq!(cursor.ask(), Ask::Load);
        assert_eq!(cursor.on_state(state(1, 6)), Step::Wait);
        assert_eq!(cursor.ask(), Ask::ChangesSince(at(1, 7)));
        assert_eq!(cursor.on_changes(Changes::Resync(head)), Step::Reload);
        assert_eq!(cursor.on_state(state(2, 5)), Step::Reset(state(2, 5)));
        cursor.applied();
        assert_eq!(cursor.position(), Some(at(2, 5)));
    }

    #[test]
    fn a_broken_line_is_never_handed_out() {
        for broken in [
            line(1, &[(9, 9)], 9),
            line(1, &[(7, 7)], 9),
            line(1, &[(8, 8), (8, 8)], 9),
            line(1, &[(8, 9)], 9),
            line(2, &[(8, 8)], 9),
        ] {
            let taken = std::panic::catch_unwind(move || Cursor::new(Some(at(1, 7))).on_changes(broken));
            assert!(taken.is_err());
        }
    }
}
