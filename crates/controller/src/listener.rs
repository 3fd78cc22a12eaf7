// SPDX-License-Identifier: Apache-2.0
//! Accepting connections within limits: only so many at once, none that stays silent
//! for long, none whose request arrives byte by byte, and none that does not take its
//! answer. Slow and forgotten clients of the management side cost a file descriptor each;
//! without a limit they would cost all of them. The time of a body is bounded where it is
//! read, in `api::body`.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request};
use axum::middleware::Next;
use axum::response::Response;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// Connections open at once; further ones wait unaccepted in the kernel's queue.
const MAX_CONNECTIONS: usize = 10_000;
/// A connection from which nothing is heard for this long is closed. Longer than the
/// longest wait for live and a commit together, during which the client says nothing.
const SILENCE: Duration = Duration::from_secs(120);
/// The longest a request's head may take from its first byte to its last, and the rest of a
/// body that nobody read after the answer. The connection is closed then.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// The longest a client may take nothing of what is being sent to it. The connection is closed
/// then.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// After a failed accept, usually for want of file descriptors, the pause before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener with limits.
pub struct Limited {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    head_deadline: Duration,
    write_deadline: Duration,
}

/// A connection that holds its place.
pub struct Connection {
    stream: TcpStream,
    silence: Pin<Box<Sleep>>,
    /// Runs while a head is arriving.
    head: Option<Pin<Box<Sleep>>>,
    head_deadline: Duration,
    /// Runs while the client takes nothing.
    blocked: Option<Pin<Box<Sleep>>>,
    write_deadline: Duration,
    serving: Arc<AtomicBool>,
    _place: Option<OwnedSemaphorePermit>,
}

/// The other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Whether a request of it is being answered: what arrives meanwhile is no head.
    serving: Arc<AtomicBool>,
}

/// Held while a request is being answered.
struct Turn(Arc<AtomicBool>);

impl Limited {
    /// With the limits of this module.
    #[must_use]
    pub fn new(listener: TcpListener) -> Limited {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        Limited { listener, permits, head_deadline: HEAD_DEADLINE, write_deadline: WRITE_DEADLINE }
    }
}

/// Tells the connection that a head has arrived. The outermost layer of every server here.
pub async fn arrived(ConnectInfo(peer): ConnectInfo<Peer>, request: Request, next: Next) -> Response {
    peer.serving.store(true, Ordering::Release);
    let _turn = Turn(peer.serving);
    next.run(request).await
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Listener for Limited {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // The semaphore is never closed; without a permit the connection would just not count.
        let place = Arc::clone(&self.permits).acquire_owned().await.ok();
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    // Answers are small: waiting to fill a segment only delays them.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "a connection was gone before it was served");
                    }
                    let silence = Box::pin(sleep(SILENCE));
                    let connection = Connection {
                        stream,
                        silence,
                        head: None,
                        head_deadline: self.head_deadline,
                        blocked: None,
                        write_deadline: self.write_deadline,
                        serving: Arc::default(),
                        _place: place,
                    };
                    return (connection, peer);
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connected<IncomingStream<'_, Limited>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Limited>) -> Peer {
        Peer { address: *stream.remote_addr(), serving: Arc::clone(&stream.io().serving) }
    }
}

impl Connection {
    /// Whether the head that is arriving has taken too long.
    fn is_late(&mut self, context: &mut Context<'_>, arrived: bool) -> bool {
        if self.serving.load(Ordering::Acquire) {
            self.head = None;
            return false;
        }
        if arrived && self.head.is_none() {
            self.head = Some(Box::pin(sleep(self.head_deadline)));
        }
        self.head.as_mut().is_some_and(|head| head.as_mut().poll(context).is_ready())
    }

    /// What was written, or that nothing could be for too long.
    fn bounded(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.blocked = None;
            return written;
        }
        let deadline = self.write_deadline;
        let blocked = self.blocked.get_or_insert_with(|| Box::pin(sleep(deadline)));
        blocked.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if self.is_late(context, read.is_ready()) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if read.is_ready() {
            self.silence.as_mut().reset(Instant::now() + SILENCE);
            return read;
        }
        match self.silence.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, data);
        self.bounded(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, data);
        self.bounded(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::time::Duration;

    use axum::Router;
    use axum::middleware::from_fn;
    use axum::routing::get;
    use ferrogate_base::tasks::Tasks;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::oneshot;

    use super::{Limited, MAX_CONNECTIONS, Peer, arrived};

    const HEAD: Duration = Duration::from_millis(300);
    const SOON: Duration = Duration::from_secs(20);

    /// A server whose handler answers when the other end of the channel says so.
    async fn serve(tasks: &Tasks, release: oneshot::Receiver<()>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let release = std::sync::Arc::new(tokio::sync::Mutex::new(Some(release)));
        let handler = move || async move {
            if let Some(release) = release.lock().await.take() {
                release.await.ok();
            }
            "done"
        };
        let router = Router::new().route("/", get(handler)).layer(from_fn(arrived));
        let limited = Limited { head_deadline: HEAD, ..Limited::new(listener) };
        let service = router.into_make_service_with_connect_info::<Peer>();
        tasks.spawn("server", async move {
            axum::serve(limited, service).await.ok();
        });
        address
    }

    #[tokio::test]
    async fn a_head_that_trickles_in_is_cut_off() {
        let (tasks, (_release, waiting)) = (Tasks::new(), oneshot::channel());
        let mut stream = TcpStream::connect(serve(&tasks, waiting).await).await.expect("listens");
        let started = tokio::time::Instant::now();
        let mut byte = tokio::time::interval(HEAD / 10);
        stream.write_all(b"GET / HTTP/1.1\r\nx: ").await.expect("sent");
        // A byte every tenth of the deadline: never silent, never done.
        while stream.write_all(b"x").await.is_ok() {
            assert!(started.elapsed() < SOON, "still read after {:?}", started.elapsed());
            byte.tick().await;
        }
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_gives_its_place_back() {
        let tasks = Tasks::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let limited = Limited { write_deadline: HEAD, ..Limited::new(listener) };
        let places = Arc::clone(&limited.permits);
        let large = || async { vec![b'x'; 64 << 20] };
        let router = Router::new().route("/", get(large)).layer(from_fn(arrived));
        tasks.spawn("server", async move {
            axum::serve(limited, router.into_make_service_with_connect_info::<Peer>()).await.ok();
        });
        let mut silent = TcpStream::connect(address).await.expect("listens");
        // The second request lies unread behind the first: nobody waits for more of it.
        silent.write_all(&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".repeat(2)).await.expect("sent");
        let begun = tokio::time::timeout(SOON, silent.readable()).await;
        assert!(begun.is_ok_and(|readable| readable.is_ok()), "an answer begins");
        let all = u32::try_from(MAX_CONNECTIONS).expect("few") - 1;
        // One place is held by the accept that waits.
        let freed = tokio::time::timeout(SOON, places.acquire_many(all)).await;
        assert!(freed.is_ok_and(|places| places.is_ok()), "not closed in time");
    }

    #[tokio::test]
    async fn an_answer_may_take_longer_than_a_head() {
        let (tasks, (release, waiting)) = (Tasks::new(), oneshot::channel());
        let mut stream = TcpStream::connect(serve(&tasks, waiting).await).await.expect("listens");
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
        let mut answer = [0; 64];
        let early = tokio::time::timeout(HEAD * 3, stream.read(&mut answer)).await;
        assert!(early.is_err(), "answered or closed before its time: {early:?}");
        release.send(()).expect("the handler waits");
        let read = tokio::time::timeout(SOON, stream.read(&mut answer)).await.expect("in time");
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{read:?}");
    }
}
