// SPDX-License-Identifier: Apache-2.0
//! Simulated runtimes: the real client of the config stream over real sockets, with a sink
//! that believes what it is sent instead of compiling it. A thousand of them fit into one
//! process, and every byte that reaches them is counted where it leaves the socket.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use ferrogate_base::secret::Secret;
use ferrogate_model::{DEFAULT_GATEWAY, GatewayId};
use ferrogate_xds::client::{self, ClientOptions, Controller};
use ferrogate_xds::transport::{Connection, Dialer};
use ferrogate_xds::{Capabilities, Held, NodeInfo, Outcome, Sink, Update};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::cluster::JOIN_TOKEN;
use crate::eventually::eventually;

/// Connected simulated runtimes. Dropping it disconnects them.
pub struct Fleet {
    members: Vec<Arc<Member>>,
    traffic: Arc<Traffic>,
    _streams: JoinSet<()>,
}

/// What reached all of them together.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Bytes read from the sockets.
    pub bytes: AtomicU64,
    /// Artifacts delivered.
    pub resources: AtomicU64,
}

/// One simulated runtime.
#[derive(Default)]
struct Member {
    held: Mutex<Held>,
    in_sync: AtomicBool,
    traffic: Arc<Traffic>,
}

/// Makes connections whose bytes are counted.
struct Counting(Arc<Traffic>);

/// A socket whose incoming bytes are counted.
struct Counted {
    socket: TcpStream,
    traffic: Arc<Traffic>,
}

impl Fleet {
    /// So many runtimes that hold this already, connecting to one controller's stream.
    #[must_use]
    pub fn join(name: &str, count: usize, stream: &str, held: &Held) -> Fleet {
        let traffic = Arc::<Traffic>::default();
        let mut streams = JoinSet::new();
        let mut members = Vec::with_capacity(count);
        for index in 0..count {
            let member = Arc::new(Member {
                held: Mutex::new(held.clone()),
                in_sync: AtomicBool::new(false),
                traffic: Arc::clone(&traffic),
            });
            let options = options(format!("{name}-{index}"), stream, &traffic);
            let sink: Arc<dyn Sink> = member.clone();
            streams.spawn(async move {
                // Only options that cannot work are an error, and these do.
                client::run(options, sink, std::future::pending()).await.ok();
            });
            members.push(member);
        }
        Fleet { members, traffic, _streams: streams }
    }

    /// Waits until a controller has confirmed to each of them that it is up to date.
    ///
    /// # Errors
    /// When that takes longer.
    pub async fn in_sync(&self, deadline: Duration) -> anyhow::Result<()> {
        let all = || self.members.iter().all(|member| member.in_sync.load(Ordering::Relaxed));
        let reached = eventually(deadline, || all().then_some(())).await;
        reached.with_context(|| {
            let missing =
                self.members.iter().filter(|member| !member.in_sync.load(Ordering::Relaxed)).count();
            format!("{missing} of {} simulated runtimes are not in sync", self.members.len())
        })
    }

    /// Waits until none of them has a controller.
    ///
    /// # Errors
    /// When that takes longer.
    pub async fn alone(&self, deadline: Duration) -> anyhow::Result<()> {
        let none = || !self.members.iter().any(|member| member.in_sync.load(Ordering::Relaxed));
        eventually(deadline, || none().then_some(())).await.context("simulated runtimes are still connected")
    }

    /// What the first of them holds.
    #[must_use]
    pub fn held(&self) -> Held {
        self.members.first().map(|member| member.held()).unwrap_or_default()
    }

    /// What reached them so far.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }
}

#[async_trait]
impl Sink for Member {
    fn held(&self) -> Held {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn apply(&self, update: Update) -> Outcome {
        self.traffic.resources.fetch_add(update.upserts.len() as u64, Ordering::Relaxed);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        (held.position, held.digest) = (update.position, update.digest);
        Outcome::default()
    }

    fn connected(&self, controller: Option<&str>) {
        self.in_sync.store(controller.is_some(), Ordering::Relaxed);
    }
}

#[async_trait]
impl Dialer for Counting {
    async fn dial(&self, host: &str, port: u16) -> io::Result<Box<dyn Connection>> {
        let socket = TcpStream::connect((host, port)).await?;
        socket.set_nodelay(true)?;
        Ok(Box::new(Counted { socket, traffic: Arc::clone(&self.0) }))
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.socket).poll_read(cx, buf);
        let read = buf.filled().len().saturating_sub(before);
        self.traffic.bytes.fetch_add(read as u64, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

fn options(id: String, stream: &str, traffic: &Arc<Traffic>) -> ClientOptions {
    let node = NodeInfo {
        id,
        gateway: GatewayId::from(DEFAULT_GATEWAY),
        zone: "a".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        capabilities: Capabilities::of_this_build(),
    };
    let controller = Controller { url: stream.to_owned(), zone: None };
    let mut options = ClientOptions::new(vec![controller], node);
    options.join_token = Some(Secret::new(JOIN_TOKEN));
    options.dialer = Some(Arc::new(Counting(Arc::clone(traffic))));
    options
}
