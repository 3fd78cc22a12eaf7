// SPDX-License-Identifier: Apache-2.0
//! The life of a switched connection: bytes in both directions, each end's pace holding the
//! other back, until both have ended, the route's idle timeout passes or a drain's deadline
//! does. The request's record lives as long, so the tunnel is in the access log, the metrics and
//! the drain like any request in flight. `request` starts it as a task of its worker.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};

use super::Switched;
use crate::access_log::{Record, Traffic};
use crate::conn::Peer;
use crate::conn::io::InFlight;
use crate::deadline::Deadlines;
use crate::error::Reason;
use crate::worker::Worker;

/// What must live as long as the tunnel.
pub struct Held {
    /// The request's record; it is written when the tunnel ends.
    pub record: Box<Record>,
    /// The connection is not idle while it is a tunnel.
    pub in_flight: InFlight,
    /// The client's connection counts as open.
    pub peer: Rc<Peer>,
}

/// The client's end, which counts.
struct ClientEnd {
    io: TokioIo<Upgraded>,
    traffic: Rc<Traffic>,
    broke: Rc<Cell<bool>>,
}

/// Runs the tunnel beside the connections that it came from.
pub fn start(worker: &Worker, switched: Switched, idle: Option<Duration>, held: Held) {
    let metrics = worker.metrics.clone();
    worker.tasks.spawn_local("tunnel", async move {
        metrics.tunnels_opened.one();
        let Held { mut record, in_flight, peer } = held;
        // The whole-request timeout was for the answer; a tunnel may stay as long as it is used.
        let deadlines = Deadlines { whole: None, idle };
        run(switched, &deadlines, &mut record).await;
        drop(record);
        drop((in_flight.answered(), peer));
        metrics.tunnels_closed.one();
    });
}

async fn run(switched: Switched, deadlines: &Deadlines, record: &mut Record) {
    let traffic = record.traffic.clone();
    let broke = Rc::new(Cell::new(false));
    let joined = async {
        let (client, upstream) = both(switched.client, switched.upstream).await?;
        let mut client =
            ClientEnd { io: TokioIo::new(client), traffic: traffic.clone(), broke: broke.clone() };
        let mut upstream = TokioIo::new(upstream);
        copy_bidirectional(&mut client, &mut upstream).await
    };
    match deadlines.bound(&traffic, joined).await {
        Ok(Ok(_)) => record.complete = true,
        // The record of a client that left needs no reason.
        Ok(Err(_)) if broke.get() => {}
        Ok(Err(error)) => {
            record.reason = Some(Reason::UpstreamReset);
            record.detail = format!("the tunnel broke off: {error}");
        }
        Err(failure) => {
            record.reason = Some(failure.reason);
            record.detail = "the tunnel was idle".to_owned();
        }
    }
}

async fn both(client: OnUpgrade, upstream: OnUpgrade) -> io::Result<(Upgraded, Upgraded)> {
    // Neither is lost by waiting for the other first: each is kept by its receiver.
    let upstream = upstream.await.map_err(io::Error::other)?;
    let client = client.await.map_err(io::Error::other)?;
    Ok((client, upstream))
}

impl ClientEnd {
    fn noted<T>(&self, result: io::Result<T>) -> Poll<io::Result<T>> {
        if result.is_err() {
            self.broke.set(true);
        } else {
            self.traffic.moved();
        }
        Poll::Ready(result)
    }
}

impl AsyncRead for ClientEnd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = ready!(Pin::new(&mut self.io).poll_read(cx, buffer));
        let bytes = buffer.filled().len().saturating_sub(before) as u64;
        self.traffic.received.set(self.traffic.received.get().saturating_add(bytes));
        self.noted(result)
    }
}

impl AsyncWrite for ClientEnd {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.io).poll_write(cx, bytes));
        let sent = result.as_ref().map_or(0, |sent| *sent as u64);
        self.traffic.sent.set(self.traffic.sent.get().saturating_add(sent));
        self.noted(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.io).poll_flush(cx));
        self.noted(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.io).poll_shutdown(cx));
        self.noted(result)
    }
}
