// SPDX-License-Identifier: Apache-2.0
//! Revisions, rollbacks, and many documents at once.

use std::sync::Arc;

use ferrogate_controller::retention;
use ferrogate_model::GatewayId;
use ferrogate_store::{Options, open};
use serde_json::{Value, json};

use crate::harness::{Answer, Gateway, Setup, api};

fn revisions(answer: &Answer) -> Vec<(u64, String)> {
    let body = answer.json();
    assert!(body["revisions"].is_array(), "{body}");
    let list = body["revisions"].as_array().cloned().unwrap_or_default();
    list.iter()
        .map(|one| {
            (
                one["revision"].as_u64().unwrap_or_default(),
                one["action"].as_str().unwrap_or_default().to_owned(),
            )
        })
        .collect()
}

fn put(revision: u64) -> (u64, String) {
    (revision, "put".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn any_past_revision_can_be_read_and_returned_to() {
    let gateway = Gateway::start().await;
    gateway.create("x", "/one").await;
    assert_eq!(gateway.put("/rest-apis/x", api("x", "/two")).await.revision(), 2);
    assert_eq!(gateway.delete("/rest-apis/x").await.revision(), 3);

    let history = gateway.get("/rest-apis/x/revisions").await;
    assert_eq!(revisions(&history), [(3, "deleted".to_owned()), put(2), put(1)]);
    assert_eq!(history.json()["revisions"][0]["author"], "admin");
    assert_eq!(revisions(&gateway.get("/rest-apis/x/revisions?limit=1&before=3").await), [put(2)]);
    let beyond = gateway.get("/rest-apis/x/revisions?before=1").await;
    assert_eq!((beyond.status.as_u16(), revisions(&beyond)), (200, Vec::new()), "after the last page");
    let was = gateway.get("/rest-apis/x/revisions/1").await;
    assert_eq!((was.status.as_u16(), &was.json()["spec"]["context"]), (200, &json!("/one")));
    for (path, status) in [
        ("/rest-apis/x/revisions/3", 404),
        ("/rest-apis/x/revisions/99", 404),
        ("/rest-apis/x/revisions/one", 400),
        ("/rest-apis/none/revisions", 404),
        ("/rest-apis/none/revisions?before=9", 404),
    ] {
        assert_eq!(gateway.get(path).await.status.as_u16(), status, "{path}");
    }

    let back = gateway.post("/rest-apis/x/rollback", "{\"revision\": 1}").await;
    assert_eq!((back.status.as_u16(), back.revision()), (200, 4), "{back:?}");
    assert_eq!(gateway.get("/rest-apis/x").await.json()["spec"]["context"], "/one");
    assert_eq!(gateway.post("/rest-apis/x/rollback", "{\"revision\": 3}").await.status, 404);
    for (body, said) in [
        ("{\"to\": 3}", "failed to parse rollback request: unknown field 'to': it must be a map with"),
        ("", "failed to parse rollback request: the body is empty, and it must be a map with"),
        ("{}", "failed to parse rollback request: it must be a map with"),
        ("[3]", "failed to parse rollback request: it must be a map with"),
    ] {
        let (status, message) = gateway.post("/rest-apis/x/rollback", body).await.told();
        assert!(status == 400 && message.starts_with(said), "{body}: {message}");
    }
    for limit in ["many", "", "-1", "0", "1001"] {
        let (status, message) = gateway.get(&format!("/revisions?limit={limit}")).await.told();
        let said = "query parameter 'limit' must be a whole number from 1 to 1000";
        assert_eq!((status, message.as_str()), (400, said), "{limit}");
    }
    let twice = gateway.get("/rest-apis/x/revisions?limit=1&limit=2").await.told();
    assert_eq!(twice, (400, "query parameter 'limit' stands twice: give it once".to_owned()));
    assert_eq!(revisions(&gateway.get("/revisions?limit=2").await), [put(4), (3, "deleted".to_owned())]);
    assert_eq!(revisions(&gateway.get("/revisions?before=3").await), [put(2), put(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_cannot_take_what_another_has_by_now() {
    let gateway = Gateway::start().await;
    gateway.create("x", "/one").await;
    assert_eq!(gateway.put("/rest-apis/x", api("x", "/two")).await.status, 200);
    gateway.create("y", "/one").await;
    let refused = gateway.post("/rest-apis/x/rollback", "{\"revision\": 1}").await.told();
    assert!(refused.0 == 409 && refused.1.contains("'y'"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_gateway_goes_back_in_one_batch() {
    let gateway = Gateway::start().await;
    gateway.create("kept", "/kept").await;
    gateway.create("changed", "/old").await;
    gateway.create("removed", "/removed").await;
    assert_eq!(gateway.put("/rest-apis/changed", api("changed", "/new")).await.status, 200);
    assert_eq!(gateway.delete("/rest-apis/removed").await.status, 200);
    // It takes the context that the rollback needs for another artifact.
    gateway.create("added", "/old").await;

    let preview = gateway.post("/rollback?dryRun", "{\"revision\": 3}").await;
    assert_eq!(preview.header("x-revision"), None);
    let preview = preview.json();
    assert_eq!((&preview["dryRun"], &preview["revision"]), (&json!(true), &json!(6)));
    let back = gateway.post("/rollback", "revision: 3\n").await;
    let body = back.json();
    assert_eq!((back.status.as_u16(), back.revision()), (200, 9), "{body}");
    assert_eq!(body["restored"], json!(["rest-apis/changed", "rest-apis/removed"]));
    assert_eq!(body["deleted"], json!(["rest-apis/added"]));
    let list = gateway.get("/rest-apis").await.json();
    let contexts: Vec<&Value> =
        list["apis"].as_array().expect("a list").iter().map(|api| &api["spec"]["context"]).collect();
    assert_eq!(contexts, ["/old", "/kept", "/removed"]);
    // Nothing left to do: no revision is spent.
    assert_eq!(gateway.post("/rollback", "{\"revision\": 3}").await.revision(), 9);
    assert_eq!(gateway.post("/rollback", "{\"revision\": 99}").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_revisions_are_dropped_and_current_artifacts_stay() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let url = format!("sqlite://{}", dir.path().join("gateway.db").display());
    let store = open(&url, &GatewayId::from("g"), &Options::default()).expect("a URL");
    let gateway = Gateway::with(Setup { store: Some(Arc::clone(&store)), ..Setup::default() }).await;
    gateway.create("early", "/early").await;
    gateway.create("x", "/x").await;
    for revision in 3..=12 {
        assert_eq!(gateway.put("/rest-apis/x", api("x", &format!("/{revision}"))).await.revision(), revision);
    }
    assert_eq!(retention::once(store.as_ref(), 11).await.expect("sound"), 0, "not enough has gathered");
    assert!(retention::once(store.as_ref(), 5).await.expect("sound") > 0);
    assert_eq!(gateway.get("/rest-apis/x/revisions/3").await.status, 404);
    assert_eq!(gateway.get("/rest-apis/x/revisions/9").await.status, 200);
    assert_eq!(gateway.get("/rest-apis").await.json()["count"], 2);
    assert_eq!(store.load().await.expect("sound").artifacts.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_documents_are_one_transaction() {
    let gateway = Gateway::start().await;
    gateway.create("a", "/a").await;
    let bundle = |last: String| format!("{}---\n{}---\n{last}", api("a", "/a2"), api("b", "/b"));
    let refused = gateway.post("/apply", bundle(api("c", "no-slash"))).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["errors"][0]["field"]),
        (400, &json!("document 3 (c): spec.context"))
    );
    // A claim inside the bundle against another of it.
    assert_eq!(gateway.post("/apply", bundle(api("c", "/b"))).await.status, 409);
    let twice = gateway.post("/apply", bundle(api("a", "/c"))).await;
    assert!(twice.status == 400 && twice.text.contains("twice"), "{twice:?}");
    assert_eq!(gateway.controller.replica.position().revision.0, 1, "nothing of it was stored");

    // `c` takes the context that `a` gives up in the same batch.
    let applied = gateway.post("/apply", bundle(api("c", "/a"))).await;
    let body = applied.json();
    assert_eq!(
        (applied.status.as_u16(), applied.revision(), &body["revision"]),
        (200, 4, &json!(4)),
        "{body}"
    );
    let results: Vec<(&str, &str, u64)> = body["results"]
        .as_array()
        .expect("results")
        .iter()
        .map(|one| {
            let text = |key: &str| one[key].as_str().unwrap_or_default();
            (text("name"), text("action"), one["status"]["revision"].as_u64().unwrap_or_default())
        })
        .collect();
    assert_eq!(results, [("a", "replaced", 2), ("b", "created", 3), ("c", "created", 4)]);
    let history = gateway.get("/revisions").await.json();
    assert_eq!(history["revisions"][2]["batchEnd"], 4);

    let list = serde_json::json!([gateway.get("/rest-apis/b").await.json()]).to_string();
    assert_eq!(gateway.post("/apply", list).await.status, 200, "a JSON list does as well");
    assert_eq!(gateway.post("/apply", "").await.status, 400);
}
