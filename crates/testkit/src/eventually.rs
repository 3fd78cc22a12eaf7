// SPDX-License-Identifier: Apache-2.0
//! Waiting for a condition, never for a time: a test states what must become true and
//! how long that may take at worst. Poll intervals are short, deadlines generous, so that
//! a slow machine makes a test slow and not wrong.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

const POLL: Duration = Duration::from_millis(5);

/// Polls until the condition yields a value; `None` when the deadline passes first.
pub async fn eventually<T>(deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// As [`eventually`], for a condition that must be asked over a connection.
pub async fn eventually_async<T, F>(deadline: Duration, mut condition: impl FnMut() -> F) -> Option<T>
where
    F: Future<Output = Option<T>>,
{
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = condition().await {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        tokio::time::sleep(POLL).await;
    }
}
