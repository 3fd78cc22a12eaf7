// SPDX-License-Identifier: Apache-2.0
//! A fault proxy: one link between two processes on loopback that can be cut, made slow,
//! silent in one direction or in both, reset, or led to another server. It carries bytes
//! and knows no protocol but one word of PostgreSQL's. Tests put it where a cable would
//! be; it never decides when something breaks. Used by the store's conformance tests by
//! path as well, so it uses nothing of the workspace.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long to wait before the port of a link that was cut is bound again.
const REBIND: Duration = Duration::from_millis(10);
const CHUNK: usize = 64 * 1024;

/// A direction of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From who connected to who was connected to.
    Out,
    /// Back.
    Back,
}

/// What a link does with what it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Carries it.
    Pass,
    /// Connections are reset and new ones refused.
    Cut,
    /// What goes this way is kept until the mode ends, as TCP would keep sending it.
    Silent(Way),
    /// Every chunk is delayed by this long.
    Slow(Duration),
    /// The other machine is gone without a word: connections stay open, and nothing will ever
    /// come or go on them, not even when the mode ends; new ones are accepted and silent.
    HalfOpen,
}

/// One link.
pub struct Link {
    address: SocketAddr,
    wire: Arc<Wire>,
    /// Ends every connection when dropped.
    _open: JoinSet<()>,
}

/// Sets the mode of a link.
pub struct Switch(Arc<Wire>);

struct Wire {
    target: AtomicU16,
    mode: watch::Sender<Mode>,
    resets: watch::Sender<u64>,
    cut_at_commit: AtomicBool,
}

enum End {
    Closed,
    Reset,
    Vanished,
}

impl Link {
    /// A link to a port, on any free port.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn to(port: u16) -> io::Result<Link> {
        Link::between(0, port).await
    }

    /// A link from this port to that one.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub async fn between(from: u16, to: u16) -> io::Result<Link> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, from)).await?;
        let address = listener.local_addr()?;
        let wire = Arc::new(Wire {
            target: AtomicU16::new(to),
            mode: watch::Sender::new(Mode::Pass),
            resets: watch::Sender::new(0),
            cut_at_commit: AtomicBool::new(false),
        });
        let mut open = JoinSet::new();
        open.spawn(accept(listener, address, Arc::clone(&wire)));
        Ok(Link { address, wire, _open: open })
    }

    /// Where it is entered.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on.
    pub fn set(&self, mode: Mode) {
        self.switch().set(mode);
    }

    /// What sets its mode, for whoever cannot hold on to the link itself.
    #[must_use]
    pub fn switch(&self) -> Switch {
        Switch(Arc::clone(&self.wire))
    }

    /// Resets every open connection, once.
    pub fn reset(&self) {
        self.wire.resets.send_modify(|count| *count += 1);
    }

    /// New connections lead to another port.
    pub fn lead_to(&self, port: u16) {
        self.wire.target.store(port, Ordering::Relaxed);
    }

    /// The next connection on which a COMMIT passes is closed before it is answered.
    pub fn cut_at_next_commit(&self) {
        self.wire.cut_at_commit.store(true, Ordering::Relaxed);
    }
}

impl Switch {
    /// From now on.
    pub fn set(&self, mode: Mode) {
        self.0.mode.send_replace(mode);
    }
}

async fn accept(mut listener: TcpListener, address: SocketAddr, wire: Arc<Wire>) {
    let mut mode = wire.mode.subscribe();
    let mut open = JoinSet::new();
    loop {
        if *mode.borrow_and_update() == Mode::Cut {
            // Only a port that nobody listens on refuses connections.
            drop(listener);
            if mode.wait_for(|mode| *mode != Mode::Cut).await.is_err() {
                return;
            }
            listener = loop {
                match TcpListener::bind(address).await {
                    Ok(listener) => break listener,
                    Err(_) => tokio::time::sleep(REBIND).await,
                }
            };
        }
        tokio::select! {
            // Neither arm loses anything: a connection not accepted stays in the backlog.
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    open.spawn(carry(client, Arc::clone(&wire)));
                }
                Err(_) => tokio::time::sleep(REBIND).await,
            },
            changed = mode.changed() => if changed.is_err() {
                return;
            },
        }
        while open.try_join_next().is_some() {}
    }
}

async fn carry(mut client: TcpStream, wire: Arc<Wire>) {
    let (mut mode, mut resets) = (wire.mode.subscribe(), wire.resets.subscribe());
    if *mode.borrow() == Mode::HalfOpen {
        return discard(client).await;
    }
    let target = wire.target.load(Ordering::Relaxed);
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await else {
        client.set_zero_linger().ok();
        return;
    };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let end = {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        let out = pump(from_client, to_server, Way::Out, &wire);
        let back = pump(from_server, to_client, Way::Back, &wire);
        tokio::select! {
            // The arms that lose are done with: the connection ends in each case.
            end = both(out, back) => end,
            broken = mode.wait_for(|mode| matches!(mode, Mode::Cut | Mode::HalfOpen)) => match broken.as_deref() {
                Ok(Mode::HalfOpen) => End::Vanished,
                Ok(_) | Err(_) => End::Reset,
            },
            _counted_or_dropped = resets.changed() => End::Reset,
        }
    };
    match end {
        End::Closed => {}
        End::Reset => {
            client.set_zero_linger().ok();
            server.set_zero_linger().ok();
        }
        End::Vanished => {
            tokio::join!(discard(client), discard(server));
        }
    }
}

/// Both directions, each to its own end; a failure of one ends both.
async fn both(out: impl Future<Output = io::Result<()>>, back: impl Future<Output = io::Result<()>>) -> End {
    match tokio::try_join!(out, back) {
        Ok(_) => End::Closed,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => End::Reset,
        Err(_) => End::Closed,
    }
}

async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, way: Way, wire: &Wire) -> io::Result<()> {
    let mut mode = wire.mode.subscribe();
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = from.read(&mut chunk).await?;
        let seen = *mode.borrow_and_update();
        match seen {
            Mode::Silent(silent) if silent == way => {
                mode.wait_for(|mode| *mode != Mode::Silent(way)).await.map_err(io::Error::other)?;
            }
            Mode::Slow(delay) => tokio::time::sleep(delay).await,
            Mode::Pass | Mode::Silent(_) | Mode::Cut | Mode::HalfOpen => {}
        }
        if length == 0 {
            return to.shutdown().await;
        }
        let carried = &chunk[..length];
        to.write_all(carried).await?;
        let commits = || carried.windows(7).any(|window| window == b"COMMIT\0");
        if way == Way::Out && commits() && wire.cut_at_commit.swap(false, Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
    }
}

/// Holds a connection open without a word until its peer gives up.
async fn discard(mut stream: TcpStream) {
    let mut chunk = vec![0; CHUNK];
    while stream.read(&mut chunk).await.is_ok_and(|length| length > 0) {}
}
