// SPDX-License-Identifier: Apache-2.0
//! Whether a process may be sent work, and if not, why not. Each part of a role that
//! must have happened first holds a [`Blocker`] with its reason; the process is ready
//! when none is held. It decides nothing: probes and the admin side read it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The named conditions that stand between a process and its work. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    held: Arc<Mutex<Held>>,
}

#[derive(Debug, Default)]
struct Held {
    next: u64,
    reasons: BTreeMap<u64, String>,
}

/// Keeps a process from being ready until it is dropped.
#[derive(Debug)]
#[must_use = "readiness is blocked only while this value lives"]
pub struct Blocker {
    readiness: Readiness,
    id: u64,
}

impl Readiness {
    /// With no condition: ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Blocks readiness for this reason until the answer is dropped.
    pub fn block(&self, reason: impl Into<String>) -> Blocker {
        let id = self.with(|held| {
            let id = held.next;
            held.next = id.wrapping_add(1);
            held.reasons.insert(id, reason.into());
            id
        });
        Blocker { readiness: self.clone(), id }
    }

    /// Whether nothing blocks.
    pub fn is_ready(&self) -> bool {
        self.with(|held| held.reasons.is_empty())
    }

    /// What blocks, oldest first.
    pub fn reasons(&self) -> Vec<String> {
        self.with(|held| held.reasons.values().cloned().collect())
    }

    fn with<T>(&self, act: impl FnOnce(&mut Held) -> T) -> T {
        // The map is never left half-written, so a panic elsewhere does not spoil it.
        act(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Blocker {
    fn drop(&mut self) {
        self.readiness.with(|held| held.reasons.remove(&self.id));
    }
}

#[cfg(test)]
mod tests {
    use super::Readiness;

    #[test]
    fn ready_once_every_blocker_is_gone() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let sync = readiness.block("first sync");
        let store = readiness.clone().block("store");
        assert_eq!(readiness.reasons(), ["first sync", "store"]);
        drop(sync);
        assert_eq!(readiness.reasons(), ["store"]);
        assert!(!readiness.is_ready());
        drop(store);
        assert!(readiness.is_ready());
    }
}
