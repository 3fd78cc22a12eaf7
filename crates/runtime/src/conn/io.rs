// SPDX-License-Identifier: Apache-2.0
//! A client's socket with a sense of time: it notices a head that trickles in, a connection
//! that is idle for too long and a client that takes nothing of its response, and ends the
//! connection by an error that hyper passes on. One coarse timer per connection is kept and
//! re-armed only when it fires, so that a busy connection pays nothing per request.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// The first bytes of HTTP/2 by prior knowledge; no HTTP/1 method begins so.
const H2_PREFACE: &[u8] = b"PRI";

/// The deadlines of a client connection.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// From a head's first byte to its last.
    pub head: Duration,
    /// Without a request.
    pub idle: Duration,
    /// Without the client taking a byte that waits for it.
    pub write_stall: Duration,
}

/// What the socket and the request walk tell each other.
pub struct Activity {
    in_flight: Cell<u32>,
    last: Cell<Instant>,
    head_began: Cell<Option<Instant>>,
    h2: Cell<Option<bool>>,
}

/// Marks a request as in flight on its connection.
pub struct InFlight(Rc<Activity>);

/// The socket.
pub struct TimedIo<S> {
    inner: S,
    activity: Rc<Activity>,
    deadlines: Deadlines,
    read_timer: Option<Pin<Box<Sleep>>>,
    write_timer: Option<Pin<Box<Sleep>>>,
}

impl Activity {
    /// `h2` when ALPN settled the protocol already.
    #[must_use]
    pub fn new(h2: Option<bool>) -> Rc<Activity> {
        Rc::new(Activity {
            in_flight: Cell::new(0),
            last: Cell::new(Instant::now()),
            head_began: Cell::new(None),
            h2: Cell::new(h2),
        })
    }

    /// A request's head is complete.
    #[must_use]
    pub fn enter(self: &Rc<Activity>) -> InFlight {
        self.head_began.set(None);
        self.in_flight.set(self.in_flight.get().saturating_add(1));
        InFlight(self.clone())
    }

    /// Whether the connection speaks HTTP/2, as far as is known.
    #[must_use]
    pub fn is_h2(&self) -> bool {
        self.h2.get() == Some(true)
    }

    fn received(&self, bytes: &[u8]) {
        self.last.set(Instant::now());
        if self.h2.get().is_none() {
            self.h2.set(Some(bytes.starts_with(H2_PREFACE)));
        }
        // HTTP/2 frames arrive without a request of their own; its heads are bounded in
        // size, and an idle connection ends by the idle deadline.
        if self.h2.get() == Some(false) && self.in_flight.get() == 0 && self.head_began.get().is_none() {
            self.head_began.set(Some(self.last.get()));
        }
    }

    /// When the connection is overdue for reading, if anything can make it so.
    fn read_deadline(&self, deadlines: &Deadlines) -> Option<Instant> {
        if self.in_flight.get() > 0 {
            return None;
        }
        match self.head_began.get() {
            Some(began) => began.checked_add(deadlines.head),
            None => self.last.get().checked_add(deadlines.idle),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.last.set(Instant::now());
        self.0.in_flight.set(self.0.in_flight.get().saturating_sub(1));
    }
}

impl<S> TimedIo<S> {
    /// Watches over `inner`.
    pub fn new(inner: S, activity: Rc<Activity>, deadlines: Deadlines) -> TimedIo<S> {
        TimedIo { inner, activity, deadlines, read_timer: None, write_timer: None }
    }

    /// Called when a read must wait: whether the connection is overdue.
    fn overdue(&mut self, cx: &mut Context<'_>) -> bool {
        let now = Instant::now();
        // While a request is in flight its own deadlines rule; look again later.
        let next =
            self.activity.read_deadline(&self.deadlines).or_else(|| now.checked_add(self.deadlines.idle));
        let Some(next) = next else { return false };
        if next <= now {
            return true;
        }
        let timer = self.read_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
        // Only an earlier deadline moves the timer at once; a later one is set when it fires.
        if timer.deadline() > next {
            timer.as_mut().reset(next);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if next <= Instant::now() {
                return true;
            }
            timer.as_mut().reset(next);
        }
        false
    }

    /// Called when a write must wait: whether the client has stalled for too long.
    fn stalled(&mut self, cx: &mut Context<'_>) -> bool {
        let stall = self.deadlines.write_stall;
        let timer = self.write_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        timer.as_mut().poll(cx).is_ready()
    }

    fn wrote(&mut self, result: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(done) => {
                self.write_timer = None;
                Poll::Ready(done)
            }
            Poll::Pending if self.stalled(cx) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedIo<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        match Pin::new(&mut this.inner).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) => {
                this.activity.received(buffer.filled().get(before..).unwrap_or_default());
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending if this.overdue(cx) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimedIo<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.inner).poll_write(cx, bytes);
        this.wrote(result, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.inner).poll_write_vectored(cx, slices);
        this.wrote(result, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
