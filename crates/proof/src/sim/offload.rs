// SPDX-License-Identifier: Apache-2.0
//! Work that the product gives to other threads, on this one: a run has one thread, or it
//! would not replay. A runtime's disk is the same with its troubles: it may hang, and the
//! process may be killed while it waits for it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ferrogate_base::offload::{Offload, Work};
use ferrogate_base::tasks::Tasks;
use ferrogate_runtime::lkg::PERSIST;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::trouble::{Point, Trouble};

/// How often a hung disk looks whether it is back.
const HANG: Duration = Duration::from_millis(100);

/// Carries work out where it is asked for.
pub struct Here;

/// A runtime's disk.
pub struct Disk {
    host: String,
    trouble: Arc<Trouble>,
    tasks: Tasks,
}

impl Disk {
    pub fn new(host: String, trouble: Arc<Trouble>) -> Disk {
        Disk { host, trouble, tasks: Tasks::new() }
    }
}

#[async_trait]
impl Offload for Here {
    async fn carry(&self, _what: &'static str, work: Work) {
        work();
    }
}

#[async_trait]
impl Offload for Disk {
    async fn carry(&self, what: &'static str, work: Work) {
        if what != PERSIST {
            return work();
        }
        self.trouble.reached(&self.host, Point::BeforeDisk).await;
        sleep(self.trouble.disk()).await;
        if !self.trouble.hangs(&self.host) {
            return work();
        }
        // A write that was begun goes on, also when nobody waits for it any more.
        let (host, trouble) = (self.host.clone(), Arc::clone(&self.trouble));
        let (done, waiting) = oneshot::channel();
        self.tasks.spawn("hung disk", async move {
            while trouble.hangs(&host) {
                sleep(HANG).await;
            }
            work();
            let _unheard = done.send(());
        });
        // The task ends only after its work.
        let _ended = waiting.await;
    }
}
