// SPDX-License-Identifier: Apache-2.0
//! The gateway that grows: PostgreSQL, one controller and one runtime, with as many APIs of
//! eight operations as were deployed so far. It starts and restarts its processes the way
//! the figures ask for, and waits for what each figure ends with: an answer, never a time.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::meter::Meter;
use crate::cluster::{Cluster, Shape};
use crate::eventually::eventually_async;
use crate::management::Management;

/// Documents in one request: far below the limit of a bundle.
const AT_ONCE: usize = 500;
/// Nothing measured here may take longer.
pub(super) const DEADLINE: Duration = Duration::from_secs(300);
/// Writers of changes that need not be live before the next.
const WRITERS: usize = 8;

/// The gateway.
pub(super) struct World {
    pub(super) cluster: Cluster,
    pub(super) apis: usize,
    /// Every change writes another value, so that none of them is idle.
    changes: Arc<AtomicUsize>,
}

/// How long something took, and what it cost who did it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Took {
    /// From the process's start to the answer that ends it.
    pub wall: Duration,
    /// Processor time of the process.
    pub cpu: Duration,
}

impl World {
    pub(super) async fn start(binary: &Path) -> anyhow::Result<World> {
        let shape = Shape { binary, controllers: &["a"], runtimes: &["a"] };
        Ok(World { cluster: Cluster::start(shape).await?, apis: 0, changes: Arc::default() })
    }

    pub(super) fn controller(&self) -> anyhow::Result<Meter> {
        Meter::of(&self.cluster.controllers[0])
    }

    pub(super) fn runtime(&self) -> anyhow::Result<Meter> {
        Meter::of(&self.cluster.runtimes[0])
    }

    pub(super) fn stream(&self) -> String {
        self.cluster.controllers[0].url("stream")
    }

    fn management(&self) -> Management {
        self.cluster.management(0).within(DEADLINE)
    }

    /// Deploys until there are so many APIs, and waits until the runtime serves the last one.
    pub(super) async fn grow(&mut self, apis: usize) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let upstream = self.cluster.backend.url();
        let all: Vec<usize> = (self.apis..apis).collect();
        for chunk in all.chunks(AT_ONCE) {
            let documents = chunk.iter().map(|index| document(*index, &upstream, 0)).collect();
            let answer =
                self.management().send(Method::POST, "/apply", Some(&Value::Array(documents))).await?;
            ensure!(answer.status.is_success(), "{}: {}", answer.status, answer.body);
        }
        self.apis = apis;
        self.served().await?;
        self.level().await?;
        Ok(began.elapsed())
    }

    /// From the start of the controller to its first answer that knows the last revision.
    pub(super) async fn restart_controller(&mut self) -> anyhow::Result<Took> {
        let head = self.head().await?;
        self.kill_controller().await?;
        self.start_controller(head).await
    }

    pub(super) async fn kill_controller(&mut self) -> anyhow::Result<()> {
        self.cluster.controllers[0].kill().await
    }

    /// From its start until it knows this revision.
    pub(super) async fn start_controller(&mut self, head: u64) -> anyhow::Result<Took> {
        let began = Instant::now();
        let spec = self.cluster.controllers[0].pinned_spec();
        self.cluster.controllers[0] = spec.start().await?;
        let management = self.management();
        let loaded = eventually_async(DEADLINE, || async {
            let view = management.get("/cluster").await.ok()?;
            (view.body["revision"] == json!(head)).then_some(())
        });
        loaded.await.context("the controller does not come back")?;
        Ok(Took { wall: began.elapsed(), cpu: self.controller()?.cpu()? })
    }

    /// From the start of a runtime with nothing on its disk to its answer for the last API.
    pub(super) async fn first_sync(&mut self) -> anyhow::Result<Took> {
        self.cluster.runtimes[0].kill().await?;
        std::fs::remove_dir_all(self.cluster.root().join("runtime-1/lkg"))?;
        self.start_runtime().await
    }

    /// The same from disk, with no controller to ask; it comes back afterwards.
    pub(super) async fn cold_start(&mut self) -> anyhow::Result<Took> {
        let head = self.head().await?;
        self.cluster.runtimes[0].kill().await?;
        self.kill_controller().await?;
        let took = self.start_runtime().await?;
        self.start_controller(head).await?;
        self.level().await?;
        Ok(took)
    }

    async fn start_runtime(&mut self) -> anyhow::Result<Took> {
        let began = Instant::now();
        let spec = self.cluster.runtimes[0].pinned_spec();
        self.cluster.runtimes[0] = spec.start().await?;
        self.served().await?;
        Ok(Took { wall: began.elapsed(), cpu: self.runtime()?.cpu()? })
    }

    /// Waits until the runtime answers for the last API.
    async fn served(&self) -> anyhow::Result<()> {
        let url = format!("{}{}", self.cluster.traffic(0), super::path(self.apis.saturating_sub(1), 0));
        let served = eventually_async(DEADLINE, || async {
            reqwest::get(&url).await.is_ok_and(|answer| answer.status().is_success()).then_some(())
        });
        served.await.context("the runtime does not serve the last API")
    }

    /// Waits until every connected runtime acknowledged the last revision.
    pub(super) async fn level(&self) -> anyhow::Result<()> {
        let level = eventually_async(DEADLINE, || async {
            let view = self.management().get("/cluster").await.ok()?.body;
            let runtimes = view["runtimes"].as_array()?;
            let connected = runtimes.iter().filter(|runtime| runtime["connected"] == json!(true));
            let applied: Vec<&Value> = connected.map(|runtime| &runtime["applied"]).collect();
            (!applied.is_empty() && applied.iter().all(|at| **at == view["revision"])).then_some(())
        });
        level.await.context("the runtime does not reach the last revision")
    }

    pub(super) async fn head(&self) -> anyhow::Result<u64> {
        self.management().get("/cluster").await?.body["revision"].as_u64().context("a revision")
    }

    /// One change after another, each live before the next.
    pub(super) async fn change(&self, count: usize) -> anyhow::Result<()> {
        self.write(count, "?wait=live&timeout=30s").await
    }

    /// Many changes by a few writers, then the runtime at the last one.
    pub(super) async fn soak(&self, count: usize) -> anyhow::Result<()> {
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let share = count / WRITERS + usize::from(writer < count % WRITERS);
            let (management, upstream) = (self.management(), self.cluster.backend.url());
            let (apis, changes) = (self.apis, Arc::clone(&self.changes));
            writers.spawn(async move { write(&management, &upstream, apis, &changes, share, "").await });
        }
        while let Some(written) = writers.join_next().await {
            written??;
        }
        self.level().await
    }

    async fn write(&self, count: usize, query: &str) -> anyhow::Result<()> {
        let upstream = self.cluster.backend.url();
        write(&self.management(), &upstream, self.apis, &self.changes, count, query).await
    }
}

async fn write(
    management: &Management,
    upstream: &str,
    apis: usize,
    changes: &AtomicUsize,
    count: usize,
    query: &str,
) -> anyhow::Result<()> {
    for _ in 0..count {
        let change = changes.fetch_add(1, Ordering::Relaxed) + 1;
        // A stride without a common factor with the sizes: changes are spread over all APIs.
        let index = change.wrapping_mul(7_919) % apis;
        let answer = management.replace(&document(index, upstream, change), query).await?;
        ensure!(answer.status.is_success(), "{}: {}", answer.status, answer.body);
    }
    Ok(())
}

/// An API of eight operations, with template paths and a header set on request and response.
fn document(index: usize, upstream: &str, stamp: usize) -> Value {
    let header = |name: &str| json!({ "headers": [{ "name": name, "value": format!("stamp-{stamp}") }] });
    let operation = |method: &str, path: &str| json!({ "method": method, "path": path });
    json!({
        "apiVersion": "gateway.api-platform.wso2.com/v1",
        "kind": "RestApi",
        "metadata": { "name": format!("scale-{index}") },
        "spec": {
            "displayName": format!("scale-{index}"),
            "version": "v1.0",
            "context": format!("/scale-{index}"),
            "upstream": { "main": { "url": upstream } },
            "policies": [{ "name": "set-headers", "version": "v1",
                           "params": { "request": header("x-request"), "response": header("x-response") } }],
            "operations": [
                operation("GET", "/items"), operation("POST", "/items"),
                operation("GET", "/items/{id}"), operation("POST", "/items/{id}"),
                operation("PUT", "/items/{id}"), operation("DELETE", "/items/{id}"),
                operation("GET", "/items/{id}/big"), operation("GET", "/items/{id}/parts/{part}"),
            ],
        },
    })
}
