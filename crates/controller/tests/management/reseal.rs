// SPDX-License-Identifier: Apache-2.0
//! Changing keys: what was sealed under the old one is sealed anew while the controller
//! serves, in steps that may be broken off, until nothing needs the old one.

use std::path::Path;
use std::time::Duration;

use ferrogate_controller::config::Config;
use ferrogate_controller::seal::files;
use ferrogate_controller::seal::reseal::{Report, ResealError, reseal, run};
use ferrogate_model::{GatewayId, Revision};
use ferrogate_store::{Options, Store, open};
use serde_json::json;

use crate::harness::{Gateway, Setup, api, config, eventually};

/// More than one step's worth.
const APIS: usize = 80;

fn toml(dir: &Path, keys: &[&str]) -> String {
    let keys = keys.iter().map(|version| {
        let file = dir.join(format!("{version}.bin"));
        format!("{{ version = \"{version}\", file = {file:?} }}")
    });
    format!(
        "controller.storage.sqlite.path = {:?}\n[[controller.encryption.providers]]\n\
         type = \"aesgcm\"\nkeys = [{}]\n",
        dir.join("sealed.db"),
        keys.collect::<Vec<_>>().join(", ")
    )
}

async fn start(dir: &Path, keys: &[&str]) -> Gateway {
    Gateway::with(Setup { toml: toml(dir, keys), ..Setup::default() }).await
}

fn secret(value: &str) -> String {
    json!({"kind": "Secret", "metadata": {"name": "db"}, "spec": {"displayName": "db", "value": value}})
        .to_string()
}

fn store(config: &Config) -> std::sync::Arc<dyn Store> {
    let gateway = GatewayId::from(config.gateway_id.as_str());
    open(config.database_url.expose(), &gateway, &Options::default()).expect("a URL")
}

/// Seals anew with these keys, once the controller has told which ones it has.
async fn resealed(dir: &Path, keys: &[&str]) -> Report {
    let config = config(dir, &toml(dir, keys));
    let report = std::cell::RefCell::new(None);
    eventually("sealed anew", || async {
        *report.borrow_mut() = run(&config, |_| {}).await.ok();
        report.borrow().is_some()
    })
    .await;
    report.into_inner().expect("asserted")
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_comes_under_the_new_key_while_the_controller_serves() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let dir = dir.path();
    std::fs::write(dir.join("old.bin"), [1; 32]).expect("written");
    std::fs::write(dir.join("new.bin"), [2; 32]).expect("written");
    let gateway = start(dir, &["old"]).await;
    assert_eq!(gateway.post("/secrets", secret("first")).await.status, 201);
    assert_eq!(gateway.put("/secrets/db", secret("second")).await.status, 200);
    let apis: Vec<String> = (0..APIS).map(|n| api(&format!("a{n}"), &format!("/a{n}"))).collect();
    assert_eq!(gateway.post("/apply", apis.join("\n---\n")).await.status, 200);
    let too_early = config(dir, &toml(dir, &["new", "old"]));
    eventually("refused while a controller seals under the old key", || async {
        match run(&too_early, |_| {}).await {
            Err(ResealError::Controllers { version, controllers }) => {
                version == "new" && controllers == ["controller controller-1 seals under 'old'"]
            }
            _ => false,
        }
    })
    .await;
    drop(gateway.controller.shutdown(Duration::from_secs(5)).await);

    let gateway = start(dir, &["new", "old"]).await;
    // Whoever forgets the old key is told what it leaves.
    let forgotten = resealed(dir, &["new"]).await;
    let shut = forgotten.shut.get("old").expect("sealed under it");
    assert_eq!((forgotten.resealed, shut.count), (0, APIS as u64 + 2), "{forgotten:?}");
    assert_eq!((shut.first.0.to_string().as_str(), shut.first.1), ("secrets/db", Revision(1)));

    // Broken off after the first step.
    let both = config(dir, &toml(dir, &["new", "old"]));
    let ring = files::load(&both.encryption, dir, false).expect("readable").expect("keys");
    let (inner, id) = (store(&both), GatewayId::from(both.gateway_id.as_str()));
    let first = tokio::sync::Notify::new();
    tokio::select! {
        biased;
        () = first.notified() => {}
        done = reseal(inner.as_ref(), &ring, &id, |_| first.notify_one()) => panic!("not broken off: {done:?}"),
    }
    assert_eq!(gateway.create("meanwhile", "/meanwhile").await, APIS as u64 + 3);
    let done = resealed(dir, &["new", "old"]).await;
    assert!(done.resealed > 0 && done.resealed < APIS as u64 + 2, "what was done stays done: {done:?}");
    assert_eq!((done.version.as_str(), done.idle, done.shut.len()), ("new", vec!["old".to_owned()], 0));
    assert_eq!(resealed(dir, &["new", "old"]).await.resealed, 0, "nothing twice");
    let texts = inner.payloads(Revision::ZERO, 1000, "sealed:1:new:").await.expect("readable");
    assert_eq!(texts.len(), APIS + 3);
    assert!(texts.iter().all(|one| one.text.is_none()), "{:?}", texts.iter().find(|one| one.text.is_some()));
    assert_eq!(gateway.get("/secrets/db").await.json()["spec"]["value"], "second");
    drop(gateway.controller.shutdown(Duration::from_secs(5)).await);

    let gateway = start(dir, &["new"]).await;
    assert_eq!(gateway.get("/secrets/db").await.json()["spec"]["value"], "second");
    assert_eq!(gateway.get("/rest-apis").await.json()["count"], APIS + 1);
    // The past too.
    assert_eq!(gateway.post("/secrets/db/rollback", "{\"revision\": 1}").await.status, 200);
    assert_eq!(gateway.get("/secrets/db").await.json()["spec"]["value"], "first");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_clear_is_sealed_too() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let dir = dir.path();
    std::fs::write(dir.join("new.bin"), [2; 32]).expect("written");
    let settings = config(dir, &toml(dir, &["new"]));
    // As a gateway without keys stores it.
    let inner = store(&settings);
    let empty = run(&settings, |_| {}).await;
    assert!(matches!(empty, Err(ResealError::Nothing(_))), "another gateway's name: {empty:?}");
    let write = ferrogate_store::Write::Put {
        source: "{}".to_owned(),
        payload: Some("{\"in\": \"the clear\"}".to_owned()),
        uuid: uuid::Uuid::from_u128(1),
        claims: Vec::new(),
        references: Vec::new(),
    };
    let name = "rest-apis/a".parse().expect("a name");
    let writes = vec![ferrogate_store::Commit { name, guard: ferrogate_store::Guard::Any, write }];
    let batch = ferrogate_store::Batch {
        id: uuid::Uuid::from_u128(2),
        author: "test".to_owned(),
        at: 0,
        writes,
        expects: Vec::new(),
    };
    inner.commit(batch).await.expect("committed");
    let report = run(&settings, |_| {}).await.expect("no controller is there to object");
    assert_eq!((report.resealed, report.idle, report.shut.len()), (1, Vec::new(), 0));
    let state = inner.load().await.expect("readable");
    let payload = state.artifacts[0].payload.as_deref().unwrap_or_default();
    assert!(payload.starts_with("sealed:1:new:"), "{payload}");
}
