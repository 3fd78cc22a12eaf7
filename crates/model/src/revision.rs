// SPDX-License-Identifier: Apache-2.0
//! The one number that tells the truth everywhere, and the epoch beside it.
//!
//! A revision is taken by a transaction of the store in commit order and without
//! gaps; an epoch names one uninterrupted history of that line. A database that
//! was restored, or that failed over and lost its tail, may hand out a revision
//! twice, so two positions compare by epoch first.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A place in one gateway's change line: 0 is the empty gateway, each change takes the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

/// One uninterrupted history of the change line; a later history has a greater epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// An epoch and a revision: what a replica states about the state it holds.
/// The default, epoch 0 revision 0, is "nothing yet" and precedes every real position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The history the revision belongs to.
    pub epoch: Epoch,
    /// The last change applied.
    pub revision: Revision,
}

impl Revision {
    /// The revision before the first change.
    pub const ZERO: Revision = Revision(0);

    /// The revision that must follow this one. Saturates at the end of the number
    /// space, which ten thousand changes a second reach after 58 million years.
    #[must_use]
    pub const fn next(self) -> Revision {
        Revision(self.0.saturating_add(1))
    }
}

impl Position {
    /// A position from its two numbers.
    #[must_use]
    pub const fn new(epoch: Epoch, revision: Revision) -> Position {
        Position { epoch, revision }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::{Epoch, Position, Revision};

    #[test]
    fn a_later_epoch_is_later_whatever_its_revision() {
        let lost_tail = Position::new(Epoch(7), Revision(100));
        let restored = Position::new(Epoch(8), Revision(90));
        assert!(restored > lost_tail);
        assert!(Position::default() < Position::new(Epoch(1), Revision::ZERO));
    }
}
