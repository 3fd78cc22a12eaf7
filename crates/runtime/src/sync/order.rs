// SPDX-License-Identifier: Apache-2.0
//! What becomes of an update and in which order, without IO: whether it fits what is
//! held, then swap, then disk, then the answer, and never an answer before the disk
//! (invariant 8). [`super::RuntimeSink`] carries out what this says; the protocol's model
//! (`crates/proof`) drives the same functions through every interleaving.

use ferrogate_model::{Digest, Position, Reject};
use ferrogate_xds::{Outcome, Update};

use crate::lkg::Mark;

/// An update that does not fit what is held: everything must be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// It would go back.
    #[error("the update leads back from {held} to {offered}")]
    Back {
        /// The position that is served.
        held: Position,
        /// The update's.
        offered: Position,
    },
    /// A part of another history says nothing about the rest.
    #[error("the update of {offered} is not the whole set, but {held} is another epoch")]
    Epoch {
        /// The position that is served.
        held: Position,
        /// The update's.
        offered: Position,
    },
    /// The result is not the set the sender holds.
    #[error("the set at {at} has the digest {found}, the controller's has {expected}")]
    Digest {
        /// The position after the update.
        at: Position,
        /// What the controller says.
        expected: Digest,
        /// What came out.
        found: Digest,
    },
}

/// What to do next with a prepared update.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Serve the prepared set.
    Swap,
    /// Write it to disk, then tell [`Acceptance::persisted`].
    Persist,
    /// Answer this; the update is done.
    Answer(Outcome),
}

/// A prepared update on its way to its answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Acceptance {
    swap: bool,
    persist: bool,
    not_persisted: Option<String>,
    rejects: Vec<Reject>,
}

/// Whether an update may be prepared at all (invariants 3 and 4).
///
/// # Errors
/// When it would go back, or is a part of another history.
pub fn fits(held: Position, update: &Update) -> Result<(), Misfit> {
    let offered = update.position;
    if offered < held {
        return Err(Misfit::Back { held, offered });
    }
    if !update.full && offered.epoch != held.epoch && held != Position::default() {
        return Err(Misfit::Epoch { held, offered });
    }
    Ok(())
}

/// Whether the prepared set is the one its sender holds.
///
/// # Errors
/// When it is not.
pub fn matches(update: &Update, found: Digest) -> Result<(), Misfit> {
    let (at, expected) = (update.position, update.digest);
    if found == expected { Ok(()) } else { Err(Misfit::Digest { at, expected, found }) }
}

/// What a runtime states that it holds. What a crash would leave is what a controller may
/// count on, so an update that is not on disk yet is asked for again.
#[must_use]
pub fn stated(served: Mark, on_disk: Option<Mark>) -> Mark {
    on_disk.unwrap_or(served)
}

impl Acceptance {
    /// A prepared update: `changed` tells whether it leads anywhere, `on_disk` whether the
    /// disk holds its result already. What failed to be written before is written again,
    /// although nothing changed since.
    #[must_use]
    pub fn new(changed: bool, on_disk: bool, rejects: Vec<Reject>) -> Acceptance {
        Acceptance { swap: changed, persist: changed || !on_disk, not_persisted: None, rejects }
    }

    /// What to do next. Asked until it answers.
    pub fn proceed(&mut self) -> Next {
        if std::mem::take(&mut self.swap) {
            return Next::Swap;
        }
        if std::mem::take(&mut self.persist) {
            return Next::Persist;
        }
        let rejects = std::mem::take(&mut self.rejects);
        Next::Answer(Outcome { rejects, diverged: false, not_persisted: self.not_persisted.take() })
    }

    /// How writing ended: the reason when it is not on disk.
    pub fn persisted(&mut self, failure: Option<String>) {
        self.not_persisted = failure;
    }
}

#[cfg(test)]
mod tests {
    use super::{Acceptance, Next};
    use ferrogate_xds::Outcome;

    fn steps(mut acceptance: Acceptance, failure: Option<&str>) -> Vec<Next> {
        let mut steps = Vec::new();
        loop {
            let next = acceptance.proceed();
            if next == Next::Persist {
                acceptance.persisted(failure.map(str::to_owned));
            }
            steps.push(next);
            if matches!(steps.last(), Some(Next::Answer(_))) {
                return steps;
            }
        }
    }

    #[test]
    fn the_disk_comes_before_the_answer_and_a_failed_write_is_told() {
        let answer = |failure: Option<&str>| {
            let not_persisted = failure.map(str::to_owned);
            Next::Answer(Outcome { not_persisted, ..Outcome::default() })
        };
        for (changed, on_disk, failure, expected) in [
            (true, false, None, vec![Next::Swap, Next::Persist, answer(None)]),
            (true, false, Some("full"), vec![Next::Swap, Next::Persist, answer(Some("full"))]),
            (false, false, None, vec![Next::Persist, answer(None)]),
            (false, true, None, vec![answer(None)]),
        ] {
            assert_eq!(steps(Acceptance::new(changed, on_disk, Vec::new()), failure), expected);
        }
    }
}
