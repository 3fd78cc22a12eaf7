// SPDX-License-Identifier: Apache-2.0
//! Finish what is in flight, take nothing new, up to a deadline. One [`Trigger`] per
//! process starts it; every connection or request holds a [`Guard`] from a [`Watch`].
//! It never cuts anything off itself: whoever triggered decides what follows a missed
//! deadline. The phases are observable, for readiness and the admin side.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

/// How far a drain has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Taking new work.
    Serving,
    /// Taking nothing new, finishing what is in flight.
    Draining,
    /// Nothing is in flight any more.
    Drained,
    /// The deadline passed with work still in flight.
    Overdue,
}

/// The two halves of a drain.
#[derive(Debug)]
pub struct Drain;

/// Starts a drain and waits for it.
#[derive(Debug)]
pub struct Trigger {
    shared: Arc<Shared>,
}

/// Sees a drain and holds it up while work is in flight. Clones share it.
#[derive(Clone, Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    phase: watch::Receiver<Phase>,
}

/// One piece of work in flight.
#[derive(Debug)]
#[must_use = "a drain waits only for guards that live"]
pub struct Guard {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    phase: watch::Sender<Phase>,
    in_flight: AtomicUsize,
    idle: Notify,
}

impl Drain {
    /// A drain that has not begun.
    // The two halves are the only way to have one; there is no `Drain` value to hold.
    #[allow(clippy::new_ret_no_self)]
    pub fn new() -> (Trigger, Watch) {
        let (phase, seen) = watch::channel(Phase::Serving);
        let shared = Arc::new(Shared { phase, in_flight: AtomicUsize::new(0), idle: Notify::new() });
        (Trigger { shared: shared.clone() }, Watch { shared, phase: seen })
    }
}

impl Trigger {
    /// Starts the drain without waiting for it.
    pub fn start(&self) {
        self.shared.phase.send_if_modified(|phase| {
            let serving = *phase == Phase::Serving;
            if serving {
                *phase = Phase::Draining;
            }
            serving
        });
    }

    /// Starts the drain and waits until nothing is in flight or the deadline passed.
    /// Answers how many pieces of work were still in flight: zero means a clean drain.
    pub async fn drain(&self, deadline: Duration) -> usize {
        self.start();
        // Dropping the wait at the deadline loses nothing: it only reads the count.
        let waited = tokio::time::timeout(deadline, self.shared.wait_idle()).await;
        let phase = if waited.is_ok() { Phase::Drained } else { Phase::Overdue };
        self.shared.phase.send_replace(phase);
        self.in_flight()
    }

    /// How many guards live.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::Acquire)
    }

    /// How far the drain has come.
    pub fn phase(&self) -> Phase {
        *self.shared.phase.borrow()
    }
}

impl Watch {
    /// Marks a piece of work as in flight. It may be taken during a drain too: a request
    /// that was accepted before counts even if it is read only now.
    pub fn guard(&self) -> Guard {
        self.shared.in_flight.fetch_add(1, Ordering::AcqRel);
        Guard { shared: self.shared.clone() }
    }

    /// Resolves once the drain has begun, at once if it already has. Also resolves when
    /// the trigger is gone, because then nobody can tell the work to stop any more.
    pub async fn draining(&self) {
        let mut phase = self.phase.clone();
        // A closed channel cannot happen while `shared` is held here; treat it as a drain.
        let _closed_means_drain = phase.wait_for(|phase| *phase != Phase::Serving).await;
    }

    /// Whether the drain has begun.
    pub fn is_draining(&self) -> bool {
        self.phase() != Phase::Serving
    }

    /// How far the drain has come.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// How many guards live.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::Acquire)
    }
}

impl Shared {
    async fn wait_idle(&self) {
        loop {
            // Register before looking, or the last guard could be dropped in between unseen.
            let idle = self.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if self.in_flight.load(Ordering::Acquire) == 0 {
                return;
            }
            idle.await;
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.shared.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Drain, Phase};
    use std::time::Duration;

    #[tokio::test]
    async fn a_drain_without_work_ends_at_once() {
        let (trigger, watch) = Drain::new();
        assert!(!watch.is_draining());
        assert_eq!(trigger.drain(Duration::from_secs(5)).await, 0);
        watch.draining().await;
        assert_eq!(watch.phase(), Phase::Drained);
    }

    #[tokio::test]
    async fn a_drain_waits_for_the_last_guard() {
        let (trigger, watch) = Drain::new();
        let guard = watch.guard();
        let worker = async {
            watch.draining().await;
            assert_eq!(watch.phase(), Phase::Draining);
            drop(guard);
        };
        let (left, ()) = tokio::join!(trigger.drain(Duration::from_secs(5)), worker);
        assert_eq!((left, trigger.phase()), (0, Phase::Drained));
    }

    #[tokio::test(start_paused = true)]
    async fn an_overdue_drain_says_what_is_left() {
        let (trigger, watch) = Drain::new();
        let _guards = (watch.guard(), watch.guard());
        assert_eq!(trigger.drain(Duration::from_secs(5)).await, 2);
        assert_eq!(watch.phase(), Phase::Overdue);
    }
}
