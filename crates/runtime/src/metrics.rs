// SPDX-License-Identifier: Apache-2.0
//! What the runtime counts. Each worker has its own block of plain atomics, written by one
//! thread only and summed when somebody scrapes, so that counting shares no cache line
//! between cores. Labels are closed enums: nothing a client sends becomes a label.
//! `access_log` and `conn` write, `admin` reads.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::error::Reason;

/// Upper bounds of the duration histogram, in microseconds.
const BOUNDS_US: [u64; 12] =
    [500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000, 30_000_000];

const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Where a count is among a worker's.
type Pick = fn(&WorkerMetrics) -> &Count;

/// Plain counters: name, help, and where in a worker's counts.
const COUNTERS: [(&str, &str, Pick); 19] = [
    ("ferrogate_runtime_client_gone", "Requests whose client left before the answer was sent", |w| {
        &w.client_gone
    }),
    ("ferrogate_runtime_short_circuits", "Requests answered by a policy", |w| &w.short_circuits),
    ("ferrogate_runtime_connections", "Client connections accepted", |w| &w.connections_opened),
    (
        "ferrogate_runtime_connections_spent",
        "Connections closed for having carried as many requests as they may",
        |w| &w.connections_spent,
    ),
    (
        "ferrogate_runtime_accept_paused",
        "Times that accepting waited because the process had as many connections as it may",
        |w| &w.accept_paused,
    ),
    ("ferrogate_runtime_tls_failures", "Failed TLS handshakes with clients", |w| &w.tls_failures),
    (
        "ferrogate_runtime_proxy_header_failures",
        "Connections closed because they did not begin with a PROXY header",
        |w| &w.proxy_header_failures,
    ),
    ("ferrogate_runtime_tunnels", "Connections that switched to another protocol", |w| &w.tunnels_opened),
    ("ferrogate_runtime_upstream_connections", "Connections opened to upstreams", |w| &w.upstream_opened),
    ("ferrogate_runtime_upstream_reused", "Requests sent on a kept upstream connection", |w| {
        &w.upstream_reused
    }),
    ("ferrogate_runtime_upstream_retried", "Requests sent again after a stale kept connection", |w| {
        &w.upstream_retried
    }),
    ("ferrogate_runtime_upstream_retries", "Requests sent again by a retry policy", |w| &w.upstream_retries),
    ("ferrogate_runtime_mirrored", "Copies of requests sent", |w| &w.mirrored),
    (
        "ferrogate_runtime_mirror_dropped",
        "Copies not sent: too many under way, or the body was not held",
        |w| &w.mirror_dropped,
    ),
    (
        "ferrogate_runtime_access_log_dropped_lines",
        "Access log lines dropped because the writer was behind or could not write them",
        |w| &w.access_log_dropped_lines,
    ),
    // The names of contract 8.2 that say the same thing; scripts look for them.
    ("policy_engine_requests", "Requests seen", |w| &w.requests_started),
    ("policy_engine_short_circuits", "Requests answered by a policy", |w| &w.short_circuits),
    ("policy_engine_route_lookup_failures", "Requests without a route", |w| {
        &w.by_reason[Reason::RouteNotFound as usize]
    }),
    ("policy_engine_request_errors", "Requests failed by a policy", |w| {
        &w.by_reason[Reason::PolicyFailed as usize]
    }),
];

/// A counter with one writer: a load and a store, no locked instruction.
#[derive(Default)]
pub struct Count(AtomicU64);

/// One worker's counts.
#[derive(Default)]
pub struct WorkerMetrics {
    by_class: [Count; CLASSES.len()],
    by_reason: [Count; Reason::ALL.len()],
    buckets: [Count; BOUNDS_US.len() + 1],
    duration_sum_us: Count,
    /// Requests begun.
    pub requests_started: Count,
    /// Requests ended, however they ended.
    pub requests_ended: Count,
    /// Requests whose client was gone before the answer was.
    pub client_gone: Count,
    /// Requests that a policy answered.
    pub short_circuits: Count,
    /// Connections accepted.
    pub connections_opened: Count,
    /// Connections closed for having carried as many requests as they may.
    pub connections_spent: Count,
    /// Times that accepting waited because the process had as many connections as it may.
    pub accept_paused: Count,
    /// Connections closed.
    pub connections_closed: Count,
    /// Connections to upstreams opened.
    pub upstream_opened: Count,
    /// Requests sent on a kept connection.
    pub upstream_reused: Count,
    /// Requests sent again because a kept connection had gone stale.
    pub upstream_retried: Count,
    /// Requests sent again by their route's retry policy.
    pub upstream_retries: Count,
    /// Copies of requests sent to mirrors.
    pub mirrored: Count,
    /// Copies not made: too many under way, or a body not held.
    pub mirror_dropped: Count,
    /// Access log lines dropped because the writer was behind or could not write them.
    pub access_log_dropped_lines: Count,
    /// Requests cut off by a forced stop or a missed drain deadline.
    pub cut_off: Count,
    /// TLS handshakes with clients that failed.
    pub tls_failures: Count,
    /// Connections that should have begun with a PROXY header and did not.
    pub proxy_header_failures: Count,
    /// Connections that switched to another protocol.
    pub tunnels_opened: Count,
    /// Those of them that have ended.
    pub tunnels_closed: Count,
}

/// Every worker's counts, and what else a scrape shows.
pub struct RuntimeMetrics {
    workers: Vec<Arc<WorkerMetrics>>,
    readings: Box<dyn Fn() -> Vec<Reading> + Send + Sync>,
}

/// How a value moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moves {
    /// Up and down.
    Freely,
    /// Up only: it is exported as a counter.
    Up,
}

/// A value read at scrape time from elsewhere in the runtime.
pub struct Reading {
    /// Metric name, of what moves up without its `_total`.
    pub name: &'static str,
    /// Help text.
    pub help: &'static str,
    /// The value.
    pub value: f64,
    /// How it moves.
    pub moves: Moves,
}

impl Reading {
    /// One that moves freely.
    #[must_use]
    pub fn gauge(name: &'static str, help: &'static str, value: f64) -> Reading {
        Reading { name, help, value, moves: Moves::Freely }
    }
}

impl Count {
    /// Adds one. Only the owning worker calls this.
    pub fn one(&self) {
        self.add(1);
    }

    /// Adds `n`. Only the owning worker calls this.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The count so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl WorkerMetrics {
    /// A request ended with this status (`None`: nothing was sent) after this long.
    pub fn request_ended(&self, status: Option<StatusCode>, reason: Option<Reason>, took: Duration) {
        let class = status.map_or(0, |status| usize::from(status.as_u16() / 100));
        if let Some(count) = self.by_class.get(class) {
            count.one();
        }
        if let Some(count) = reason.and_then(|reason| self.by_reason.get(reason as usize)) {
            count.one();
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS_US.len());
        if let Some(count) = self.buckets.get(bucket) {
            count.one();
        }
        self.duration_sum_us.add(micros);
        self.requests_ended.one();
    }
}

impl RuntimeMetrics {
    /// The metrics of these workers; `readings` is asked at every scrape.
    pub fn new(
        workers: Vec<Arc<WorkerMetrics>>,
        readings: Box<dyn Fn() -> Vec<Reading> + Send + Sync>,
    ) -> RuntimeMetrics {
        RuntimeMetrics { workers, readings }
    }

    fn sum(&self, pick: impl Fn(&WorkerMetrics) -> u64) -> u64 {
        self.workers.iter().map(|worker| pick(worker)).sum()
    }

    fn counters(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, pick) in COUNTERS {
            let counter = ConstCounter::new(self.sum(|worker| pick(worker).get()));
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        Ok(())
    }

    fn labelled(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = encoder.encode_descriptor(
            "ferrogate_runtime_requests",
            "Requests ended, by class of status; none means that the client left first",
            None,
            MetricType::Counter,
        )?;
        for (index, class) in CLASSES.into_iter().enumerate() {
            let value = self.sum(|worker| worker.by_class.get(index).map_or(0, Count::get));
            ConstCounter::new(value).encode(family.encode_family(&[("class", class)])?)?;
        }
        let mut family = encoder.encode_descriptor(
            "ferrogate_runtime_failures",
            "Requests the gateway answered by itself, by reason",
            None,
            MetricType::Counter,
        )?;
        for reason in Reason::ALL {
            let value = self.sum(|worker| worker.by_reason.get(reason as usize).map_or(0, Count::get));
            ConstCounter::new(value).encode(family.encode_family(&[("reason", reason.name())])?)?;
        }
        Ok(())
    }

    fn histogram(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let bounds = BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds
            .enumerate()
            .map(|(index, bound)| (bound, self.sum(|worker| worker.buckets.get(index).map_or(0, Count::get))))
            .collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.sum(|worker| worker.duration_sum_us.get()) as f64 / 1e6;
        let mut metric = encoder.encode_descriptor(
            "ferrogate_runtime_request_duration_seconds",
            "From a request's head to its response's last byte",
            None,
            MetricType::Histogram,
        )?;
        metric.encode_histogram::<[(&str, &str); 0]>(sum, count, &buckets, None)
    }
}

impl Collector for RuntimeMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.counters(&mut encoder)?;
        self.labelled(&mut encoder)?;
        self.histogram(&mut encoder)?;
        let open =
            self.sum(|w| w.connections_opened.get()).saturating_sub(self.sum(|w| w.connections_closed.get()));
        let in_flight =
            self.sum(|w| w.requests_started.get()).saturating_sub(self.sum(|w| w.requests_ended.get()));
        let tunnels =
            self.sum(|w| w.tunnels_opened.get()).saturating_sub(self.sum(|w| w.tunnels_closed.get()));
        let own = [
            Reading::gauge(
                "ferrogate_runtime_tunnels_open",
                "Open connections that switched to another protocol",
                tunnels as f64,
            ),
            Reading::gauge("ferrogate_runtime_connections_open", "Open client connections", open as f64),
            Reading::gauge(
                "ferrogate_runtime_requests_in_flight",
                "Requests not yet ended",
                in_flight as f64,
            ),
            Reading::gauge("policy_engine_up", "1 while the process runs", 1.0),
        ];
        for Reading { name, help, value, moves } in own.into_iter().chain((self.readings)()) {
            match moves {
                Moves::Freely => {
                    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
                    ConstGauge::new(value).encode(metric)?;
                }
                Moves::Up => {
                    let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
                    ConstCounter::new(value).encode(metric)?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for RuntimeMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuntimeMetrics").field("workers", &self.workers.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use http::StatusCode;

    use super::{Moves, Reading, RuntimeMetrics, WorkerMetrics};
    use crate::error::Reason;

    #[test]
    fn a_scrape_sums_the_workers() {
        let workers: Vec<Arc<WorkerMetrics>> = (0..2).map(|_| Arc::default()).collect();
        for worker in &workers {
            worker.requests_started.add(2);
            worker.request_ended(Some(StatusCode::OK), None, Duration::from_millis(3));
            worker.request_ended(
                Some(StatusCode::NOT_FOUND),
                Some(Reason::RouteNotFound),
                Duration::from_secs(60),
            );
        }
        let readings = || {
            vec![
                Reading::gauge("ferrogate_runtime_revision", "x", 7.0),
                Reading { moves: Moves::Up, ..Reading::gauge("ferrogate_runtime_grown", "x", 3.0) },
            ]
        };
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register_collector(Box::new(RuntimeMetrics::new(workers, Box::new(readings))));
        let text = ferrogate_base::telemetry::encode_metrics(&registry).expect("an encodable registry");
        for line in [
            "ferrogate_runtime_requests_total{class=\"2xx\"} 2",
            "ferrogate_runtime_failures_total{reason=\"route_not_found\"} 2",
            "ferrogate_runtime_request_duration_seconds_bucket{le=\"0.005\"} 2",
            "ferrogate_runtime_request_duration_seconds_bucket{le=\"+Inf\"} 4",
            "ferrogate_runtime_requests_in_flight 0.0",
            "ferrogate_runtime_revision 7.0",
            "ferrogate_runtime_grown_total 3.0",
            "policy_engine_route_lookup_failures_total 2",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
