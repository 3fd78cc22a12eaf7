// SPDX-License-Identifier: Apache-2.0
//! Work that deployments make for the control side's executor: checking endpoints, following
//! names. It is left here while a snapshot is prepared, by whatever thread prepares it, and taken
//! up as a task of its own when the runtime runs. `health` and `names` use it.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use ferrogate_base::tasks::Tasks;
use tokio::sync::Notify;

/// Work that waits to be begun; as much as deployments made and still want.
pub struct Beside<W> {
    waiting: Mutex<Vec<W>>,
    left: Notify,
}

impl<W> Default for Beside<W> {
    fn default() -> Beside<W> {
        Beside { waiting: Mutex::default(), left: Notify::new() }
    }
}

impl<W: Send + 'static> Beside<W> {
    /// Leaves work, and forgets what nobody wants any more.
    pub fn leave(&self, work: W, wanted: impl Fn(&W) -> bool) {
        // Whole at every await-free step, so a panic elsewhere does not spoil it.
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(wanted);
        waiting.push(work);
        self.left.notify_one();
    }

    /// How much waits.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Begins work as it comes, each as a task of this name, until the group shuts down.
    pub fn run<F>(
        self: &Arc<Self>,
        tasks: &Tasks,
        name: &'static str,
        begin: impl Fn(W) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let (beside, own, token) = (self.clone(), tasks.clone(), tasks.token());
        tasks.spawn(format!("{name}s"), async move {
            loop {
                let waiting =
                    std::mem::take(&mut *beside.waiting.lock().unwrap_or_else(PoisonError::into_inner));
                for work in waiting {
                    let (token, work) = (own.token(), begin(work));
                    own.spawn(name, async move {
                        tokio::select! {
                            // What is cut off here nobody waits for.
                            () = token.cancelled() => {}
                            () = work => {}
                        }
                    });
                }
                tokio::select! {
                    // Both arms only wait; a notice that comes first is kept.
                    () = token.cancelled() => return,
                    () = beside.left.notified() => {}
                }
            }
        });
    }
}
