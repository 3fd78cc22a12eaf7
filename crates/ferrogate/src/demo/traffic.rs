// SPDX-License-Identifier: Apache-2.0
//! Requests that run through the whole walk and are counted. Like a load balancer, the
//! senders take a runtime that does not answer out of rotation; requests that were open
//! to a killed runtime are counted apart, because nobody can promise those.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ferrogate_base::tasks::Tasks;
use tokio_util::sync::CancellationToken;

const SENDERS: usize = 6;
/// Together about 240 requests per second.
const PAUSE: Duration = Duration::from_millis(25);
const TIMEOUT: Duration = Duration::from_secs(5);
/// Failures kept in words; the rest are counted.
const MAX_REASONS: usize = 5;

/// The traffic.
pub struct Traffic {
    shared: Arc<Shared>,
}

/// What was counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Answered rightly.
    pub answered: u64,
    /// Failed.
    pub failed: u64,
    /// Open to a runtime while it was killed.
    pub cut: u64,
}

struct Shared {
    lanes: Vec<Lane>,
    answered: AtomicU64,
    failed: AtomicU64,
    cut: AtomicU64,
    reasons: Mutex<Vec<String>>,
}

/// One runtime as the senders see it.
struct Lane {
    url: String,
    open: AtomicBool,
    doomed: AtomicBool,
}

impl Traffic {
    /// Starts sending to all of these.
    pub fn start(tasks: &Tasks, urls: Vec<String>) -> anyhow::Result<Self> {
        let lane = |url| Lane { url, open: AtomicBool::new(true), doomed: AtomicBool::new(false) };
        let shared = Arc::new(Shared {
            lanes: urls.into_iter().map(lane).collect(),
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            cut: AtomicU64::new(0),
            reasons: Mutex::new(Vec::new()),
        });
        for sender in 0..SENDERS {
            let client = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?;
            tasks.spawn(format!("sender {sender}"), send(client, shared.clone(), tasks.token(), sender));
        }
        Ok(Self { shared })
    }

    /// What was counted so far.
    pub fn count(&self) -> Count {
        Count {
            answered: self.shared.answered.load(Ordering::SeqCst),
            failed: self.shared.failed.load(Ordering::SeqCst),
            cut: self.shared.cut.load(Ordering::SeqCst),
        }
    }

    /// What was counted since then; failures are an error that says which.
    pub fn since(&self, then: Count) -> anyhow::Result<Count> {
        let now = self.count();
        let count = Count {
            answered: now.answered.saturating_sub(then.answered),
            failed: now.failed.saturating_sub(then.failed),
            cut: now.cut.saturating_sub(then.cut),
        };
        if count.failed > 0 {
            let reasons = self.shared.reasons.lock().unwrap_or_else(PoisonError::into_inner).join("; ");
            anyhow::bail!("{} of {} requests failed: {reasons}", count.failed, count.answered + count.failed);
        }
        anyhow::ensure!(count.answered > 0, "no request was sent meanwhile");
        Ok(count)
    }

    /// This runtime is about to be killed.
    pub fn doom(&self, runtime: usize) {
        if let Some(lane) = self.shared.lanes.get(runtime) {
            lane.doomed.store(true, Ordering::SeqCst);
        }
    }

    /// This runtime is back.
    pub fn restore(&self, runtime: usize) {
        if let Some(lane) = self.shared.lanes.get(runtime) {
            lane.doomed.store(false, Ordering::SeqCst);
            lane.open.store(true, Ordering::SeqCst);
        }
    }
}

async fn send(client: reqwest::Client, shared: Arc<Shared>, token: CancellationToken, first: usize) {
    let mut turn = first;
    while !token.is_cancelled() {
        turn = turn.wrapping_add(1);
        let lane = turn.checked_rem(shared.lanes.len()).and_then(|index| shared.lanes.get(index));
        let Some(lane) = lane.filter(|lane| lane.open.load(Ordering::SeqCst)) else {
            tokio::task::yield_now().await;
            tokio::time::sleep(PAUSE / 5).await;
            continue;
        };
        let went = one(&client, &lane.url).await;
        shared.note(lane, went);
        tokio::time::sleep(PAUSE).await;
    }
}

async fn one(client: &reqwest::Client, url: &str) -> Result<(), String> {
    let response = client.get(url).send().await.map_err(|error| crate::client::reasons(&error))?;
    let status = response.status();
    let body = response.bytes().await.map_err(|error| crate::client::reasons(&error))?;
    if status.is_success() {
        Ok(())
    } else {
        Err(format!("{url}: {status} {}", String::from_utf8_lossy(&body)))
    }
}

impl Shared {
    fn note(&self, lane: &Lane, went: Result<(), String>) {
        match went {
            Ok(()) => {
                self.answered.fetch_add(1, Ordering::SeqCst);
            }
            Err(_) if lane.doomed.load(Ordering::SeqCst) => {
                lane.open.store(false, Ordering::SeqCst);
                self.cut.fetch_add(1, Ordering::SeqCst);
            }
            Err(reason) => {
                self.failed.fetch_add(1, Ordering::SeqCst);
                let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
                if reasons.len() < MAX_REASONS {
                    reasons.push(reason);
                }
            }
        }
    }
}
