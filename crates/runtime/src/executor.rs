// SPDX-License-Identifier: Apache-2.0
//! Where hyper's HTTP/2 puts what it runs beside a connection: tasks of the worker, owned and
//! named like all others. `conn` and `upstream` hand it to hyper.

use std::future::Future;
use std::pin::pin;

use ferrogate_base::tasks::Tasks;

use crate::conn::watch::Bounded;

/// Runs futures as tasks of the worker.
#[derive(Clone)]
pub struct LocalExecutor {
    tasks: Tasks,
    name: &'static str,
}

impl LocalExecutor {
    /// What is run is called `name` in the list of tasks.
    #[must_use]
    pub fn new(tasks: Tasks, name: &'static str) -> LocalExecutor {
        LocalExecutor { tasks, name }
    }
}

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        self.tasks.spawn_local(self.name, async move {
            // A stream whose exchange is overdue is dropped, and so reset.
            let _done = Bounded::new(pin!(future), &|| None).await;
        });
    }
}
