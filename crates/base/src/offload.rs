// SPDX-License-Identifier: Apache-2.0
//! Where work runs that would hold up an async thread: compiling a large set, writing a
//! file. The product gives it to threads made for it; a simulation, which has one thread
//! or it would not replay, carries it out on the spot. Handed in where such work is done.

use async_trait::async_trait;
use tokio::sync::oneshot;

/// A piece of such work.
pub type Work = Box<dyn FnOnce() + Send>;

/// Carries out such work. Once begun it is finished, also when nobody waits for it any more.
#[async_trait]
pub trait Offload: Send + Sync + 'static {
    /// Carries it out, named for those who watch.
    async fn carry(&self, what: &'static str, work: Work);
}

/// The threads of the tokio runtime made for blocking work.
#[derive(Clone, Copy, Debug, Default)]
pub struct Threads;

/// The work was not carried out: it panicked, or the process is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the work was not carried out")]
pub struct NotCarried;

#[async_trait]
impl Offload for Threads {
    async fn carry(&self, _what: &'static str, work: Work) {
        // What became of it is told by the work itself.
        let _ended = tokio::task::spawn_blocking(work).await;
    }
}

/// Carries out work that answers something.
///
/// # Errors
/// When it panicked or was not begun.
pub async fn carry<T: Send + 'static>(
    offload: &dyn Offload,
    what: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NotCarried> {
    let (sender, receiver) = oneshot::channel();
    let told = move || {
        // Whoever asked may have given up.
        let _unheard = sender.send(work());
    };
    offload.carry(what, Box::new(told)).await;
    receiver.await.map_err(|_| NotCarried)
}

#[cfg(test)]
mod tests {
    use super::{NotCarried, Threads, carry};

    #[tokio::test]
    async fn work_answers_and_a_panic_is_an_error() {
        assert_eq!(carry(&Threads, "sum", || 1 + 1).await, Ok(2));
        assert_eq!(carry::<()>(&Threads, "accident", || panic!("on purpose")).await, Err(NotCarried));
    }
}
