// SPDX-License-Identifier: Apache-2.0
//! The receiving end's task: keeps one stream open, feeds its session, hands updates to
//! the sink one at a time, and moves on at once when a stream ends. While connected
//! elsewhere it looks for a controller of its own zone and moves over only when that
//! stream is open already. Started by [`super::run`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::link::{Dial, Link, LinkError};
use super::order::Order;
use super::session::{Ending, Session, Step};
use crate::node::NodeInfo;
use crate::protocol::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use crate::sink::Sink;

pub(super) struct Runner {
    pub(super) node: NodeInfo,
    pub(super) sink: Arc<dyn Sink>,
    pub(super) dials: Vec<Dial>,
    pub(super) order: Order,
    pub(super) silence_timeout: Duration,
    pub(super) healthy_after: Duration,
    /// Whether the sink was told of a connection that it was not told the end of.
    pub(super) announced: bool,
    /// What is held differs from what a controller says: ask for everything.
    pub(super) distrust: bool,
}

/// How following a stream ended.
enum End {
    Stopped,
    /// To this controller, whose stream is open.
    Moved(usize, Box<Link>),
    Failed(StreamError),
}

#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error(transparent)]
    Session(#[from] Ending),
    #[error("the controller ended the stream: {0}")]
    Status(String),
    #[error("the controller ended the stream")]
    Closed,
    #[error("nothing was heard for {} s", .0.as_secs())]
    Silent(Duration),
}

type Probe = Pin<Box<dyn Future<Output = (usize, Result<Link, LinkError>)> + Send>>;

impl Runner {
    /// Runs until stopped. An update at the sink is finished first.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        while let Some((index, delay)) = self.order.next() {
            let Some(dial) = self.dials.get(index).cloned() else { continue };
            let opening = async {
                sleep(delay).await;
                dial.open().await
            };
            // A link that is dropped half-open holds nothing.
            let opened = tokio::select! {
                biased;
                opened = opening => opened,
                () = stop.cancelled() => return,
            };
            match opened {
                Ok(link) => {
                    if self.follow(index, link, &stop).await.is_none() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::debug!(controller = dial.url(), %error, "no config stream");
                    self.order.failed(index, error.retry_hint());
                }
            }
        }
    }

    /// Follows a stream, and those it moves to, until one fails; `None` when stopped.
    async fn follow(&mut self, mut index: usize, mut link: Link, stop: &CancellationToken) -> Option<()> {
        loop {
            let controller = link.controller.clone();
            self.order.learned(index, link.zone.clone());
            match self.stream(index, link, stop).await {
                End::Stopped => {
                    self.gone();
                    return None;
                }
                End::Moved(to, over) => {
                    tracing::info!(from = %controller, to = %over.controller, "moving to the own zone");
                    (index, link) = (to, *over);
                }
                End::Failed(error) => {
                    tracing::warn!(%controller, %error, "config stream lost");
                    self.distrust |= matches!(error, StreamError::Session(Ending::Diverged(_)));
                    self.order.failed(index, None);
                    self.gone();
                    return Some(());
                }
            }
        }
    }

    async fn stream(&mut self, index: usize, mut link: Link, stop: &CancellationToken) -> End {
        let (mut session, hello) = Session::open(&self.node, &self.sink.held(), self.distrust);
        if link.requests.try_send(hello).is_err() {
            return End::Failed(StreamError::Closed);
        }
        let (mut in_sync, mut proven) = (false, false);
        let healthy = Instant::now() + self.healthy_after;
        let mut heard = Instant::now();
        let mut probe = self.probe(index);
        loop {
            // `message` is cancel-safe, the probe is polled in place, the others are timers.
            tokio::select! {
                // In this order, so that a simulation replays: each arm waits for something rare,
                // and the first one wants to end.
                biased;
                () = stop.cancelled() => return End::Stopped,
                message = link.responses.message() => {
                    let response = match message {
                        Ok(Some(response)) => response,
                        Ok(None) => return End::Failed(StreamError::Closed),
                        Err(status) => return End::Failed(StreamError::Status(status.message().to_owned())),
                    };
                    match self.take(&mut session, response).await {
                        Ok(None) => {}
                        Ok(Some(answer)) => {
                            // The sink has what it lacked: this controller has proved itself.
                            if !std::mem::replace(&mut in_sync, true) {
                                proven = true;
                                self.order.healthy(index);
                                self.announce(&link.controller);
                            }
                            if link.requests.try_send(answer).is_err() {
                                return End::Failed(StreamError::Closed);
                            }
                        }
                        Err(ending) => return End::Failed(ending.into()),
                    }
                    // Taken after the sink is done, whose time is not the controller's silence.
                    heard = Instant::now();
                }
                () = sleep_until(heard + self.silence_timeout) => {
                    return End::Failed(StreamError::Silent(self.silence_timeout));
                }
                () = sleep_until(healthy), if !proven => {
                    proven = true;
                    self.order.healthy(index);
                }
                (target, looked) = looked(&mut probe) => {
                    if let Some(end) = self.looked(index, target, looked) {
                        return end;
                    }
                    probe = self.probe(index);
                }
            }
        }
    }

    /// One response through session and sink: the answer to send, if there is one yet.
    async fn take(
        &mut self,
        session: &mut Session,
        response: DeltaDiscoveryResponse,
    ) -> Result<Option<DeltaDiscoveryRequest>, Ending> {
        let answer = match session.receive(response)? {
            Step::Wait => return Ok(None),
            Step::Confirmed(answer) => answer,
            Step::Apply(update) => {
                let position = update.position;
                let (upserts, removes, full) = (update.upserts.len(), update.removes.len(), update.full);
                let outcome = self.sink.apply(update).await;
                let rejects = outcome.rejects.len();
                tracing::debug!(%position, full, upserts, removes, rejects, "update applied");
                session.finish(outcome)?
            }
        };
        self.distrust = false;
        Ok(Some(answer))
    }

    fn looked(&mut self, current: usize, target: usize, looked: Result<Link, LinkError>) -> Option<End> {
        let link = looked.ok();
        if let Some(link) = &link {
            self.order.learned(target, link.zone.clone());
        }
        let moves = self.order.probed(target, current, link.is_some());
        link.filter(|_| moves).map(|link| End::Moved(target, Box::new(link)))
    }

    fn probe(&mut self, current: usize) -> Option<Probe> {
        let (index, delay) = self.order.probe(current)?;
        let dial = self.dials.get(index)?.clone();
        Some(Box::pin(async move {
            sleep(delay).await;
            (index, dial.open().await)
        }))
    }

    fn announce(&mut self, controller: &str) {
        tracing::info!(%controller, "config stream in sync");
        self.announced = true;
        self.sink.connected(Some(controller));
    }

    fn gone(&mut self) {
        if std::mem::take(&mut self.announced) {
            self.sink.connected(None);
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.gone();
    }
}

async fn looked(probe: &mut Option<Probe>) -> (usize, Result<Link, LinkError>) {
    match probe {
        Some(probe) => probe.as_mut().await,
        None => std::future::pending().await,
    }
}
