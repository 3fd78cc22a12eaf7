// SPDX-License-Identifier: Apache-2.0
//! Traffic that counts: a fixed number of clients, each sending one request after another
//! over its own kept-alive connection, until told to stop or a count is reached. Every
//! failure is kept with its reason, because "0 failed" is only worth what was looked at.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use reqwest::header::HeaderMap;
use tokio::task::JoinSet;
use tokio::time::Instant;

const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// Failures kept in words; the rest are counted.
const MAX_REASONS: usize = 20;

/// How to judge an answer: `Err` says what is wrong with it.
pub type Check = Arc<dyn Fn(u16, &HeaderMap, &[u8]) -> Result<(), String> + Send + Sync>;

/// Traffic under way.
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    clients: JoinSet<Tally>,
}

/// What the traffic saw.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests sent.
    pub sent: u64,
    /// Requests that failed or were answered wrongly.
    pub failed: u64,
    /// The first few failures.
    pub reasons: Vec<String>,
    /// How long each answered request took, in microseconds, unsorted.
    pub micros: Vec<u32>,
}

/// What to send.
#[derive(Clone)]
pub struct Plan {
    /// Full URLs, dealt to the clients in turn.
    pub urls: Vec<String>,
    /// How many clients.
    pub clients: usize,
    /// Requests per second over all clients; `None` for as fast as they can.
    pub rate: Option<u32>,
    /// Stop by itself after this many requests.
    pub limit: Option<u64>,
    /// The judge.
    pub check: Check,
}

impl Load {
    /// Starts sending.
    #[must_use]
    pub fn start(plan: &Plan) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let mut clients = JoinSet::new();
        for index in 0..plan.clients {
            let url = plan.urls[index % plan.urls.len()].clone();
            clients.spawn(client(plan.clone(), url, Arc::clone(&stop), Arc::clone(&sent)));
        }
        Load { stop, sent, clients }
    }

    /// Requests sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends the traffic after the requests under way and adds up.
    pub async fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        self.finish().await
    }

    /// Waits until the limit is reached and adds up.
    pub async fn finish(mut self) -> Tally {
        let mut total = Tally::default();
        while let Some(joined) = self.clients.join_next().await {
            match joined {
                Ok(tally) => total.add(tally),
                Err(error) => total.fail(format!("a client died: {error}")),
            }
        }
        total
    }
}

impl Tally {
    /// The time within which this share (0 to 1) of the answered requests were answered.
    #[must_use]
    pub fn percentile(&mut self, share: f64) -> Duration {
        percentile(&mut self.micros, share)
    }

    fn add(&mut self, other: Tally) {
        self.sent += other.sent;
        self.failed += other.failed;
        self.micros.extend(other.micros);
        let room = MAX_REASONS.saturating_sub(self.reasons.len());
        self.reasons.extend(other.reasons.into_iter().take(room));
    }

    fn fail(&mut self, reason: String) {
        self.failed += 1;
        if self.reasons.len() < MAX_REASONS {
            self.reasons.push(reason);
        }
    }
}

/// The value below which this share of the samples lies; sorts them.
#[must_use]
pub fn percentile(micros: &mut [u32], share: f64) -> Duration {
    micros.sort_unstable();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into a slice far below 2^52 entries"
    )]
    let index = (micros.len().saturating_sub(1) as f64 * share).round() as usize;
    Duration::from_micros(micros.get(index).copied().unwrap_or_default().into())
}

async fn client(plan: Plan, url: String, stop: Arc<AtomicBool>, sent: Arc<AtomicU64>) -> Tally {
    let http = reqwest::Client::builder().pool_max_idle_per_host(1).timeout(REQUEST_DEADLINE).build();
    let mut tally = Tally::default();
    let http = match http {
        Ok(http) => http,
        Err(error) => {
            tally.fail(format!("no client: {error}"));
            return tally;
        }
    };
    let clients = u32::try_from(plan.clients).unwrap_or(u32::MAX);
    let mut pace = plan.rate.map(|rate| {
        let mut pace = tokio::time::interval(Duration::from_secs(1) * clients / rate.max(1));
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        pace
    });
    while !stop.load(Ordering::Relaxed) {
        if sent.fetch_add(1, Ordering::Relaxed) >= plan.limit.unwrap_or(u64::MAX) {
            break;
        }
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        tally.sent += 1;
        let start = Instant::now();
        match exchange(&http, &url, &plan.check).await {
            Ok(()) => tally.micros.push(u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX)),
            Err(reason) => tally.fail(reason),
        }
    }
    tally
}

async fn exchange(http: &reqwest::Client, url: &str, check: &Check) -> Result<(), String> {
    let response = http.get(url).send().await.map_err(|error| format!("{url}: {error:?}"))?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.bytes().await.map_err(|error| format!("{url}: body: {error:?}"))?;
    check(status, &headers, &body)
}

/// Every answer must be a 200.
#[must_use]
pub fn is_ok() -> Check {
    Arc::new(|status, _, body| match status {
        200 => Ok(()),
        other => Err(format!("{other}: {}", String::from_utf8_lossy(body))),
    })
}
