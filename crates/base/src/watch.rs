// SPDX-License-Identifier: Apache-2.0
//! One value of which many wait for the latest. Whoever waits is woken in the order in
//! which it began to wait, always: tokio's own watch deals its waiters onto eight lists by
//! chance, so that a simulated run would not replay. It keeps no history: a value that was
//! replaced before anybody looked is never seen. Used wherever a part follows another.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Holds the value. Dropped, it tells whoever waits that nothing more will come.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// Follows the value, and remembers what of it was seen here.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

/// There is no sender any more, and nothing unseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing more will come")]
pub struct Closed;

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Notify,
}

struct State<T> {
    value: T,
    version: u64,
    closed: bool,
}

impl<T: Clone> Sender<T> {
    /// Begins with this value.
    pub fn new(value: T) -> Self {
        let state = Mutex::new(State { value, version: 0, closed: false });
        Self { shared: Arc::new(Shared { state, changed: Notify::new() }) }
    }

    /// The value now.
    pub fn get(&self) -> T {
        self.shared.state().value.clone()
    }

    /// Replaces the value.
    pub fn set(&self, value: T) {
        self.modify(|current| {
            *current = value;
            true
        });
    }

    /// Changes the value in place; nobody is woken when the answer is that it is as it was.
    pub fn modify(&self, change: impl FnOnce(&mut T) -> bool) {
        {
            let mut state = self.shared.state();
            if !change(&mut state.value) {
                return;
            }
            state.version = state.version.wrapping_add(1);
        }
        self.shared.changed.notify_waiters();
    }

    /// A receiver that has seen the value of now.
    pub fn subscribe(&self) -> Receiver<T> {
        let seen = self.shared.state().version;
        Receiver { shared: Arc::clone(&self.shared), seen }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.changed.notify_waiters();
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), seen: self.seen }
    }
}

impl<T: Clone> Receiver<T> {
    /// The value now, which counts as seen.
    pub fn get(&mut self) -> T {
        let state = self.shared.state();
        self.seen = state.version;
        state.value.clone()
    }

    /// Counts the value of now as seen.
    pub fn mark_seen(&mut self) {
        self.seen = self.shared.state().version;
    }

    /// Waits until there is a value that was not seen here, which then counts as seen.
    /// Dropped, it has seen nothing.
    ///
    /// # Errors
    /// When there is no sender any more.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        let seen = self.seen;
        self.seen = self.shared.wait(|state| (state.version != seen).then_some(state.version)).await?;
        Ok(())
    }

    /// Waits for a value of which this holds: the one of now, or a later one.
    ///
    /// # Errors
    /// When there is no sender any more.
    pub async fn wait_for(&mut self, holds: impl Fn(&T) -> bool) -> Result<T, Closed> {
        let there = |state: &State<T>| holds(&state.value).then(|| (state.version, state.value.clone()));
        let (seen, value) = self.shared.wait(there).await?;
        self.seen = seen;
        Ok(value)
    }
}

impl<T> Shared<T> {
    async fn wait<R>(&self, look: impl Fn(&State<T>) -> Option<R>) -> Result<R, Closed> {
        loop {
            let mut notified = std::pin::pin!(self.changed.notified());
            // In the line before looking, so that no change falls in between.
            notified.as_mut().enable();
            {
                let state = self.state();
                if let Some(found) = look(&state) {
                    return Ok(found);
                }
                if state.closed {
                    return Err(Closed);
                }
            }
            notified.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        // A value is replaced whole, so a panic elsewhere leaves a good one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::{Closed, Sender};
    use crate::tasks::Tasks;

    #[tokio::test]
    async fn the_latest_value_is_seen_once_and_what_it_replaced_never() {
        let sender = Sender::new(0);
        let mut receiver = sender.subscribe();
        sender.set(1);
        sender.set(2);
        assert_eq!(receiver.changed().await, Ok(()));
        assert_eq!(receiver.get(), 2);
        sender.modify(|_| false);
        assert_eq!(receiver.wait_for(|value| *value == 2).await, Ok(2));
        sender.set(3);
        drop(sender);
        // Closed is told after the last value.
        assert_eq!(receiver.changed().await, Ok(()));
        assert_eq!(receiver.changed().await, Err(Closed));
        assert_eq!(receiver.wait_for(|value| *value == 4).await, Err(Closed));
    }

    /// With tokio's own, one run in some hundred thousand passes.
    #[tokio::test]
    async fn whoever_waits_is_woken_in_the_order_of_waiting() {
        let (sender, tasks) = (Arc::new(Sender::new(false)), Tasks::new());
        let woken = Arc::new(Mutex::new(Vec::new()));
        for index in 0..20 {
            let (mut receiver, woken) = (sender.subscribe(), Arc::clone(&woken));
            tasks.spawn("waits", async move {
                receiver.wait_for(|open| *open).await.unwrap();
                woken.lock().unwrap().push(index);
            });
        }
        // This thread runs all of them, in the order in which they were spawned.
        tokio::task::yield_now().await;
        sender.set(true);
        tokio::task::yield_now().await;
        assert_eq!(*woken.lock().unwrap(), (0..20).collect::<Vec<_>>());
    }
}
