// SPDX-License-Identifier: Apache-2.0
//! Ends exchanges whose client takes nothing of its response. While a client does not read,
//! nobody polls the response's body, and the deadlines the body carries go unseen. So the
//! task that serves the exchange, a connection of HTTP/1 or a stream of HTTP/2, looks at
//! them itself whenever it must wait. `conn` wraps its futures in [`Bounded`]; the response's
//! body says through [`begin`] what it is bound by, as long as it lasts.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::time::Instant;

use crate::access_log::Traffic;
use crate::deadline::{BodyTimer, Deadlines};

tokio::task_local! {
    /// Of the task that is being polled.
    static CURRENT: Rc<Watch>;
}

/// The exchange that a task is in, while its response is on its way.
#[derive(Default)]
struct Watch {
    bound: RefCell<Option<(Deadlines, Rc<Traffic>)>>,
}

/// Bounds the exchange until it is dropped.
pub struct Watched(Rc<Watch>);

/// A future that ends when the exchange in it is overdue.
pub struct Bounded<'w, F> {
    /// The future.
    pub inner: F,
    watch: Rc<Watch>,
    timer: BodyTimer,
    /// When the client last took something, where that can be told.
    last_taken: &'w dyn Fn() -> Option<Instant>,
}

/// Bounds the exchange of the task that calls this by these deadlines; outside of one, nothing.
#[must_use]
pub fn begin(deadlines: Deadlines, traffic: Rc<Traffic>) -> Option<Watched> {
    let watch = CURRENT.try_with(Rc::clone).ok()?;
    watch.bound.replace(Some((deadlines, traffic)));
    Some(Watched(watch))
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.bound.take();
    }
}

impl<'w, F: Future + Unpin> Bounded<'w, F> {
    /// Watches over `inner`.
    #[must_use]
    pub fn new(inner: F, last_taken: &'w dyn Fn() -> Option<Instant>) -> Bounded<'w, F> {
        Bounded { inner, watch: Rc::default(), timer: BodyTimer::default(), last_taken }
    }
}

impl<F: Future + Unpin> Future for Bounded<'_, F> {
    /// `None` when the exchange was overdue.
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        let this = self.get_mut();
        let inner = Pin::new(&mut this.inner);
        if let Poll::Ready(done) = CURRENT.sync_scope(this.watch.clone(), || inner.poll(cx)) {
            return Poll::Ready(Some(done));
        }
        let bound = this.watch.bound.borrow();
        let Some((deadlines, traffic)) = &*bound else { return Poll::Pending };
        if let Some(taken) = (this.last_taken)().filter(|taken| *taken > traffic.last_moved.get()) {
            traffic.last_moved.set(taken);
        }
        let reason = std::task::ready!(deadlines.poll_overdue(&mut this.timer, traffic, cx));
        traffic.overdue.set(Some(reason));
        Poll::Ready(None)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::pin;
    use std::rc::Rc;
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::{Bounded, begin};
    use crate::access_log::Traffic;
    use crate::deadline::Deadlines;
    use crate::error::Reason;

    #[tokio::test(start_paused = true)]
    async fn an_exchange_that_stands_still_ends_at_its_deadline() {
        let idle = Some(Duration::from_secs(3));
        for (whole, expected) in [(None, Reason::StreamIdleTimeout), (Some(2), Reason::UpstreamTimeout)] {
            let traffic = Rc::<Traffic>::default();
            traffic.request_complete.set(true);
            let whole = whole.map(|seconds| Instant::now() + Duration::from_secs(seconds));
            let own = traffic.clone();
            let stalled = pin!(async move {
                let _watched = begin(Deadlines { whole, idle }, own).expect("a watched task");
                sleep(Duration::from_secs(100)).await;
            });
            assert_eq!(Bounded::new(stalled, &|| None).await, None);
            assert_eq!(traffic.overdue.get(), Some(expected));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn between_exchanges_and_while_something_moves_nothing_is_overdue() {
        let taken = Cell::new(None);
        let work = pin!(async {
            sleep(Duration::from_secs(10)).await;
            let traffic = Rc::<Traffic>::default();
            let idle = Some(Duration::from_secs(2));
            let watched = begin(Deadlines { whole: None, idle }, traffic);
            for _ in 0..5 {
                sleep(Duration::from_secs(1)).await;
                taken.set(Some(Instant::now()));
            }
            drop(watched);
            sleep(Duration::from_secs(10)).await;
            7
        });
        let last_taken = || taken.get();
        assert_eq!(Bounded::new(work, &last_taken).await, Some(7));
        assert!(begin(Deadlines { whole: None, idle: None }, Rc::default()).is_none(), "outside of a task");
    }
}
