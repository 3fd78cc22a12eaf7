// SPDX-License-Identifier: Apache-2.0
//! Which stream speaks for which runtime. A runtime that lost its connection comes back
//! before this end has noticed; its newer stream takes over, the older one is ended, and
//! the observer never hears of the older one's end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::observer::StreamObserver;
use crate::node::RuntimeInfo;

/// Every runtime connected here.
pub(super) struct Roster {
    observer: Arc<dyn StreamObserver>,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    next: u64,
    streams: HashMap<String, (u64, CancellationToken)>,
}

/// One stream's place; leaving is dropping it.
pub(super) struct Entry {
    roster: Arc<Roster>,
    runtime_id: String,
    stream: u64,
    superseded: CancellationToken,
}

impl Roster {
    pub(super) fn new(observer: Arc<dyn StreamObserver>) -> Roster {
        Roster { observer, current: Mutex::default() }
    }

    /// Enters a stream, ending an older one of the same runtime.
    pub(super) fn enter(self: &Arc<Self>, runtime: RuntimeInfo) -> Entry {
        let runtime_id = runtime.node.id.clone();
        let superseded = CancellationToken::new();
        let stream = self.with(|current, observer| {
            let stream = current.next;
            current.next = stream.wrapping_add(1);
            let older = current.streams.insert(runtime_id.clone(), (stream, superseded.clone()));
            if let Some((_, token)) = older {
                tracing::info!(runtime = %runtime_id, "a newer stream of this runtime takes over");
                token.cancel();
            }
            observer.connected(runtime);
            stream
        });
        Entry { roster: self.clone(), runtime_id, stream, superseded }
    }

    /// The observer is called under the lock: otherwise the end of an older stream could be
    /// reported after the start of the newer one. No operation leaves the map half-written.
    fn with<T>(&self, act: impl FnOnce(&mut Current, &dyn StreamObserver) -> T) -> T {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut current, self.observer.as_ref())
    }
}

impl Entry {
    /// Cancelled when a newer stream of this runtime takes over.
    pub(super) fn superseded(&self) -> &CancellationToken {
        &self.superseded
    }

    /// Tells the observer, unless a newer stream speaks for this runtime.
    pub(super) fn report(&self, tell: impl FnOnce(&dyn StreamObserver, &str)) {
        self.roster.with(|current, observer| {
            if current.streams.get(&self.runtime_id).is_some_and(|(stream, _)| *stream == self.stream) {
                tell(observer, &self.runtime_id);
            }
        });
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.roster.with(|current, observer| {
            if current.streams.get(&self.runtime_id).is_some_and(|(stream, _)| *stream == self.stream) {
                current.streams.remove(&self.runtime_id);
                observer.disconnected(&self.runtime_id);
            }
        });
    }
}
