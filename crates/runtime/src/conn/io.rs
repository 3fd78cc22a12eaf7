// SPDX-License-Identifier: Apache-2.0
//! A client's socket with a sense of time: it notices a head that trickles in, a connection
//! that is idle for too long and a client that takes nothing of its response, and ends the
//! connection by an error that hyper passes on. One coarse timer per connection is kept and
//! re-armed only when it fires, so that a busy connection pays nothing per request.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};
use uuid::Uuid;

use crate::error::{Failure, OwnAnswer};

/// The first bytes of HTTP/2 by prior knowledge; no HTTP/1 method begins so.
const H2_PREFACE: &[u8] = b"PRI";

/// No head has begun.
const NONE: u64 = u64::MAX;

/// What is known of the protocol: nothing yet, or which it is.
const UNKNOWN: u8 = 0;
const HTTP1: u8 = 1;
const HTTP2: u8 = 2;

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

/// What the socket and the request walk tell each other. One thread reads and writes it, with
/// plain loads and stores; these are atomics because a socket that becomes a tunnel is handed
/// on by hyper as something that could change threads.
pub struct Activity {
    born: Instant,
    in_flight: AtomicU32,
    /// Microseconds since it was born, as is the next.
    last: AtomicU64,
    head_began: AtomicU64,
    protocol: AtomicU8,
    /// When the client last took something that had waited for it; `NONE` before.
    written: AtomicU64,
    /// How many requests it has carried.
    served: AtomicU64,
    /// It carries no more after this one.
    spent: Notify,
    /// The id under which a head that took too long was answered.
    slow_head: OnceLock<Option<Uuid>>,
    /// How many more requests the client may take back, and how many at most.
    patience: AtomicU32,
    most_patience: u32,
}

/// Marks a request as in flight on its connection.
pub struct InFlight {
    activity: Arc<Activity>,
    answered: bool,
}

/// The socket.
pub struct TimedIo<S> {
    inner: S,
    activity: Arc<Activity>,
    deadlines: Deadlines,
    read_timer: Option<Pin<Box<Sleep>>>,
    write_timer: Option<Pin<Box<Sleep>>>,
}

impl Activity {
    /// `h2` when ALPN settled the protocol already; `served` requests were before; `patience` is
    /// how many the client may take back.
    #[must_use]
    pub fn new(h2: Option<bool>, served: u64, patience: u32) -> Arc<Activity> {
        let protocol = h2.map_or(UNKNOWN, |h2| if h2 { HTTP2 } else { HTTP1 });
        Arc::new(Activity {
            born: Instant::now(),
            in_flight: AtomicU32::new(0),
            last: AtomicU64::new(0),
            head_began: AtomicU64::new(NONE),
            protocol: AtomicU8::new(protocol),
            written: AtomicU64::new(NONE),
            served: AtomicU64::new(served),
            spent: Notify::new(),
            slow_head: OnceLock::new(),
            patience: AtomicU32::new(patience),
            most_patience: patience,
        })
    }

    /// A request's head is complete.
    #[must_use]
    pub fn enter(self: &Arc<Activity>) -> InFlight {
        self.head_began.store(NONE, Relaxed);
        self.in_flight.store(self.in_flight.load(Relaxed).saturating_add(1), Relaxed);
        self.served.store(self.served.load(Relaxed).saturating_add(1), Relaxed);
        InFlight { activity: self.clone(), answered: false }
    }

    /// Whether the connection speaks HTTP/2, as far as is known.
    #[must_use]
    pub fn is_h2(&self) -> bool {
        self.protocol.load(Relaxed) == HTTP2
    }

    /// Whether the request that has just begun is the last one of at most `most`.
    #[must_use]
    pub fn is_last(&self, most: Option<u64>) -> bool {
        let last = most.is_some_and(|most| self.served.load(Relaxed) >= most);
        if last {
            self.spent.notify_one();
        }
        last
    }

    /// Waits until the last request has begun.
    pub async fn spent(&self) {
        self.spent.notified().await;
    }

    /// Whether the connection ended because a head took too long; then with its error id.
    #[must_use]
    pub fn slow_head(&self) -> Option<Option<Uuid>> {
        self.slow_head.get().copied()
    }

    /// When the client last took something that had waited for it.
    #[must_use]
    pub fn last_written(&self) -> Option<Instant> {
        let written = Some(self.written.load(Relaxed)).filter(|written| *written != NONE);
        written.and_then(|written| self.born.checked_add(Duration::from_micros(written)))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_micros()).unwrap_or(NONE - 1)
    }

    fn received(&self, bytes: &[u8]) {
        let now = self.now();
        self.last.store(now, Relaxed);
        if self.protocol.load(Relaxed) == UNKNOWN {
            self.protocol.store(if bytes.starts_with(H2_PREFACE) { HTTP2 } else { HTTP1 }, Relaxed);
        }
        // HTTP/2 frames arrive without a request of their own; its heads are bounded in
        // size, and an idle connection ends by the idle deadline.
        let begins = self.protocol.load(Relaxed) == HTTP1
            && self.in_flight.load(Relaxed) == 0
            && self.head_began.load(Relaxed) == NONE;
        if begins {
            self.head_began.store(now, Relaxed);
        }
    }

    /// When the connection is overdue for reading, if anything can make it so.
    fn read_deadline(&self, deadlines: &Deadlines) -> Option<Instant> {
        if self.in_flight.load(Relaxed) > 0 {
            return None;
        }
        let (since, limit) = match self.head_began.load(Relaxed) {
            NONE => (self.last.load(Relaxed), deadlines.idle),
            began => (began, deadlines.head),
        };
        self.born.checked_add(Duration::from_micros(since)).and_then(|since| since.checked_add(limit))
    }
}

impl InFlight {
    /// The request has its answer; from now on the client may leave as it likes.
    #[must_use]
    pub fn answered(mut self) -> InFlight {
        self.answered = true;
        self
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let activity = &self.activity;
        activity.last.store(activity.now(), Relaxed);
        activity.in_flight.store(activity.in_flight.load(Relaxed).saturating_sub(1), Relaxed);
        let patience = activity.patience.load(Relaxed);
        let left = if self.answered {
            patience.saturating_add(1).min(activity.most_patience)
        } else {
            patience.saturating_sub(1)
        };
        activity.patience.store(left, Relaxed);
    }
}

impl<S> TimedIo<S> {
    /// Watches over `inner`.
    pub fn new(inner: S, activity: Arc<Activity>, deadlines: Deadlines) -> TimedIo<S> {
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

    /// Tells a client of HTTP/1 whose head took too long, as far as its socket takes it at once:
    /// the codec has nothing to answer yet.
    fn refuse_slow_head(&mut self, cx: &mut Context<'_>)
    where
        S: AsyncWrite + Unpin,
    {
        if self.activity.head_began.load(Relaxed) == NONE {
            return;
        }
        let (answer, id) = Failure::slow_head().answer();
        if self.activity.slow_head.set(id).is_ok()
            && Pin::new(&mut self.inner).poll_write(cx, &written(&answer)).is_ready()
        {
            drop(Pin::new(&mut self.inner).poll_flush(cx));
        }
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
                // Only a client that is slow has a timer; the others' writes cost no look at the clock.
                if self.write_timer.take().is_some() {
                    self.activity.written.store(self.activity.now(), Relaxed);
                }
                Poll::Ready(done)
            }
            Poll::Pending if self.stalled(cx) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// An answer as bytes of HTTP/1.1.
fn written(answer: &OwnAnswer) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {}\r\ncontent-length: {}\r\n", answer.status, answer.body.len());
    for (name, value) in &answer.headers {
        text.extend([name.as_str(), ": ", value.to_str().unwrap_or_default(), "\r\n"]);
    }
    text.push_str("\r\n");
    [text.as_bytes(), &answer.body].concat()
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TimedIo<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.activity.patience.load(Relaxed) == 0 {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let before = buffer.filled().len();
        match Pin::new(&mut this.inner).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) => {
                this.activity.received(buffer.filled().get(before..).unwrap_or_default());
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending if this.overdue(cx) => {
                this.refuse_slow_head(cx);
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
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
