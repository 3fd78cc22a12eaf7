// SPDX-License-Identifier: Apache-2.0
//! One stream's task: feeds the session with requests, catalogs and time, and its
//! responses to the connection. It ends the stream after the update under way when the
//! controller drains or the connection has reached its age. Spawned by [`super::service`].

use std::sync::Arc;
use std::time::Duration;

use ferrogate_base::watch;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::roster::{Entry, Roster};
use super::session::{Ending, Report, Session};
use crate::catalog::Catalog;
use crate::protocol::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

/// Responses that wait for the connection; when full, the session is not asked for more.
pub(super) const RESPONSES: usize = 2;
/// How long the last word may take; a peer that does not listen does not get it.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// What a stream consists of.
pub(super) struct Stream {
    pub(super) session: Session,
    pub(super) requests: Streaming<DeltaDiscoveryRequest>,
    pub(super) responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    pub(super) catalogs: watch::Receiver<Option<Arc<dyn Catalog>>>,
    pub(super) roster: Arc<Roster>,
    pub(super) drain: CancellationToken,
    pub(super) max_age: Duration,
    /// Held for as long as the stream lives.
    pub(super) _permit: OwnedSemaphorePermit,
}

/// Why the task ends.
enum End {
    /// The peer is gone; there is nobody to tell.
    Gone,
    /// With this last word.
    Farewell(Status),
}

impl Stream {
    /// Runs until the stream ends.
    pub(super) async fn run(mut self) {
        if let End::Farewell(status) = self.serve().await {
            tracing::debug!(code = ?status.code(), reason = status.message(), "ending a stream");
            // Nobody is left to hear of a failure here.
            let _farewell = timeout(FAREWELL_TIMEOUT, self.responses.send(Err(status))).await;
        }
    }

    async fn serve(&mut self) -> End {
        let start = Instant::now();
        let age = start + self.max_age;
        let mut entry: Option<Entry> = None;
        let mut parting: Option<Status> = None;
        let mut catalogs_open = true;
        let responses = self.responses.clone();
        self.take_catalog(start);
        loop {
            let now = start.elapsed();
            if let Some(status) = parting.take_if(|_| self.session.is_idle()) {
                return End::Farewell(status);
            }
            // A parting stream finishes the update under way and starts no other; it is
            // never idle here.
            let wants = self.session.wants_to_send(now);
            let superseded = entry.as_ref().map(|entry| entry.superseded().clone());
            // Every arm only waits: `reserve`, `message`, `changed` and the timers lose
            // nothing when they are dropped, and all state changes follow the await.
            // Their order is fixed, so that a simulation replays: what ends the stream comes
            // first, then what was received, which a peer that floods spends on itself.
            tokio::select! {
                biased;
                () = responses.closed() => return End::Gone,
                () = cancelled(superseded) => {
                    return End::Farewell(Status::aborted("a newer stream of this runtime took over"));
                }
                () = self.drain.cancelled(), if parting.is_none() => {
                    parting = Some(Status::unavailable("draining: this controller is going away"));
                }
                request = self.requests.message() => {
                    let Ok(Some(request)) = request else { return End::Gone };
                    match self.session.receive(start.elapsed(), request) {
                        Ok(report) => self.tell(&mut entry, report),
                        Err(ending) => return End::Farewell(status_of(&ending)),
                    }
                }
                changed = self.catalogs.changed(), if catalogs_open => {
                    catalogs_open = changed.is_ok();
                    self.take_catalog(start);
                }
                permit = responses.reserve(), if wants => {
                    let Ok(permit) = permit else { return End::Gone };
                    let Some((response, sent)) = self.session.next(start.elapsed()) else { continue };
                    permit.send(Ok(response));
                    if let (Some(sent), Some(entry)) = (sent, &entry) {
                        entry.report(|observer, id| observer.sent(id, sent));
                    }
                }
                () = sleep_until(start + self.session.deadline()), if !(wants && self.session.is_idle()) => {
                    if let Err(ending) = self.session.tick(start.elapsed()) {
                        return End::Farewell(status_of(&ending));
                    }
                }
                () = sleep_until(age), if parting.is_none() => {
                    parting = Some(Status::unavailable("this connection has reached its age, connect again"));
                }
            }
        }
    }

    fn take_catalog(&mut self, start: Instant) {
        if let Some(catalog) = self.catalogs.get() {
            self.session.publish(start.elapsed(), catalog);
        }
    }

    fn tell(&self, entry: &mut Option<Entry>, report: Option<Report>) {
        match (report, entry) {
            (Some(Report::Connected(runtime)), entry) => *entry = Some(self.roster.enter(runtime)),
            (Some(Report::Applied { position, rejects }), Some(entry)) => {
                entry.report(|observer, id| observer.applied(id, position, &rejects));
            }
            (Some(Report::Applied { .. }), None) | (None, _) => {}
        }
    }
}

/// What the runtime is told; a client reads the code, a person the text.
fn status_of(ending: &Ending) -> Status {
    let text = ending.to_string();
    match ending {
        Ending::BadHello(_) | Ending::BadAnswer(_) => Status::invalid_argument(text),
        Ending::WrongGateway(_) => Status::permission_denied(text),
        Ending::Behind { .. } | Ending::NotLoaded => Status::failed_precondition(text),
        Ending::NoHello | Ending::NoAnswer => Status::deadline_exceeded(text),
    }
}

async fn cancelled(token: Option<CancellationToken>) {
    match token {
        Some(token) => token.cancelled().await,
        None => std::future::pending().await,
    }
}
