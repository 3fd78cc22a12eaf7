// SPDX-License-Identifier: Apache-2.0
//! What the writers of a run deploy: a few APIs, made and replaced and deleted, alone and
//! in batches, through the product's admission. Now and then one whose payload no runtime
//! can read, as after a bug in admission, to see that it hurts only itself (P5).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ferrogate_controller::deploy::{Admission, Admitted, Planned, Secrets};
use ferrogate_model::document::Defaults;
use ferrogate_model::template::Lookup;
use ferrogate_model::{Handle, Kind, ResourceName};
use ferrogate_policy::{Registry, Services};
use ferrogate_runtime::prepare::Compiler;
use ferrogate_runtime::router::Timeouts;
use ferrogate_store::Guard;
use serde_json::json;
use uuid::Uuid;

use super::ledger::BROKEN;

/// How many artifacts there are at most.
const ARTIFACTS: u64 = 6;

/// See the module.
pub struct Documents {
    random: Mutex<fastrand::Rng>,
    stopped: AtomicBool,
    registry: Arc<Registry>,
}

/// Templates find nothing: no document has any.
struct Nothing;

impl Lookup for Nothing {
    fn env(&self, _: &str) -> Option<String> {
        None
    }

    fn secret(&self, _: &str) -> Option<String> {
        None
    }
}

impl Documents {
    pub fn new(seed: u64) -> anyhow::Result<Arc<Documents>> {
        let registry = Arc::new(Registry::new(ferrogate_policies::catalog::all())?);
        let random = Mutex::new(fastrand::Rng::with_seed(seed));
        Ok(Arc::new(Documents { random, stopped: AtomicBool::new(false), registry }))
    }

    /// Nothing more is deployed.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// How long a writer waits before its next batch.
    pub fn pause(&self) -> Duration {
        Duration::from_millis(self.random().u64(20..700))
    }

    /// The next batch; `None` once stopped.
    pub fn next(&self) -> Option<(Uuid, Vec<Planned>)> {
        if self.stopped.load(Ordering::SeqCst) {
            return None;
        }
        let mut random = self.random();
        let id = Uuid::from_u128(random.u128(..));
        let count = if random.u8(..100) < 20 { random.u64(2..=3) } else { 1 };
        let first = random.u64(..ARTIFACTS);
        let deletes = count == 1 && random.u8(..100) < 15;
        let breaks = random.u8(..100) < 4;
        let writes = (0..count).filter_map(|offset| {
            let index = (first + offset) % ARTIFACTS;
            let content = if deletes {
                None
            } else {
                let mut admitted = self.admit(index, random.u32(..))?;
                if breaks && offset == 0 {
                    admitted.payload = Some(BROKEN.to_owned());
                }
                Some(admitted)
            };
            Some(Planned { name: name(index)?, guard: Guard::Any, content })
        });
        Some((id, writes.collect()))
    }

    /// What a runtime prepares with.
    pub fn compiler(&self) -> Compiler {
        let second = Duration::from_secs(1);
        let defaults = Timeouts { request: Some(60 * second), idle: Some(300 * second), connect: 5 * second };
        Compiler::new(Arc::clone(&self.registry), Services::in_memory(), defaults)
    }

    fn admit(&self, index: u64, content: u32) -> Option<Admitted> {
        let admission = Admission {
            registry: Arc::clone(&self.registry),
            services: Services::in_memory(),
            defaults: Defaults::default(),
            environment: Arc::new(Nothing),
        };
        let document = json!({
            "apiVersion": "gateway.api-platform.wso2.com/v1", "kind": "RestApi",
            "metadata": {"name": format!("api-{index}")},
            "spec": {
                "displayName": format!("api-{index}"), "version": "v1.0", "context": format!("/api-{index}"),
                "upstream": {"main": {"url": format!("http://v{content}.example:80")}},
                "operations": [{"method": "GET", "path": "/x"}]
            }
        });
        let mut admitted = admission.admit(Kind::RestApi, document, true, &Secrets::default()).ok()?;
        admitted.uuid = Some(Uuid::from_u128(u128::from(index)));
        Some(admitted)
    }

    fn random(&self) -> MutexGuard<'_, fastrand::Rng> {
        self.random.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name(index: u64) -> Option<ResourceName> {
    Some(ResourceName::new(Kind::RestApi, Handle::try_new(&format!("api-{index}")).ok()?))
}
