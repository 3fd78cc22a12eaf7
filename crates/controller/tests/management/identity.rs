// SPDX-License-Identifier: Apache-2.0
//! The annotation that pins an artifact's id (contract 2.2).

use serde_json::{Value, json};

use crate::harness::{Gateway, api};

const ID: &str = "0b7f4c52-6f0e-4f4c-9d5c-6a9d0a3f5a11";

fn pinned(name: &str, context: &str, id: &str) -> String {
    let annotated = format!(
        "metadata:\n  name: {name}\n  annotations:\n    gateway.api-platform.wso2.com/artifact-id: {id}\nspec:"
    );
    api(name, context).replace(&format!("metadata:\n  name: {name}\nspec:"), &annotated)
}

async fn names(gateway: &Gateway) -> Vec<Value> {
    let list = gateway.get("/rest-apis").await.json();
    let apis = list["apis"].as_array().cloned().unwrap_or_default();
    apis.iter().map(|api| api["metadata"]["name"].clone()).collect()
}

fn id_of(gateway: &Gateway, name: &str) -> String {
    let snapshot = gateway.controller.replica.current().expect("ready");
    snapshot.get(&name.parse().expect("a name")).expect("stored").stored.uuid.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn creating_an_artifact_by_its_id_replaces_it() {
    let gateway = Gateway::start().await;
    assert_eq!(gateway.post("/rest-apis", pinned("x", "/x", ID)).await.status, 201);
    assert_eq!(id_of(&gateway, "rest-apis/x"), ID);
    let dry = gateway.post("/rest-apis?dryRun=true", pinned("x", "/y", ID)).await;
    assert_eq!(dry.status, 200, "{dry:?}");
    let again = gateway.post("/rest-apis", pinned("x", "/y", ID)).await;
    assert_eq!((again.status.as_u16(), again.revision()), (201, 2), "{again:?}");
    assert_eq!(gateway.get("/rest-apis/x").await.json()["spec"]["context"], "/y");

    // The same id under another name is the same artifact.
    let renamed = gateway.post("/rest-apis", pinned("z", "/y", ID)).await;
    assert_eq!((renamed.status.as_u16(), renamed.header("etag")), (201, Some("\"3\"")), "{renamed:?}");
    assert_eq!((names(&gateway).await, id_of(&gateway, "rest-apis/z")), (vec![json!("z")], ID.to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_two_artifacts_share_an_id() {
    let gateway = Gateway::start().await;
    gateway.create("x", "/x").await;
    let taken = id_of(&gateway, "rest-apis/x");
    gateway.create("y", "/y").await;
    for (path, body) in [("/rest-apis", pinned("y", "/y", &taken)), ("/apply", pinned("n", "/n", &taken))] {
        let refused = gateway.post(path, body).await;
        assert_eq!(refused.status, 409, "{path}: {refused:?}");
    }
    let other = gateway.put("/rest-apis/y", pinned("y", "/y", &taken)).await;
    assert_eq!(other.status, 200, "{other:?}");
    assert_ne!(id_of(&gateway, "rest-apis/y"), taken, "an artifact keeps the id it has");
}
