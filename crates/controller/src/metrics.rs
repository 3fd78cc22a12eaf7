// SPDX-License-Identifier: Apache-2.0
//! The controller's metrics: names of contract 8.1 where ours mean the same, names under
//! `ferrogate_controller_` for what exists only here. Labels are closed sets. Recording
//! is a few atomics; the metrics endpoint in `admin` encodes them.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use ferrogate_base::telemetry::{TelemetryError, encode_metrics};
use ferrogate_model::{Kind, Position};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::snapshot::Tally;

/// Upper bounds in seconds, from contract 8.1, with a finer start: most answers are fast.
const BUCKETS: [f64; 10] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// Everything the controller counts.
pub struct Metrics {
    registry: Registry,
    http_requests: Family<HttpLabels, Counter>,
    http_duration: Family<EndpointLabels, Histogram, Buckets>,
    concurrent_requests: Gauge,
    operations: Family<OperationLabels, Counter>,
    validation_errors: Family<OperationLabel, Counter>,
    apis: Family<StateLabels, Gauge>,
    runtimes_connected: Gauge,
    updates_sent: Family<UpdateLabels, Counter>,
    update_bytes: Counter,
    acknowledgements: Family<AckLabels, Counter>,
    epoch: Gauge<u64, AtomicU64>,
    revision: Gauge<u64, AtomicU64>,
    store_available: Gauge,
    auth_refusals: Family<RefusalLabels, Counter>,
    panics: Counter,
    requests: AtomicU64,
    in_flight: AtomicI64,
}

/// What a management call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the variants are their own documentation")]
pub enum Operation {
    Create,
    Update,
    Delete,
    Apply,
    Rollback,
}

/// How a management call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the variants are their own documentation")]
pub enum Outcome {
    Success,
    Refused,
    Unavailable,
    Unknown,
    Failed,
}

/// Why a caller was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the variants are their own documentation")]
pub enum Refusal {
    Missing,
    Failed,
    TooMany,
    Overloaded,
    Forbidden,
}

// Label values are lower case, as those of every other metric: the derive would write `TooMany`.
impl EncodeLabelValue for Operation {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Operation::Create => "create",
            Operation::Update => "update",
            Operation::Delete => "delete",
            Operation::Apply => "apply",
            Operation::Rollback => "rollback",
        })
    }
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Outcome::Success => "success",
            Outcome::Refused => "refused",
            Outcome::Unavailable => "unavailable",
            Outcome::Unknown => "unknown",
            Outcome::Failed => "failed",
        })
    }
}

impl EncodeLabelValue for Refusal {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Refusal::Missing => "missing",
            Refusal::Failed => "failed",
            Refusal::TooMany => "too_many",
            Refusal::Overloaded => "overloaded",
            Refusal::Forbidden => "forbidden",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HttpLabels {
    method: String,
    endpoint: String,
    status_code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabels {
    method: String,
    endpoint: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    operation: Operation,
    status: Outcome,
    api_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabel {
    operation: Operation,
    error_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    api_type: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpdateLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AckLabels {
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    reason: Refusal,
}

#[derive(Clone)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(BUCKETS)
    }
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Arc<Metrics> {
        let mut metrics = Metrics {
            registry: Registry::default(),
            http_requests: Family::default(),
            http_duration: Family::new_with_constructor(Buckets),
            concurrent_requests: Gauge::default(),
            operations: Family::default(),
            validation_errors: Family::default(),
            apis: Family::default(),
            runtimes_connected: Gauge::default(),
            updates_sent: Family::default(),
            update_bytes: Counter::default(),
            acknowledgements: Family::default(),
            epoch: Gauge::default(),
            revision: Gauge::default(),
            store_available: Gauge::default(),
            auth_refusals: Family::default(),
            panics: Counter::default(),
            requests: AtomicU64::new(0),
            in_flight: AtomicI64::new(0),
        };
        metrics.register_contract();
        metrics.register_own();
        Arc::new(metrics)
    }

    fn register_contract(&mut self) {
        let up: Gauge = Gauge::default();
        up.set(1);
        let group = self.registry.sub_registry_with_prefix("gateway_controller");
        group.register("up", "1 while the process runs", up);
        group.register("http_requests", "Management requests", self.http_requests.clone());
        group.register(
            "http_request_duration_seconds",
            "Time to answer a management request",
            self.http_duration.clone(),
        );
        group.register(
            "concurrent_requests",
            "Management requests being answered",
            self.concurrent_requests.clone(),
        );
        group.register(
            "api_operations",
            "Writes, by what they do and how they ended",
            self.operations.clone(),
        );
        group.register(
            "validation_errors",
            "Documents refused, by what the call did",
            self.validation_errors.clone(),
        );
        group.register("apis", "Artifacts, by kind and state", self.apis.clone());
        group.register("xds_clients_connected", "Runtimes connected", self.runtimes_connected.clone());
        group.register("xds_snapshot_ack", "Answers of runtimes to updates", self.acknowledgements.clone());
        group.register("panic_recoveries", "Requests answered 500 after a panic", self.panics.clone());
    }

    fn register_own(&mut self) {
        let group = self.registry.sub_registry_with_prefix("ferrogate_controller");
        group.register("epoch", "The epoch of the snapshot", self.epoch.clone());
        group.register("revision", "The revision of the snapshot", self.revision.clone());
        group.register("store_available", "1 when the last read succeeded", self.store_available.clone());
        group.register("updates_sent", "Updates sent to runtimes", self.updates_sent.clone());
        group.register("update_bytes", "Payload bytes sent to runtimes", self.update_bytes.clone());
        group.register("auth_refusals", "Callers refused", self.auth_refusals.clone());
    }

    /// The text of the metrics endpoint.
    ///
    /// # Errors
    /// When encoding fails.
    pub fn encode(&self) -> Result<String, TelemetryError> {
        encode_metrics(&self.registry)
    }

    /// A request began; the guard's drop ends it, however it ends.
    pub fn request(self: &Arc<Self>) -> InFlight {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.concurrent_requests.set(self.in_flight.fetch_add(1, Ordering::Relaxed) + 1);
        InFlight { metrics: Arc::clone(self) }
    }

    /// A request to a known endpoint was answered.
    pub fn answered(&self, method: &str, endpoint: &str, status_code: u16, seconds: f64) {
        let (method, endpoint) = (method.to_owned(), endpoint.to_owned());
        self.http_duration
            .get_or_create(&EndpointLabels { method: method.clone(), endpoint: endpoint.clone() })
            .observe(seconds);
        self.http_requests.get_or_create(&HttpLabels { method, endpoint, status_code }).inc();
    }

    /// Requests since the start.
    #[must_use]
    pub fn management_requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// A write ended: one operation on each kind that was written.
    pub fn operation(&self, operation: Operation, status: Outcome, kinds: BTreeSet<Kind>) {
        for kind in kinds {
            let labels = OperationLabels { operation, status, api_type: api_type(kind) };
            self.operations.get_or_create(&labels).inc();
        }
        if status == Outcome::Refused {
            self.validation_errors.get_or_create(&OperationLabel { operation, error_type: "refused" }).inc();
        }
    }

    /// A snapshot was published, with so many artifacts of each kind.
    pub fn published(&self, position: Position, tallies: impl IntoIterator<Item = (Kind, Tally)>) {
        self.epoch.set(position.epoch.0);
        self.revision.set(position.revision.0);
        for (kind, Tally { all, deployed }) in tallies {
            for (status, count) in [("deployed", deployed), ("undeployed", all.saturating_sub(deployed))] {
                let labels = StateLabels { api_type: api_type(kind), status };
                self.apis.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
    }

    /// Whether the store answered the last read.
    pub fn set_store_available(&self, available: bool) {
        self.store_available.set(i64::from(available));
    }

    /// Runtimes connected now.
    pub fn set_runtimes_connected(&self, count: usize) {
        self.runtimes_connected.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// An update went out.
    pub fn update_sent(&self, full: bool, bytes: usize) {
        let kind = if full { "full" } else { "delta" };
        self.updates_sent.get_or_create(&UpdateLabels { kind }).inc();
        self.update_bytes.inc_by(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// A runtime answered an update.
    pub fn acknowledged(&self, accepted: bool) {
        let status = if accepted { "ack" } else { "nack" };
        self.acknowledgements.get_or_create(&AckLabels { status }).inc();
    }

    /// A caller was refused.
    pub fn refused(&self, reason: Refusal) {
        self.auth_refusals.get_or_create(&RefusalLabels { reason }).inc();
    }

    /// A handler panicked.
    pub fn panicked(&self) {
        self.panics.inc();
    }
}

/// What the contract's label says of a kind.
const fn api_type(kind: Kind) -> &'static str {
    match kind {
        Kind::RestApi => "rest",
        Kind::Secret => "secret",
        Kind::Certificate => "certificate",
    }
}

/// A request being answered.
pub struct InFlight {
    metrics: Arc<Metrics>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let left = self.metrics.in_flight.fetch_sub(1, Ordering::Relaxed) - 1;
        self.metrics.concurrent_requests.set(left);
    }
}

#[cfg(test)]
mod tests {
    use ferrogate_model::{Epoch, Kind, Position, Revision};

    use super::{Metrics, Operation, Outcome, Tally};

    #[test]
    fn contract_names_are_exported() {
        let metrics = Metrics::new();
        metrics.answered("GET", "/rest-apis/{id}", 200, 0.002);
        metrics.operation(Operation::Create, Outcome::Success, [Kind::RestApi].into());
        metrics.operation(Operation::Apply, Outcome::Refused, [Kind::RestApi, Kind::Secret].into());
        metrics.published(
            Position::new(Epoch(3), Revision(9)),
            [
                (Kind::RestApi, Tally { all: 4, deployed: 3 }),
                (Kind::Certificate, Tally { all: 2, deployed: 2 }),
            ],
        );
        let in_flight = metrics.request();
        let text = metrics.encode().expect("encodable");
        for line in [
            "gateway_controller_up 1",
            "gateway_controller_http_requests_total{method=\"GET\",endpoint=\"/rest-apis/{id}\",status_code=\"200\"} 1",
            "gateway_controller_api_operations_total{operation=\"create\",status=\"success\",api_type=\"rest\"} 1",
            "gateway_controller_api_operations_total{operation=\"apply\",status=\"refused\",api_type=\"rest\"} 1",
            "gateway_controller_api_operations_total{operation=\"apply\",status=\"refused\",api_type=\"secret\"} 1",
            "gateway_controller_validation_errors_total{operation=\"apply\",error_type=\"refused\"} 1",
            "gateway_controller_apis{api_type=\"rest\",status=\"undeployed\"} 1",
            "gateway_controller_apis{api_type=\"certificate\",status=\"deployed\"} 2",
            "gateway_controller_concurrent_requests 1",
            "ferrogate_controller_revision 9",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        drop(in_flight);
        assert!(metrics.encode().expect("encodable").contains("gateway_controller_concurrent_requests 0"));
    }
}
