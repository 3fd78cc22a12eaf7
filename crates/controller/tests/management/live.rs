// SPDX-License-Identifier: Apache-2.0
//! From a write to runtimes and back: the stream carries it, acknowledgements come home,
//! and `wait=live` says who serves it. Runtimes are the real client over a sink in memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ferrogate_base::tasks::Tasks;
use ferrogate_model::{GatewayId, Position, Reject, ResourceName, Revision};
use ferrogate_store::open;
use ferrogate_xds::client::{ClientOptions, run};
use ferrogate_xds::{Capabilities, Held, NodeInfo, Outcome, Sink, Update};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::harness::{Gateway, Setup, api, eventually, send};

/// What a runtime holds, and how it behaves.
#[derive(Default)]
struct Runtime {
    held: Mutex<(Held, BTreeMap<ResourceName, Revision>)>,
    refuse: Mutex<Option<ResourceName>>,
    stuck: AtomicBool,
    free: Notify,
    tasks: Tasks,
}

#[async_trait]
impl Sink for Runtime {
    fn held(&self) -> Held {
        self.held.lock().expect("not poisoned").0.clone()
    }

    async fn apply(&self, update: Update) -> Outcome {
        while self.stuck.load(Ordering::SeqCst) {
            self.free.notified().await;
        }
        let refuse = self.refuse.lock().expect("not poisoned").clone();
        let mut held = self.held.lock().expect("not poisoned");
        let (state, resources) = &mut *held;
        if update.full {
            resources.clear();
        }
        for name in &update.removes {
            resources.remove(name);
        }
        let mut outcome = Outcome::default();
        for resource in update.upserts {
            if refuse.as_ref() == Some(&resource.name) {
                let (resource, revision) = (resource.name.to_string(), resource.version.0);
                outcome.rejects.push(Reject { resource, revision, reason: "not to my taste".to_owned() });
            } else {
                resources.insert(resource.name, resource.version);
            }
        }
        (state.position, state.digest) = (update.position, update.digest);
        outcome
    }

    fn connected(&self, _controller: Option<&str>) {}
}

impl Runtime {
    fn connect(gateway: &Gateway, gateway_id: &str, id: &str, zone: &str) -> Arc<Runtime> {
        Runtime::connect_with(gateway, gateway_id, id, zone, Capabilities::of_this_build())
    }

    fn connect_with(
        gateway: &Gateway,
        gateway_id: &str,
        id: &str,
        zone: &str,
        capabilities: Capabilities,
    ) -> Arc<Runtime> {
        let runtime = Arc::new(Runtime::default());
        let url = format!("http://{}", gateway.controller.addresses.stream.expect("listens"));
        let node = NodeInfo {
            id: id.to_owned(),
            gateway: GatewayId::from(gateway_id),
            zone: zone.to_owned(),
            version: "test".to_owned(),
            capabilities,
        };
        let options = ClientOptions::new(vec![url.parse().expect("infallible")], node);
        let (sink, token) = (Arc::clone(&runtime) as Arc<dyn Sink>, runtime.tasks.token());
        runtime.tasks.spawn("runtime", async move {
            run(options, sink, token.cancelled_owned()).await.expect("sound options");
        });
        runtime
    }

    fn position(&self) -> Position {
        self.held.lock().expect("not poisoned").0.position
    }

    fn serves(&self, name: &str) -> Option<u64> {
        let name: ResourceName = format!("rest-apis/{name}").parse().expect("well-formed");
        self.held.lock().expect("not poisoned").1.get(&name).map(|revision| revision.0)
    }

    fn release(&self) {
        self.stuck.store(false, Ordering::SeqCst);
        self.free.notify_waiters();
    }
}

const ID: &str = "platform-gateway-id";

async fn connected(gateway: &Gateway, count: usize) {
    eventually("the runtimes are connected and current", || async {
        let cluster = gateway.get("/cluster").await.json();
        let runtimes = cluster["runtimes"].as_array().cloned().unwrap_or_default();
        runtimes.iter().filter(|one| one["alive"] == true && one["lag"] == 0).count() == count
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_live_when_every_runtime_serves_it() {
    let gateway = Gateway::start().await;
    gateway.create("before", "/before").await;
    let runtimes = [("r1", "a"), ("r2", "b")].map(|(id, zone)| Runtime::connect(&gateway, ID, id, zone));
    connected(&gateway, 2).await;
    assert!(runtimes.iter().all(|runtime| runtime.serves("before") == Some(1)));

    let created = gateway.post("/rest-apis?wait=live&timeout=20s", api("x", "/x")).await;
    assert_eq!(created.status, 201, "{created:?}");
    let live = &created.json()["status"]["live"];
    assert_eq!((&live["live"], &live["runtimes"], &live["revision"]), (&json!(true), &json!(2), &json!(2)));
    // Promise P3: the answer means they serve it, with no further wait.
    assert!(runtimes.iter().all(|runtime| runtime.serves("x") == Some(2)));
    let undeployed = api("x", "/x") + "  deploymentState: undeployed\n";
    assert_eq!(gateway.put("/rest-apis/x?wait=live&timeout=20s", undeployed).await.status, 200);
    assert!(runtimes.iter().all(|runtime| runtime.serves("x").is_none()));
    let deleted = gateway.request(reqwest::Method::DELETE, "/rest-apis/before?wait=live&timeout=20s");
    assert_eq!(crate::harness::send(deleted).await.status, 200);
    assert!(runtimes.iter().all(|runtime| runtime.serves("before").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn stragglers_are_named_with_their_reason() {
    let gateway = Gateway::start().await;
    let (quick, slow) =
        (Runtime::connect(&gateway, ID, "quick", "a"), Runtime::connect(&gateway, ID, "slow", "b"));
    connected(&gateway, 2).await;
    slow.stuck.store(true, Ordering::SeqCst);

    let answer = gateway.post("/rest-apis?wait=live&timeout=200ms", api("x", "/x")).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let live = answer.json()["status"]["live"].clone();
    assert_eq!(live["live"], false);
    let straggler = &live["stragglers"][0];
    assert_eq!(
        (&straggler["runtime"], &straggler["reason"], &straggler["zone"]),
        (&json!("slow"), &json!("behind"), &json!("b"))
    );
    assert_eq!(live["stragglers"].as_array().map(Vec::len), Some(1));

    let in_zone = gateway.put("/rest-apis/x?wait=live&timeout=20s&scope=zone:a", api("x", "/x2")).await;
    assert_eq!(in_zone.status, 200, "the zone does not wait for another: {in_zone:?}");
    assert_eq!(quick.serves("x"), Some(2));
    slow.release();
    eventually("the slow one catches up", || async { slow.serves("x") == Some(2) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_artifact_is_told_at_once_and_its_siblings_apply() {
    let gateway = Gateway::start().await;
    let runtime = Runtime::connect(&gateway, ID, "r1", "a");
    connected(&gateway, 1).await;
    *runtime.refuse.lock().expect("not poisoned") = Some("rest-apis/bad".parse().expect("well-formed"));
    let started = Instant::now();
    let bundle = format!("{}---\n{}", api("bad", "/bad"), api("good", "/good"));
    let answer = gateway.post("/apply?wait=live&timeout=15s", bundle).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert!(started.elapsed() < Duration::from_secs(10), "nobody is left to wait for");
    let straggler = answer.json()["live"]["stragglers"][0].clone();
    assert_eq!((&straggler["reason"], &straggler["detail"]), (&json!("rejected"), &json!("not to my taste")));
    assert_eq!((runtime.serves("good"), runtime.serves("bad")), (Some(2), None));
    let cluster = gateway.get("/cluster").await.json();
    assert_eq!(cluster["runtimes"][0]["rejects"][0]["resource"], "rest-apis/bad");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writes_under_one_correlation_id_are_both_rolled_out() {
    let gateway = Gateway::start().await;
    let runtime = Runtime::connect(&gateway, ID, "r1", "a");
    connected(&gateway, 1).await;
    for (method, path, revision) in [(Method::POST, "/rest-apis", 1), (Method::PUT, "/rest-apis/x", 2)] {
        let request = gateway.request(method, &format!("{path}?wait=live&timeout=20s"));
        let answer = send(request.header("x-correlation-id", "mine").body(api("x", "/x"))).await;
        assert!(answer.status.is_success(), "{answer:?}");
        assert_eq!((answer.header("x-correlation-id"), answer.revision()), (Some("mine"), revision));
        assert_eq!(runtime.serves("x"), Some(revision));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_left_is_reported_and_not_waited_for() {
    let gateway = Gateway::start().await;
    let runtime = Runtime::connect(&gateway, ID, "r1", "a");
    connected(&gateway, 1).await;
    let report = runtime.tasks.shutdown(Duration::from_secs(5)).await;
    assert!(report.aborted.is_empty(), "{report:?}");
    eventually("it is seen to have left", || async {
        gateway.get("/cluster").await.json()["runtimes"][0]["connected"] == json!(false)
    })
    .await;
    let answer = gateway.post("/rest-apis?wait=live&timeout=15s", api("x", "/x")).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let absent = &answer.json()["status"]["live"]["absent"][0];
    assert_eq!((&absent["runtime"], &absent["reason"]), (&json!("r1"), &json!("disconnected")));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_controllers_over_one_store_are_one_gateway() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let url = format!("sqlite://{}", dir.path().join("shared.db").display());
    // One handle for both: what a database server is to controllers on two machines.
    let store = open(&url, &GatewayId::from(ID), &ferrogate_store::Options::default()).expect("a URL");
    let key = dir.path().join("key.bin");
    std::fs::write(&key, [7; 32]).expect("written");
    let start = |replica: &str, zone: &str| {
        let toml = format!(
            "[controller]\nreplica_id = \"{replica}\"\nzone = \"{zone}\"\nencryption.key_file = {key:?}\n"
        );
        Gateway::with(Setup { toml, store: Some(Arc::clone(&store)), ..Setup::default() })
    };
    let (one, two) = (start("c1", "a").await, start("c2", "b").await);
    let (near, far) = (Runtime::connect(&one, ID, "near", "a"), Runtime::connect(&two, ID, "far", "b"));
    connected(&one, 2).await;
    connected(&two, 2).await;

    let created = one.post("/rest-apis?wait=live&timeout=20s", api("x", "/x")).await;
    assert_eq!(
        (created.status.as_u16(), &created.json()["status"]["live"]["runtimes"]),
        (201, &json!(2)),
        "{created:?}"
    );
    assert_eq!((near.serves("x"), far.serves("x")), (Some(1), Some(1)), "those of the other controller too");
    let replaced = two.put("/rest-apis/x?wait=live&timeout=20s", api("x", "/y")).await;
    assert_eq!(replaced.status, 200, "{replaced:?}");
    assert_eq!(near.position(), far.position());
    let snapshots = [&one, &two].map(|gateway| gateway.controller.replica.current().expect("loaded").bytes());
    assert_eq!(snapshots[0], snapshots[1], "promise P6");
    let cluster = one.get("/cluster").await.json();
    let ids: Vec<&Value> =
        cluster["controllers"].as_array().expect("a list").iter().map(|one| &one["id"]).collect();
    assert_eq!(ids, ["c1", "c2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_runtime_cannot_run_is_withheld_and_the_cluster_says_so() {
    let gateway = Gateway::start().await;
    gateway.create("x", "/x").await;
    let older = Runtime::connect_with(&gateway, ID, "older", "a", Capabilities::default());
    let newer = Runtime::connect(&gateway, ID, "newer", "b");
    connected(&gateway, 2).await;
    assert_eq!((newer.serves("x"), older.serves("x")), (Some(1), None));
    let cluster = gateway.get("/cluster").await.json();
    let views = cluster["runtimes"].as_array().cloned().unwrap_or_default();
    let of = |id: &str| views.iter().find(|view| view["id"] == id).cloned().unwrap_or_default();
    let reject = &of("older")["rejects"][0];
    assert_eq!(reject["resource"], "rest-apis/x");
    assert_eq!(reject["reason"], "withheld: the runtime does not state 'rest-api/v1'");
    assert_eq!(of("newer")["rejects"], json!([]));
    // Nor is it called live, and the answer names who does not serve it and why.
    let answer = gateway.put("/rest-apis/x?wait=live&timeout=15s", api("x", "/x2")).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let straggler = answer.json()["status"]["live"]["stragglers"][0].clone();
    assert_eq!((&straggler["runtime"], &straggler["reason"]), (&json!("older"), &json!("rejected")));
}
