// SPDX-License-Identifier: Apache-2.0
//! The listening sockets: one per worker and address, sharing the port through
//! `SO_REUSEPORT`, so that the kernel spreads connections and workers share no queue.
//! Accepting pauses while the process has its full number of connections: each worker has at
//! most one more in hand, the kernel's backlog holds the rest. Accepted sockets go to `conn`.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_base::listen::{BindError, Listener};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use crate::conn;
use crate::tls::ServerTls;
use crate::worker::Worker;

/// Connections the kernel completes for us before we accept them.
const BACKLOG: i32 = 4096;

/// After a failed accept (no file descriptors left, for example) the next try waits this
/// long, or the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listener of a worker.
pub struct Accepting {
    listener: tokio::net::TcpListener,
    tls: Option<Arc<ServerTls>>,
}

/// Binds `count` sockets to one address; with port 0 the first chooses it for all.
///
/// # Errors
/// When the address is taken, by another process or a part of this one, or not ours.
pub fn bind(
    listener: Listener,
    address: SocketAddr,
    count: usize,
) -> Result<(SocketAddr, Vec<TcpListener>), BindError> {
    let fail = |error: io::Error| listener.failed(address, &error);
    // `SO_REUSEPORT` alone would share the port with another gateway of the same user without
    // a word; a first socket without it finds out whether the port is free.
    let probe = open(address, false).map_err(fail)?;
    let chosen = probe.local_addr().map_err(fail)?.as_socket().unwrap_or(address);
    drop(probe);
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = open(chosen, true).map_err(fail)?;
        socket.listen(BACKLOG).map_err(fail)?;
        sockets.push(socket.into());
    }
    Ok((chosen, sockets))
}

/// Where these sockets listen, when that is what `address` asks for.
#[must_use]
pub fn at(sockets: &[TcpListener], address: SocketAddr) -> Option<SocketAddr> {
    let at = sockets.first()?.local_addr().ok()?;
    (at.ip() == address.ip() && (address.port() == 0 || at.port() == address.port())).then_some(at)
}

/// A worker's share of sockets that may be more than the workers or fewer: every socket has
/// somebody who accepts on it, and every worker something to accept on.
///
/// # Errors
/// When a socket cannot be duplicated.
pub fn share(sockets: &[TcpListener], index: usize, workers: usize) -> io::Result<Vec<TcpListener>> {
    let count = sockets.len();
    if count == 0 {
        return Ok(Vec::new());
    }
    let mine = (0..count).filter(|place| place % workers.max(1) == index);
    let mine: Vec<usize> = if index < count { mine.collect() } else { vec![index % count] };
    mine.into_iter().filter_map(|place| sockets.get(place)).map(TcpListener::try_clone).collect()
}

fn open(address: SocketAddr, share: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Lets a restarted gateway bind while old connections linger in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

impl Accepting {
    /// A worker's share of a listener.
    ///
    /// # Errors
    /// When the executor cannot watch the socket.
    pub fn new(socket: TcpListener, tls: Option<Arc<ServerTls>>) -> io::Result<Accepting> {
        // What is accepted inherits it, which spares every connection a call.
        if let Err(error) = SockRef::from(&socket).set_tcp_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY was not accepted");
        }
        let listener = tokio::net::TcpListener::from_std(socket)?;
        Ok(Accepting { listener, tls })
    }
}

/// Accepts until the drain begins, then closes the listener.
pub async fn accept(worker: Rc<Worker>, accepting: Accepting) {
    let drain = worker.shared.drain.clone();
    tokio::select! {
        // Both arms only wait. A successor lets its predecessor accept until it is ready itself.
        () = drain.cancelled() => return,
        () = worker.shared.open.cancelled() => {}
    }
    loop {
        let accepted = tokio::select! {
            // Cancel-safe: a connection not yet received stays in the backlog.
            () = drain.cancelled() => break,
            accepted = accepting.listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let permit = permit(&worker).await;
                start(&worker, &accepting, stream, peer, permit);
            }
            // Clients that left again while queued are no news.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                ) => {}
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // What the kernel had completed for us would be reset when the listener closes.
    let waiting = futures::future::poll_fn(|cx| {
        while let std::task::Poll::Ready(Ok((stream, peer))) = accepting.listener.poll_accept(cx) {
            start(&worker, &accepting, stream, peer, None);
        }
        std::task::Poll::Ready(())
    });
    waiting.await;
}

/// Waits until the process may have another connection, with the one in hand: a worker that
/// waited for a client with a permit in hand would keep it from the others. `None` when the
/// drain begins, which finishes what was accepted.
async fn permit(worker: &Worker) -> Option<OwnedSemaphorePermit> {
    let connections = &worker.shared.connections;
    if let Ok(permit) = connections.clone().try_acquire_owned() {
        return Some(permit);
    }
    worker.metrics.accept_paused.one();
    tokio::select! {
        // Both arms only wait.
        () = worker.shared.drain.cancelled() => None,
        permit = connections.clone().acquire_owned() => permit.ok(),
    }
}

fn start(
    worker: &Rc<Worker>,
    accepting: &Accepting,
    stream: TcpStream,
    peer: SocketAddr,
    permit: Option<OwnedSemaphorePermit>,
) {
    let open = conn::Open::new(worker.metrics.clone(), permit);
    let tls = accepting.tls.clone();
    let own = worker.clone();
    worker.tasks.spawn_local("client connection", async move {
        conn::serve(own, stream, peer, tls, open).await;
    });
}

#[cfg(test)]
mod tests {
    use super::{Accepting, Listener, bind};

    #[tokio::test]
    async fn what_is_accepted_sends_without_delay() {
        let listener = Listener { key: "x", purpose: "traffic" };
        let (address, mut sockets) =
            bind(listener, "127.0.0.1:0".parse().expect("an address"), 1).expect("a free port");
        let accepting = Accepting::new(sockets.remove(0), None).expect("watched");
        let _client = tokio::net::TcpStream::connect(address).await.expect("listens");
        let (accepted, _) = accepting.listener.accept().await.expect("connected");
        assert!(accepted.nodelay().expect("an option of every TCP socket"));
    }

    #[tokio::test]
    async fn a_taken_port_is_said_by_its_number_and_setting() {
        let any = "127.0.0.1:0".parse().expect("an address");
        let listener = |key| Listener { key, purpose: "HTTPS traffic" };
        let (address, sockets) = bind(listener("x"), any, 3).expect("a free port");
        assert_eq!(sockets.len(), 3);
        assert_ne!(address.port(), 0);
        let error = bind(listener("runtime.listen.https"), address, 1).expect_err("the port is taken");
        assert_eq!(
            error.to_string(),
            format!(
                "runtime.listen.https: cannot listen on {address} (HTTPS traffic): the port is already taken"
            )
        );
    }
}
