// SPDX-License-Identifier: Apache-2.0
//! The store fails: memory answers reads and says so, writes are refused or their
//! outcome resolved, nothing is guessed, and nothing needs a restart.

use std::sync::Arc;

use ferrogate_controller::replicate::StoreState;
use ferrogate_store::Store;
use reqwest::Method;
use serde_json::json;

use crate::fault::{Faulty, Mode};
use crate::harness::{Gateway, Setup, api, eventually, send};

async fn gateway() -> (Gateway, Arc<Faulty>, tempfile::TempDir) {
    gateway_over(Mode::Sound).await
}

/// Started while the store is like this.
async fn gateway_over(mode: Mode) -> (Gateway, Arc<Faulty>, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Faulty::over(dir.path());
    store.set(mode);
    let not_ready = mode != Mode::Sound;
    let setup = Setup { store: Some(Arc::clone(&store) as Arc<dyn Store>), not_ready, ..Setup::default() };
    (Gateway::with(setup).await, store, dir)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_cannot_be_read_is_not_an_empty_one() {
    let (gateway, store, _dir) = gateway().await;
    gateway.create("x", "/x").await;
    let listed = gateway.get("/revisions").await;
    assert_eq!((listed.status.as_u16(), listed.json()["revisions"].as_array().map(Vec::len)), (200, Some(1)));
    store.set(Mode::CutLog);
    let cut = gateway.get("/revisions").await;
    assert_eq!((cut.status.as_u16(), cut.header("retry-after")), (503, Some("1")), "{cut:?}");
    store.set(Mode::Sound);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_answers_reads_and_writes_are_told_to_come_back() {
    let (gateway, store, _dir) = gateway().await;
    gateway.create("x", "/x").await;
    store.set(Mode::Down);
    eventually("the outage is noticed", || async {
        matches!(gateway.controller.replica.store_state(), StoreState::Unavailable { .. })
    })
    .await;
    let read = gateway.get("/rest-apis/x").await;
    assert_eq!((read.status.as_u16(), read.header("x-ferrogate-stale")), (200, Some("true")));
    assert_eq!(read.header("x-ferrogate-revision"), Some("1"));
    assert!(read.header("warning").is_some_and(|warning| warning.starts_with("110 ")));
    assert_eq!(gateway.get("/rest-apis").await.json()["count"], 1);
    let bare = gateway.http.get(gateway.url("/rest-apis/x")).basic_auth("admin", Some("correct horse"));
    let warnings = send(bare).await.headers.get_all("warning").iter().count();
    assert_eq!(warnings, 2, "being deprecated does not hide being stale");
    let absent = gateway.get("/rest-apis/none").await;
    assert_eq!(absent.status, 404, "memory knows what does not exist");
    for (method, path, body) in [
        (Method::POST, "/rest-apis", api("y", "/y")),
        (Method::PUT, "/rest-apis/x", api("x", "/z")),
        (Method::DELETE, "/rest-apis/x", String::new()),
        (Method::GET, "/rest-apis/x/revisions", String::new()),
    ] {
        let answer = send(gateway.request(method.clone(), path).body(body)).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("retry-after")),
            (503, Some("1")),
            "{method} {path}"
        );
        assert!(!answer.text.contains("told to be"), "the cause is for the log");
    }
    let cluster = gateway.get("/cluster").await.json();
    assert_eq!((&cluster["complete"], &cluster["store"]), (&json!(false), &json!("unavailable")));
    let health = send(gateway.http.get(gateway.admin_url("/health"))).await.json();
    assert_eq!((&health["status"], &health["store"]), (&json!("healthy"), &json!("unavailable")));

    store.set(Mode::Sound);
    eventually("recovered without a restart", || async {
        gateway.post("/rest-apis", api("y", "/y")).await.status == 201
    })
    .await;
    eventually("and reads are fresh again", || async {
        gateway.get("/rest-apis").await.header("x-ferrogate-stale").is_none()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_wrote_while_reads_failed_is_served_afterwards() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (store, key) = (Faulty::over(dir.path()), dir.path().join("key.bin"));
    std::fs::write(&key, [7; 32]).expect("written");
    let start = |replica: &str, store: Arc<dyn Store>| {
        let toml = format!("[controller]\nreplica_id = \"{replica}\"\nencryption.key_file = {key:?}\n");
        Gateway::with(Setup { toml, store: Some(store), ..Setup::default() })
    };
    let cut_off = start("c1", Arc::clone(&store) as Arc<dyn Store>).await;
    let other = start("c2", store.elsewhere()).await;
    store.set(Mode::Down);
    eventually("the outage is noticed", || async {
        matches!(cut_off.controller.replica.store_state(), StoreState::Unavailable { .. })
    })
    .await;
    // Its notice falls into the outage, and no later write brings another.
    assert_eq!(other.create("x", "/x").await, 1);
    store.set(Mode::Sound);
    eventually("the change has arrived", || async { cut_off.get("/rest-apis/x").await.status == 200 }).await;
    let snapshots =
        [&cut_off, &other].map(|gateway| gateway.controller.replica.current().expect("loaded").bytes());
    assert_eq!(snapshots[0], snapshots[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_down_at_start_is_waited_for() {
    let (gateway, store, _dir) = gateway_over(Mode::Down).await;
    let health = send(gateway.http.get(gateway.admin_url("/health"))).await;
    assert_eq!((health.status.as_u16(), &health.json()["ready"]), (200, &json!(false)));
    let ready = send(gateway.http.get(gateway.admin_url("/ready"))).await;
    assert!(ready.status == 503 && ready.text.contains("nothing has been read"), "{ready:?}");
    let read = gateway.get("/rest-apis").await;
    assert_eq!((read.status.as_u16(), read.header("retry-after")), (503, Some("1")));
    store.set(Mode::Sound);
    eventually("ready", || async { gateway.controller.readiness.is_ready() }).await;
    assert_eq!(send(gateway.http.get(gateway.admin_url("/ready"))).await.status, 200);
    gateway.create("x", "/x").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_older_than_its_database_is_never_ready_and_writes_nothing() {
    let (gateway, store, _dir) = gateway_over(Mode::Newer).await;
    eventually("it says why", || async {
        let state = gateway.controller.replica.store_state();
        matches!(state, StoreState::Unavailable { reason } if reason.contains("a newer ferrogate"))
    })
    .await;
    assert_eq!(send(gateway.http.get(gateway.admin_url("/ready"))).await.status, 503);
    let refused = gateway.post("/rest-apis", api("x", "/x")).await;
    assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (503, Some("1")));
    let head = store.elsewhere().head().await.expect("it answers others");
    assert_eq!(head.position.revision.0, 0, "nothing was written");
    assert!(!gateway.controller.readiness.is_ready());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_resolved_and_never_guessed() {
    let (gateway, store, _dir) = gateway().await;
    store.set(Mode::LoseAnswers);
    assert_eq!(gateway.create("there", "/there").await, 1, "it was committed, and that was found out");

    store.set(Mode::LoseCommits);
    let refused = gateway.post("/rest-apis", api("gone", "/gone")).await;
    assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (503, Some("1")));
    assert!(refused.told().1.contains("nothing was changed"), "{refused:?}");

    store.set(Mode::LoseAnswersAndHide);
    let key = uuid::Uuid::new_v4().to_string();
    let write = || {
        let request = gateway.request(Method::POST, "/rest-apis").header("idempotency-key", key.clone());
        send(request.body(api("unknown", "/unknown")))
    };
    let unknown = write().await;
    assert_eq!((unknown.status.as_u16(), &unknown.json()["batch"]), (503, &json!(key)), "{unknown:?}");
    store.set(Mode::Sound);
    let batch = gateway.get(&format!("/batches/{key}")).await.json();
    assert_eq!((&batch["outcome"], &batch["first"]), (&json!("committed"), &json!(2)));
    let again = write().await;
    assert_eq!((again.status.as_u16(), again.revision()), (201, 2), "the retry applied nothing twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_a_failover_lost_is_not_taken_for_another_request() {
    let (gateway, store, _dir) = gateway().await;
    gateway.create("before", "/before").await;
    let key = uuid::Uuid::new_v4().to_string();
    let write = || {
        let request = gateway.request(Method::POST, "/rest-apis").header("idempotency-key", key.clone());
        send(request.body(api("lost", "/lost")))
    };
    store.set(Mode::LoseInFailover);
    let lost = write().await;
    assert_eq!((lost.status.as_u16(), lost.header("retry-after")), (503, Some("1")), "{lost:?}");

    store.set(Mode::FailOver);
    let survived = write().await;
    assert_eq!((survived.status.as_u16(), survived.revision()), (201, 2), "{survived:?}");
    store.set(Mode::Sound);
    let again = write().await;
    assert_eq!((again.status.as_u16(), again.revision()), (201, 2), "the retry applied nothing twice");
}
