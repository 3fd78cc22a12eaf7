// SPDX-License-Identifier: Apache-2.0
//! The owner of every task: it names them, restarts those that must not die, and joins
//! or aborts all of them at shutdown. Nothing else in the tree may spawn, so that no
//! task can outlive its process part unseen and no panic can go unreported.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backoff::Backoff;

/// How long aborted tasks get to unwind before a shutdown stops waiting for them.
const ABORT_GRACE: Duration = Duration::from_secs(1);
/// A restarted task that ran this long counts as healthy again.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);

/// A group of owned tasks. Clones share the group.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    inner: Arc<Inner>,
}

/// What a shutdown found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Report {
    /// The tasks that did not end in time and were aborted, by name.
    pub aborted: Vec<String>,
}

/// Most names are known when the program is built.
type Name = Cow<'static, str>;

#[derive(Debug, Default)]
struct Inner {
    token: CancellationToken,
    tracker: TaskTracker,
    running: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Running {
    next: u64,
    tasks: BTreeMap<u64, (Name, Option<AbortHandle>)>,
}

struct Entry {
    inner: Arc<Inner>,
    id: u64,
}

impl Tasks {
    /// An empty group.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the group shuts down. Every task that loops must watch it.
    pub fn token(&self) -> CancellationToken {
        self.inner.token.clone()
    }

    /// The names of the tasks that run now.
    pub fn running(&self) -> Vec<String> {
        self.inner.with(|running| running.tasks.values().map(|(name, _)| name.to_string()).collect())
    }

    /// Starts a task on the current tokio runtime. A panic is logged and ends the task.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where spawning is allowed: all of it is tracked"
    )]
    pub fn spawn<F>(&self, name: impl Into<Cow<'static, str>>, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let name = name.into();
        let (entry, id) = self.enter(name.clone());
        let task = tokio::spawn(self.inner.tracker.track_future(guarded(name, entry, future)));
        self.keep(id, task.abort_handle());
    }

    /// As [`Tasks::spawn`], for a future that must stay on this thread; needs a `LocalSet`.
    pub fn spawn_local<F>(&self, name: impl Into<Cow<'static, str>>, future: F)
    where
        F: Future<Output = ()> + 'static,
    {
        let name = name.into();
        let (entry, id) = self.enter(name.clone());
        let task = tokio::task::spawn_local(self.inner.tracker.track_future(guarded(name, entry, future)));
        self.keep(id, task.abort_handle());
    }

    /// Starts a task that must not die: when it fails or panics it is logged and started
    /// again after a backoff, until the group shuts down. `Ok` ends it for good.
    pub fn spawn_restarting<Make, F, E>(&self, name: impl Into<Cow<'static, str>>, make: Make)
    where
        Make: FnMut() -> F + Send + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display + Send,
    {
        let name = name.into();
        let token = self.token();
        self.spawn(name.clone(), async move { restart(name, make, token).await });
    }

    /// Cancels the token, waits for the tasks, and aborts those still running at the
    /// deadline. Tasks spawned meanwhile are waited for too.
    pub async fn shutdown(&self, deadline: Duration) -> Report {
        self.inner.token.cancel();
        self.inner.tracker.close();
        // Dropping the wait loses nothing: the tracker keeps counting.
        if tokio::time::timeout(deadline, self.inner.tracker.wait()).await.is_ok() {
            return Report::default();
        }
        let aborted = self.inner.with(|running| {
            let tasks = std::mem::take(&mut running.tasks);
            tasks
                .into_values()
                .map(|(name, handle)| {
                    if let Some(handle) = handle {
                        handle.abort();
                    }
                    name.into_owned()
                })
                .collect::<Vec<_>>()
        });
        let unwound = tokio::time::timeout(ABORT_GRACE, self.inner.tracker.wait()).await;
        tracing::warn!(tasks = ?aborted, unwound = unwound.is_ok(), "tasks aborted at the deadline");
        Report { aborted }
    }

    fn enter(&self, name: Name) -> (Entry, u64) {
        let id = self.inner.with(|running| {
            let id = running.next;
            running.next = id.wrapping_add(1);
            running.tasks.insert(id, (name, None));
            id
        });
        (Entry { inner: self.inner.clone(), id }, id)
    }

    fn keep(&self, id: u64, handle: AbortHandle) {
        // The task may have ended already and taken its entry with it.
        self.inner.with(|running| {
            if let Some((_, slot)) = running.tasks.get_mut(&id) {
                *slot = Some(handle);
            }
        });
    }
}

impl Inner {
    fn with<T>(&self, act: impl FnOnce(&mut Running) -> T) -> T {
        // The map is never left half-written, so a panic elsewhere does not spoil it.
        act(&mut self.running.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.inner.with(|running| running.tasks.remove(&self.id));
    }
}

/// No `async fn`: that would hold the future twice, as its argument and as what it awaits, and
/// every client connection is one of these.
fn guarded<F: Future<Output = ()>>(name: Name, entry: Entry, future: F) -> impl Future<Output = ()> {
    AssertUnwindSafe(future).catch_unwind().map(move |ended| {
        let _entry = entry;
        if let Err(panic) = ended {
            tracing::error!(task = %name, reason = panic_text(panic.as_ref()), "task panicked");
        }
    })
}

async fn restart<Make, F, E>(name: Name, mut make: Make, token: CancellationToken)
where
    Make: FnMut() -> F,
    F: Future<Output = Result<(), E>>,
    E: Display,
{
    let mut backoff = Backoff::for_restarts();
    loop {
        let started = Instant::now();
        // The factory is called inside, so that its own panic counts as the task's.
        let run = async { make().await };
        let reason = match AssertUnwindSafe(run).catch_unwind().await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic_text(panic.as_ref()).to_owned(),
        };
        if token.is_cancelled() {
            return;
        }
        if started.elapsed() >= HEALTHY_AFTER {
            backoff.reset();
        }
        let delay = backoff.next_delay();
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        tracing::error!(task = %name, reason, delay_ms, "task failed and is restarted");
        tokio::select! {
            biased;
            // Both arms only wait; dropping either changes nothing.
            () = token.cancelled() => return,
            () = tokio::time::sleep(delay) => {}
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("panic without a message")
}

#[cfg(test)]
mod tests {
    use super::Tasks;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;
    use tokio::sync::oneshot;

    const DEADLINE: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn shutdown_cancels_and_joins() {
        let tasks = Tasks::new();
        let token = tasks.token();
        tasks.spawn("loop", async move { token.cancelled().await });
        assert_eq!(tasks.running(), ["loop"]);
        assert!(tasks.shutdown(DEADLINE).await.aborted.is_empty());
        assert!(tasks.running().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_deaf_task_is_aborted_and_named() {
        let tasks = Tasks::new();
        let (held, dropped) = oneshot::channel::<()>();
        tasks.spawn("deaf", async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        assert_eq!(tasks.shutdown(DEADLINE).await.aborted, ["deaf"]);
        dropped.await.expect_err("the aborted task must have been dropped");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_or_fails_is_restarted_until_it_succeeds() {
        let tasks = Tasks::new();
        let runs = Arc::new(AtomicUsize::new(0));
        let counter = runs.clone();
        tasks.spawn_restarting("flaky", move || {
            let run = counter.fetch_add(1, Ordering::SeqCst);
            async move {
                match run {
                    0 => panic!("first"),
                    1 => Err("second"),
                    _ => Ok(()),
                }
            }
        });
        while !tasks.running().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(runs.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_panic_in_the_factory_does_not_kill_the_owner() {
        let tasks = Tasks::new();
        tasks.spawn("panics", async { panic!("boom") });
        assert!(tasks.shutdown(DEADLINE).await.aborted.is_empty());
    }

    #[tokio::test]
    async fn local_tasks_are_owned_too() {
        let local = tokio::task::LocalSet::new();
        let tasks = Tasks::new();
        let own = tasks.clone();
        local
            .run_until(async move {
                let token = own.token();
                let not_send = std::rc::Rc::new(());
                own.spawn_local("local", async move {
                    let _not_send = not_send;
                    token.cancelled().await;
                });
                assert!(own.shutdown(DEADLINE).await.aborted.is_empty());
            })
            .await;
    }
}
