// SPDX-License-Identifier: Apache-2.0
//! The gRPC service: checks the join token, admits at a bounded rate and number, and
//! gives every stream a task of its own. It answers with its id and zone at once, before
//! the first request, so that a runtime can choose by them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ferrogate_base::secret::Secret;
use ferrogate_base::tasks::Tasks;
use ferrogate_base::watch;
use ferrogate_model::GatewayId;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::{Request, Response, Status, Streaming};

use super::admission::Admission;
use super::roster::Roster;
use super::session::{Session, SessionLimits};
use super::stream::{RESPONSES, Stream};
use crate::catalog::Catalog;
use crate::protocol::{AggregatedDiscoveryService, DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use crate::wire::{HEADER_CONTROLLER, HEADER_RETRY_AFTER_MS, HEADER_ZONE};

/// How far a connection's age may lie from the configured one, so that streams which
/// began together do not end together.
const AGE_JITTER: f64 = 0.2;
/// What a runtime turned away for the number of streams is told to wait.
const FULL_RETRY: Duration = Duration::from_secs(1);

pub(super) struct Service {
    pub(super) gateway: GatewayId,
    pub(super) controller: MetadataValue<Ascii>,
    pub(super) zone: MetadataValue<Ascii>,
    pub(super) join_token: Option<Secret>,
    pub(super) limits: SessionLimits,
    pub(super) max_age: Duration,
    pub(super) streams: Arc<Semaphore>,
    pub(super) admission: Mutex<Admission>,
    pub(super) started: Instant,
    pub(super) catalogs: watch::Receiver<Option<Arc<dyn Catalog>>>,
    pub(super) roster: Arc<Roster>,
    pub(super) tasks: Tasks,
    pub(super) drain: CancellationToken,
}

impl Service {
    fn authenticate(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let Some(expected) = &self.join_token else { return Ok(()) };
        let header = metadata.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let presented = header.strip_prefix("Bearer ").unwrap_or_default();
        if expected.matches(presented) {
            return Ok(());
        }
        // Neither the expected nor the presented token may reach a log or an answer.
        Err(Status::unauthenticated("the join token is missing or wrong"))
    }

    async fn admit(&self) -> Result<(), Status> {
        let admitted = {
            let mut admission = self.admission.lock().unwrap_or_else(PoisonError::into_inner);
            admission.admit(self.started.elapsed())
        };
        match admitted {
            Ok(wait) if wait.is_zero() => Ok(()),
            Ok(wait) => {
                sleep(wait).await;
                Ok(())
            }
            Err(wait) => Err(come_back("too many runtimes are connecting at once", wait)),
        }
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        self.authenticate(request.metadata())?;
        if self.drain.is_cancelled() {
            return Err(Status::unavailable("draining: this controller is going away"));
        }
        self.admit().await?;
        let permit = self
            .streams
            .clone()
            .try_acquire_owned()
            .map_err(|_| come_back("this controller serves as many runtimes as it may", FULL_RETRY))?;
        let (responses, stream) = mpsc::channel(RESPONSES);
        let jitter = 1.0 + AGE_JITTER * (2.0 * fastrand::f64() - 1.0);
        let stream_task = Stream {
            session: Session::new(self.gateway.clone(), self.limits),
            requests: request.into_inner(),
            responses,
            catalogs: self.catalogs.clone(),
            roster: self.roster.clone(),
            drain: self.drain.clone(),
            max_age: self.max_age.mul_f64(jitter),
            _permit: permit,
        };
        self.tasks.spawn("config stream", stream_task.run());
        let mut response = Response::new(ReceiverStream::new(stream));
        response.metadata_mut().insert(HEADER_CONTROLLER, self.controller.clone());
        response.metadata_mut().insert(HEADER_ZONE, self.zone.clone());
        Ok(response)
    }
}

fn come_back(reason: &str, wait: Duration) -> Status {
    let mut status = Status::unavailable(reason);
    let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    status.metadata_mut().insert(HEADER_RETRY_AFTER_MS, MetadataValue::from(millis));
    status
}
