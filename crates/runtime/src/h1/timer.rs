// SPDX-License-Identifier: Apache-2.0
//! Deadlines by a coarse clock. A worker looks at all its connections' deadlines twenty times
//! a second and wakes those that are due; a request sets and clears its deadline by writing
//! one number, without a timer of its own. A deadline is kept to within two [`TICK`]s, never early.
//! `worker` calls [`Ticker::tick`]; each connection has one [`Alarm`].

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

/// How often deadlines are looked at.
pub const TICK: Duration = Duration::from_millis(50);

/// A point in time: ticks since the worker began, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(u32);

/// A length of time, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(u32);

/// A worker's coarse clock and its connections' deadlines.
pub struct Ticker {
    began: Instant,
    now: Cell<Tick>,
    draining: Cell<Tick>,
    slots: RefCell<Slots>,
}

/// One connection's deadline. Dropping it frees its place.
pub struct Alarm {
    ticker: Rc<Ticker>,
    slot: usize,
}

/// The deadlines stand close together and apart from the rest, because all of them are read at
/// every tick.
#[derive(Default)]
struct Slots {
    due: Vec<Tick>,
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Tick {
    /// Not at all.
    pub const NEVER: Tick = Tick(u32::MAX);

    /// This much later.
    #[must_use]
    pub fn after(self, span: Span) -> Tick {
        Tick(self.0.saturating_add(span.0))
    }

    /// Whether at least this much has passed since `earlier`.
    #[must_use]
    pub fn is_after(self, earlier: Tick, span: Span) -> bool {
        self >= earlier.after(span)
    }
}

impl Span {
    /// Without end.
    pub const ENDLESS: Span = Span(u32::MAX);

    /// At least as long, whatever is left of the tick it begins in.
    #[must_use]
    pub fn of(duration: Duration) -> Span {
        let ticks = millis(duration).div_ceil(millis(TICK)).saturating_add(1);
        Span(u32::try_from(ticks).unwrap_or(u32::MAX))
    }
}

fn millis(duration: Duration) -> u64 {
    // In 64 bits: `as_millis` divides 128, which shows on a path that is taken per request.
    duration.as_secs().saturating_mul(1000).saturating_add(u64::from(duration.subsec_millis()))
}

impl Ticker {
    /// A clock that begins now.
    #[must_use]
    pub fn new() -> Rc<Ticker> {
        Rc::new(Ticker {
            began: Instant::now(),
            now: Cell::new(Tick(0)),
            draining: Cell::new(Tick::NEVER),
            slots: RefCell::default(),
        })
    }

    /// The time, as of the last look.
    #[must_use]
    pub fn now(&self) -> Tick {
        self.now.get()
    }

    /// The tick of an exact time.
    #[must_use]
    pub fn at(&self, instant: Instant) -> Tick {
        let ticks = millis(instant.saturating_duration_since(self.began)) / millis(TICK);
        Tick(u32::try_from(ticks).unwrap_or(u32::MAX))
    }

    /// Whether the drain has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.get() != Tick::NEVER
    }

    /// When the drain began, or never.
    #[must_use]
    pub fn draining(&self) -> Tick {
        self.draining.get()
    }

    /// Looks at the clock and wakes what is due; when the drain begins, everybody.
    pub fn tick(&self, now: Instant, draining: bool) {
        let now = self.at(now);
        self.now.set(now);
        let begins = draining && self.draining.get() == Tick::NEVER;
        if begins {
            self.draining.set(now);
        }
        let mut slots = self.slots.borrow_mut();
        let Slots { due, wakers, .. } = &mut *slots;
        for (due, waker) in due.iter_mut().zip(wakers.iter()) {
            if *due <= now || begins {
                *due = Tick::NEVER;
                // Whoever it is looks at its own deadline and sets the next.
                waker.iter().for_each(Waker::wake_by_ref);
            }
        }
    }

    /// A place for a connection.
    #[must_use]
    pub fn alarm(self: &Rc<Ticker>) -> Alarm {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.due.push(Tick::NEVER);
            slots.wakers.push(None);
            slots.due.len() - 1
        });
        Alarm { ticker: self.clone(), slot }
    }
}

impl Alarm {
    /// The clock.
    #[must_use]
    pub fn ticker(&self) -> &Ticker {
        &self.ticker
    }

    /// Wakes the task of `cx` at this time, and no longer at any other. Called whenever the
    /// task is about to wait.
    pub fn set(&self, due: Tick, cx: &Context<'_>) {
        let mut slots = self.ticker.slots.borrow_mut();
        let Slots { due: dues, wakers, .. } = &mut *slots;
        if let (Some(place), Some(waker)) = (dues.get_mut(self.slot), wakers.get_mut(self.slot)) {
            *place = due;
            if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let mut slots = self.ticker.slots.borrow_mut();
        let Slots { due, wakers, free } = &mut *slots;
        if let (Some(due), Some(waker)) = (due.get_mut(self.slot), wakers.get_mut(self.slot)) {
            *due = Tick::NEVER;
            *waker = None;
            free.push(self.slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake, Waker};
    use std::time::Duration;

    use super::{Span, TICK, Tick, Ticker};

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Counted>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_deadline_rings_once_and_never_early() {
        let ticker = Ticker::new();
        let counted = Arc::new(Counted::default());
        let waker = Waker::from(counted.clone());
        let cx = Context::from_waker(&waker);
        let alarm = ticker.alarm();
        let rung = || counted.0.load(Ordering::SeqCst);
        alarm.set(ticker.now().after(Span::of(TICK * 3)), &cx);
        for (ticks, expected) in [(3, 0), (4, 1), (5, 1)] {
            ticker.tick(ticker.began + TICK * ticks, false);
            assert_eq!(rung(), expected, "after {ticks} ticks");
        }
        alarm.set(Tick::NEVER, &cx);
        ticker.tick(ticker.began + TICK * 1000, false);
        assert_eq!(rung(), 1);
        ticker.tick(ticker.began + TICK * 1001, true);
        ticker.tick(ticker.began + TICK * 1002, true);
        assert_eq!((rung(), ticker.draining()), (2, Tick(1001)));
        let slot = alarm.slot;
        drop(alarm);
        assert_eq!(ticker.alarm().slot, slot, "a freed place is used again");
        assert_eq!(Tick(7).after(Span::of(Duration::MAX)), Tick::NEVER);
        assert_eq!(Tick(7).after(Span::of(Duration::from_millis(51))), Tick(10));
    }
}
