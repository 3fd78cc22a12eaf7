// SPDX-License-Identifier: Apache-2.0
//! What the gateway owes its clients, and the judgement of every answer against it. Each
//! handle has one writer, which numbers the versions it writes; an answer "live" obliges
//! the runtimes it counted to serve that version or a later one to every request that
//! begins afterwards. Pure but for its lock; writers and readers call it, nothing is
//! guessed from what the gateway says about itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A version of a handle: 0 is "never written".
pub type Version = u64;

/// What a version says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The artifact exists.
    There,
    /// It was deleted.
    Gone,
}

/// An acknowledged write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// Of which handle.
    pub handle: String,
    /// Which version.
    pub version: Version,
    /// The revision in the answer.
    pub revision: u64,
    /// The runtimes, by index, that the answer counted as serving it.
    pub live_on: BTreeSet<usize>,
    /// Acknowledged while a failover was under way: of which history is not known.
    pub straddles: bool,
}

/// What a request is owed, taken before it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    generation: u64,
    /// Per runtime.
    versions: Vec<Version>,
}

/// What a request saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// This version, in every part of the answer.
    Version(Version),
    /// No such route.
    Absent,
}

/// See the module.
pub struct Truth {
    runtimes: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Counts histories: a failover begins a new one.
    generation: u64,
    failing_over: bool,
    handles: BTreeMap<String, Handle>,
    acknowledged: Vec<Acknowledged>,
    lost: Vec<Acknowledged>,
}

#[derive(Default)]
struct Handle {
    /// Content of version 1, 2, …: everything that was begun.
    begun: Vec<Content>,
    /// Per runtime.
    due: BTreeMap<usize, Version>,
}

impl Truth {
    /// Nothing written, nothing owed.
    #[must_use]
    pub fn new(runtimes: usize) -> Truth {
        Truth { runtimes, state: Mutex::default() }
    }

    /// A write is about to be sent; answers its version. From here on it may be seen.
    pub fn begin(&self, handle: &str, content: Content) -> Version {
        let mut state = self.lock();
        let begun = &mut state.handles.entry(handle.to_owned()).or_default().begun;
        begun.push(content);
        begun.len() as Version
    }

    /// A write was acknowledged. `since` is the generation when it was sent.
    pub fn acknowledge(
        &self,
        handle: &str,
        version: Version,
        revision: u64,
        live_on: BTreeSet<usize>,
        since: u64,
    ) {
        let mut state = self.lock();
        let straddles = state.failing_over || state.generation != since;
        if let Some(known) = state.handles.get_mut(handle).filter(|_| !straddles) {
            for runtime in &live_on {
                let due = known.due.entry(*runtime).or_default();
                *due = version.max(*due);
            }
        }
        let live_on = if straddles { BTreeSet::new() } else { live_on };
        let handle = handle.to_owned();
        state.acknowledged.push(Acknowledged { handle, version, revision, live_on, straddles });
    }

    /// The generation now.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.lock().generation
    }

    /// The primary is about to end for good: until [`Truth::fail_over`] no answer obliges.
    pub fn begin_failover(&self) {
        self.lock().failing_over = true;
    }

    /// Another server goes on, whose history ends at this revision: what was acknowledged
    /// after it is lost, and nobody owes it any more. Answers how many writes that were.
    pub fn fail_over(&self, last: u64) -> usize {
        let mut state = self.lock();
        state.failing_over = false;
        state.generation += 1;
        let (kept, lost): (Vec<_>, Vec<_>) = std::mem::take(&mut state.acknowledged)
            .into_iter()
            .partition(|write| write.straddles || write.revision <= last);
        for handle in state.handles.values_mut() {
            handle.due.clear();
        }
        for write in &kept {
            if let Some(handle) = state.handles.get_mut(&write.handle) {
                for runtime in &write.live_on {
                    let due = handle.due.entry(*runtime).or_default();
                    *due = write.version.max(*due);
                }
            }
        }
        state.acknowledged = kept;
        let count = lost.len();
        state.lost.extend(lost);
        count
    }

    /// What a request for this handle that begins now is owed.
    #[must_use]
    pub fn due(&self, handle: &str) -> Due {
        let state = self.lock();
        let of = |runtime| state.handles.get(handle)?.due.get(&runtime).copied();
        let versions = (0..self.runtimes).map(|runtime| of(runtime).unwrap_or_default()).collect();
        Due { generation: state.generation, versions }
    }

    /// Judges an answer that just ended.
    ///
    /// # Errors
    /// With what is wrong about it.
    pub fn judge(&self, handle: &str, runtime: usize, due: &Due, seen: Seen) -> Result<(), String> {
        let state = self.lock();
        let nothing = Handle::default();
        let known = state.handles.get(handle).unwrap_or(&nothing);
        // What was owed when it began may have been lost meanwhile.
        let overtaken = state.generation != due.generation || state.failing_over;
        let least = if overtaken { 0 } else { due.versions.get(runtime).copied().unwrap_or_default() };
        let content = |version: Version| {
            let index = usize::try_from(version).ok()?.checked_sub(1)?;
            known.begun.get(index).copied()
        };
        match seen {
            Seen::Version(version) => match content(version) {
                None => Err(format!("{handle}: version {version} was never written")),
                Some(Content::Gone) => Err(format!("{handle}: version {version} is a deletion")),
                Some(Content::There) if version < least => {
                    Err(format!("{handle}: version {version}, but {least} had been answered live"))
                }
                Some(Content::There) => Ok(()),
            },
            Seen::Absent => {
                let newest = known.begun.len() as Version;
                let excused =
                    least == 0 || (least..=newest).any(|version| content(version) == Some(Content::Gone));
                excused
                    .then_some(())
                    .ok_or_else(|| format!("{handle}: absent, but version {least} had been answered live"))
            }
        }
    }

    /// Every write that was acknowledged and not lost with a tail.
    #[must_use]
    pub fn acknowledged(&self) -> Vec<Acknowledged> {
        self.lock().acknowledged.clone()
    }

    /// Every write that was acknowledged and then lost with a tail.
    #[must_use]
    pub fn lost(&self) -> Vec<Acknowledged> {
        self.lock().lost.clone()
    }

    /// How many versions of each handle were begun, and what the last one says.
    #[must_use]
    pub fn newest(&self) -> BTreeMap<String, (Version, Content)> {
        let state = self.lock();
        let newest = |(name, handle): (&String, &Handle)| {
            Some((name.clone(), (handle.begun.len() as Version, *handle.begun.last()?)))
        };
        state.handles.iter().filter_map(newest).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Content, Seen, Truth};

    fn written(live_on: &[usize]) -> Truth {
        let truth = Truth::new(2);
        for revision in 1..=3 {
            let version = truth.begin("h", Content::There);
            truth.acknowledge("h", version, revision, live_on.iter().copied().collect(), 0);
        }
        truth
    }

    #[test]
    fn a_runtime_that_was_counted_may_not_serve_less() {
        let truth = written(&[0]);
        let due = truth.due("h");
        for (runtime, seen, right) in [
            (0, Seen::Version(3), true),
            (0, Seen::Version(2), false),
            (0, Seen::Version(4), false),
            (0, Seen::Absent, false),
            (1, Seen::Version(1), true),
            (1, Seen::Absent, true),
        ] {
            assert_eq!(truth.judge("h", runtime, &due, seen).is_ok(), right, "{runtime} {seen:?}");
        }
    }

    #[test]
    fn what_was_begun_may_be_seen_and_a_deletion_excuses_absence() {
        let truth = written(&[0, 1]);
        let due = truth.due("h");
        assert_eq!(truth.begin("h", Content::Gone), 4);
        assert!(truth.judge("h", 0, &due, Seen::Absent).is_ok());
        assert!(truth.judge("h", 0, &due, Seen::Version(4)).is_err(), "a deletion has no content");
        assert_eq!(truth.begin("h", Content::There), 5);
        assert!(truth.judge("h", 0, &due, Seen::Version(5)).is_ok());
        truth.acknowledge("h", 5, 5, BTreeSet::from([0]), 0);
        assert!(truth.judge("h", 0, &truth.due("h"), Seen::Absent).is_err());
    }

    #[test]
    fn a_lost_tail_is_owed_no_more_and_the_rest_still_is() {
        let truth = written(&[0]);
        let before = truth.due("h");
        truth.begin_failover();
        truth.fail_over(2);
        assert!(truth.judge("h", 0, &before, Seen::Version(1)).is_ok(), "it began before");
        let after = truth.due("h");
        assert!(truth.judge("h", 0, &after, Seen::Version(2)).is_ok());
        assert!(truth.judge("h", 0, &after, Seen::Version(1)).is_err());
        assert_eq!(truth.lost().len(), 1);
        assert_eq!(truth.acknowledged().len(), 2);
    }

    #[test]
    fn an_answer_that_straddles_a_failover_obliges_nobody() {
        let truth = Truth::new(1);
        let version = truth.begin("h", Content::There);
        let since = truth.generation();
        truth.begin_failover();
        truth.fail_over(0);
        truth.acknowledge("h", version, 9, BTreeSet::from([0]), since);
        assert!(truth.judge("h", 0, &truth.due("h"), Seen::Absent).is_ok());
        assert!(truth.acknowledged()[0].straddles);
    }
}
