// SPDX-License-Identifier: Apache-2.0
//! The gate every call passes: has the database been migrated and does it know this
//! gateway? Answered once, by the first call that gets through; taken back when a call
//! meets a database that looks emptied or foreign, so that the next one looks again.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;

use crate::fault::unavailable;
use crate::{Options, StoreError};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    done: AtomicBool,
    preparing: Mutex<()>,
}

impl Ready {
    /// Runs `prepare` unless it has succeeded before. One call at a time does, within
    /// `bulk_timeout`; the others wait for it no longer than the `timeout` of any call.
    pub(crate) async fn ensure<F, Fut>(&self, options: &Options, prepare: F) -> Result<(), StoreError>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<(), StoreError>>,
    {
        if self.done.load(Ordering::Acquire) {
            return Ok(());
        }
        let _one_at_a_time = within(options.timeout, async { Ok(self.preparing.lock().await) }).await?;
        if !self.done.load(Ordering::Acquire) {
            within(options.bulk_timeout, prepare()).await?;
            self.done.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Makes the next call prepare again.
    pub(crate) fn reset(&self) {
        self.done.store(false, Ordering::Release);
    }

    /// Passes a result on, and resets when it tells of a database not as we left it.
    pub(crate) fn watch<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(StoreError::Corrupt(_)) = &result {
            self.reset();
        }
        result
    }
}

/// The result of a call, or `Unavailable` once the deadline has passed. The call is dropped
/// then; a transaction it had begun is rolled back.
pub(crate) async fn within<T>(
    deadline: Duration,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(deadline, call).await {
        Ok(result) => result,
        Err(_) => Err(unavailable(format!("no answer within {} s", deadline.as_secs_f32()))),
    }
}

#[cfg(test)]
mod tests {
    use super::Ready;
    use crate::fault::{corrupt, unavailable};
    use crate::{Options, StoreError};
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test]
    async fn preparing_is_retried_until_it_succeeds_and_again_after_a_reset() {
        let ready = Ready::default();
        let runs = AtomicU32::new(0);
        let options = Options::default();
        let ensure = |result: Result<(), StoreError>| {
            ready.ensure(&options, || async {
                runs.fetch_add(1, Ordering::Relaxed);
                result
            })
        };
        assert!(ensure(Err(unavailable("down"))).await.is_err());
        assert!(ensure(Ok(())).await.is_ok());
        assert!(ensure(Err(unavailable("not asked"))).await.is_ok());
        assert_eq!(runs.load(Ordering::Relaxed), 2);
        assert!(ready.watch::<()>(Err(corrupt("emptied"))).is_err());
        assert!(ensure(Ok(())).await.is_ok());
        assert_eq!(runs.load(Ordering::Relaxed), 3);
    }
}
