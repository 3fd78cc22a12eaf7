// SPDX-License-Identifier: Apache-2.0
//! One client connection: the TLS handshake, HTTP/1.1 or HTTP/2, and its part in a drain.
//! It bounds heads, streams and time; it knows nothing of routes. Every request goes to
//! `request`; `listener` starts it as a task of its worker.

pub mod io;
pub mod proxy_protocol;
pub mod watch;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrogate_policy::ClientCertificate;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use self::io::{Activity, Deadlines, TimedIo};
use self::watch::Bounded;
use crate::config::{Http1Codec, Limits};
use crate::executor::LocalExecutor;
use crate::h1::arrival;
use crate::h1::connection::{self, Handover};
use crate::h1::handover::Rewound;
use crate::metrics::WorkerMetrics;
use crate::request;
use crate::tls::{ServerTls, identity};
use crate::worker::Worker;

/// What clients open at once before they have read how many streams they may have: the libraries of
/// the field begin with a hundred (RFC 9113, 6.5.2, advises no less). Those beyond the limit are
/// refused, which counts as a reset of ours; for a first burst alone nobody loses a connection.
const UNTOLD_STREAMS: u32 = 100;

/// How long a drain leaves an idle HTTP/1 connection open for the request that its client may
/// have sent already: a tenth of the drain's deadline, and never more than this. Closing at
/// once would lose that request, for HTTP/1 cannot say beforehand that a connection ends.
const LAST_REQUEST: Duration = Duration::from_secs(5);

/// How long a load balancer may take for its PROXY header: it knows what to write before it
/// connects.
const PROXY_HEADER_TIME: Duration = Duration::from_secs(5);

/// Who is at the other end.
pub struct Peer {
    /// The peer's address, or what a PROXY header said in its place.
    pub address: IpAddr,
    /// It speaks TLS with us.
    pub https: bool,
    /// Who it has proved to be in the handshake, if it has.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// What the socket watches.
    pub activity: Arc<Activity>,
    /// Held here because a connection that became a tunnel outlives its HTTP.
    _open: Open,
}

/// What is known of a connection before its first request.
struct Arrived {
    address: IpAddr,
    /// What ALPN settled; without TLS the first bytes decide.
    h2: Option<bool>,
    certificate: Option<Arc<ClientCertificate>>,
}

/// Counts a connection as open while it lives.
pub struct Open {
    metrics: Arc<WorkerMetrics>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Open {
    /// A connection was accepted.
    #[must_use]
    pub fn new(metrics: Arc<WorkerMetrics>, permit: Option<OwnedSemaphorePermit>) -> Open {
        metrics.connections_opened.one();
        Open { metrics, _permit: permit }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.metrics.connections_closed.one();
    }
}

/// Serves a connection to its end.
pub async fn serve(
    worker: Rc<Worker>,
    mut stream: TcpStream,
    peer: SocketAddr,
    tls: Option<Arc<ServerTls>>,
    open: Open,
) {
    let mut client = peer.ip();
    if worker.shared.config.listen.proxy_protocol {
        match proxy_protocol::read(&mut stream, PROXY_HEADER_TIME).await {
            Ok(told) => client = told.unwrap_or(client),
            Err(error) => {
                worker.metrics.proxy_header_failures.one();
                tracing::debug!(%error, proxy = %client, "a connection did not begin with a PROXY header");
                return;
            }
        }
    }
    match tls {
        None => speak(worker, stream, Arrived { address: client, h2: None, certificate: None }, open).await,
        // In a box, or connections without TLS would have its room as well.
        Some(tls) => Box::pin(secured(worker, stream, client, tls, open)).await,
    }
}

/// A connection that begins with a TLS handshake.
async fn secured(worker: Rc<Worker>, stream: TcpStream, client: IpAddr, tls: Arc<ServerTls>, open: Open) {
    let Some(acceptor) = tls.acceptor() else { return worker.metrics.tls_failures.one() };
    let limit = worker.shared.config.limits.tls_handshake_timeout;
    // Likewise: what a handshake needs is not needed after it.
    let handshake = Box::pin(tokio::time::timeout(limit, acceptor.accept(stream)));
    match handshake.await {
        Ok(Ok(stream)) => {
            let session = stream.get_ref().1;
            let h2 = Some(session.alpn_protocol() == Some(b"h2".as_slice()));
            let shown = session.peer_certificates().and_then(<[_]>::first);
            let certificate = shown.and_then(|shown| identity::read(shown)).map(Arc::new);
            speak(worker, stream, Arrived { address: client, h2, certificate }, open).await;
        }
        Ok(Err(error)) => {
            worker.metrics.tls_failures.one();
            tracing::debug!(%error, %client, "a TLS handshake failed");
        }
        Err(_) => worker.metrics.tls_failures.one(),
    }
}

async fn speak<S>(worker: Rc<Worker>, stream: S, arrived: Arrived, open: Open)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let last_request = LAST_REQUEST.min(worker.shared.config.drain_deadline / 10);
    let config = &worker.shared.config;
    let Arrived { address, h2, certificate } = arrived;
    let peer = arrival::Peer { address, https: h2.is_some(), certificate };
    let own = config.http1_codec == Http1Codec::Own && h2 != Some(true);
    let Handover { stream, peer, read, carried } = if own {
        match connection::serve(worker.clone(), stream, peer, last_request).await {
            Some(unserved) => unserved,
            None => return,
        }
    } else {
        Handover { stream, peer, read: Bytes::new(), carried: 0 }
    };
    // In a box of its own: what hyper needs is large, and most connections never need it.
    let activity = Activity::new(h2, carried, config.limits.max_h2_resets);
    let arrival::Peer { address, https, certificate } = peer;
    let peer = Rc::new(Peer { address, https, certificate, activity, _open: open });
    Box::pin(through_hyper(worker.clone(), Rewound::new(read, stream), peer)).await;
}

/// hyper's codecs, within these limits.
fn codec(worker: &Worker, limits: &Limits) -> auto::Builder<LocalExecutor> {
    let mut builder = auto::Builder::new(LocalExecutor::new(worker.tasks.clone(), "HTTP/2 stream"));
    // Our own socket watches heads and idleness, hence no header timeout of hyper's.
    builder
        .http1()
        .max_headers(limits.max_headers)
        .max_buf_size(limits.max_head_bytes)
        .header_read_timeout(None);
    builder
        .http2()
        .enable_connect_protocol()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_h2_streams)
        .max_pending_accept_reset_streams(usize::try_from(limits.max_h2_resets).ok())
        .max_local_error_reset_streams(
            usize::try_from(limits.max_h2_resets.saturating_add(UNTOLD_STREAMS)).ok(),
        )
        .max_header_list_size(u32::try_from(limits.max_head_bytes).unwrap_or(u32::MAX));
    builder
}

/// A connection on hyper, to its end.
async fn through_hyper<S>(worker: Rc<Worker>, stream: Rewound<S>, peer: Rc<Peer>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let last_request = LAST_REQUEST.min(worker.shared.config.drain_deadline / 10);
    let limits = &worker.shared.config.limits;
    let (activity, address) = (peer.activity.clone(), peer.address);
    let deadlines = Deadlines {
        head: limits.head_timeout,
        idle: limits.idle_timeout,
        write_stall: limits.write_stall_timeout,
    };
    let io = TokioIo::new(TimedIo::new(stream, activity.clone(), deadlines));
    let builder = codec(&worker, limits);
    let drain = worker.shared.drain.clone();
    let serving = worker.clone();
    let service = service_fn(move |request| {
        let (worker, peer) = (serving.clone(), peer.clone());
        // In a box at once: hyper moves it from hand to hand until it is a stream's task, and by
        // value that was more work than all that the request itself needs.
        let served = Box::pin(request::serve(worker, peer, request));
        async move { Ok::<_, Infallible>(served.await) }
    });
    let last_taken = || activity.last_written();
    let serving = pin!(builder.serve_connection_with_upgrades(io, service));
    // Of HTTP/1 only: each stream of HTTP/2 is a task of its own, and watched there.
    let mut connection = Bounded::new(serving, &last_taken);
    let ending = async {
        tokio::select! {
            // Both arms only wait.
            () = drain.cancelled() => {}
            () = activity.spent() => worker.metrics.connections_spent.one(),
        }
    };
    let result = tokio::select! {
        biased;
        // Polled in place, not dropped, when the drain begins.
        result = &mut connection => result,
        () = ending => {
            // HTTP/2 tells its client which requests still count. An HTTP/1 client learns it with
            // its next answer; a connection on which none comes closes a little later.
            let waited = if activity.is_h2() { Duration::ZERO } else { last_request };
            match tokio::time::timeout(waited, &mut connection).await {
                Ok(result) => result,
                Err(_) => {
                    connection.inner.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
    };
    if let Some(id) = activity.slow_head() {
        request::note_slow_head(&worker, address, id);
    }
    match result {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%error, client = %address, "a client connection ended"),
        None => tracing::debug!(client = %address, "a client took nothing of its response in time"),
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use super::serve;

    /// The most bytes that a client connection's task may have. Ten thousand idle ones are held in
    /// memory, and a thousand busy ones pass through the processor's cache.
    const BUDGET: usize = 12 * 1024;

    #[test]
    fn a_connection_s_task_stays_within_its_budget() {
        fn size<A, B, C, D, E, F: Future>(_: impl Fn(A, B, C, D, E) -> F) -> usize {
            size_of::<F>()
        }
        let size = size(serve);
        assert!(size <= BUDGET, "{size} bytes; put in a box what most connections never need");
    }
}
