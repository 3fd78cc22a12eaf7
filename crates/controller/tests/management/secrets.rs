// SPDX-License-Identifier: Apache-2.0
//! Secrets: the endpoints of contract 2.7, what templates make of them, and that their
//! values are nowhere to be read but where they are asked for.

use std::sync::Arc;

use ferrogate_model::{GatewayId, ResourceName, Revision};
use ferrogate_store::{Batch, Commit, Guard, Options, Store, Write, open};
use ferrogate_xds::Catalog as _;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Gateway, Setup, api, api_with, eventually, send};

const VALUE: &str = "hunter2-hunter2-hunter2";

fn secret(name: &str, value: &str) -> String {
    format!(
        "apiVersion: gateway.api-platform.wso2.com/v1\nkind: Secret\nmetadata:\n  name: {name}\nspec:\n  \
         displayName: {name}\n  description: for tests\n  value: {value}\n"
    )
}

/// An API whose policy sends the secret `db` upstream.
fn using(name: &str, context: &str) -> String {
    let policy = "  policies:\n    - name: set-headers\n      version: v1\n      params:\n        request:\n          \
                  headers:\n            - name: x-db\n              value: '{{ secret \"db\" | trim }}'\n";
    api_with(name, context, policy)
}

/// What the runtimes are sent of an artifact.
fn payload(gateway: &Gateway, name: &str) -> String {
    let snapshot = gateway.controller.replica.current().expect("ready");
    let name: ResourceName = name.parse().expect("a name");
    let entry = snapshot.get(&name).expect("stored");
    entry.stored.payload.clone().expect("deployed")
}

/// Every byte the database keeps.
fn database(gateway: &Gateway) -> Vec<u8> {
    let files = std::fs::read_dir(gateway.dir.path()).expect("a directory");
    let files = files.map(|file| file.expect("readable").path());
    let of_the_database = files.filter(|path| path.to_string_lossy().contains("gateway.db"));
    of_the_database.flat_map(|path| std::fs::read(path).expect("readable")).collect()
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_has_the_contract_s_endpoints() {
    let gateway = Gateway::start().await;
    let created = gateway.post("/secrets", secret("db", VALUE)).await;
    assert_eq!((created.status.as_u16(), created.revision()), (201, 1), "{created:?}");
    let body = created.json();
    assert_eq!((&body["spec"]["value"], &body["spec"]["displayName"]), (&Value::Null, &json!("db")));
    let status: Vec<&String> = body["status"].as_object().expect("a map").keys().collect();
    assert_eq!(status, ["createdAt", "id", "updatedAt"]);
    assert_eq!(gateway.post("/secrets", secret("second", "x")).await.status, 201);

    let read = gateway.get("/secrets/db").await;
    assert_eq!((read.status.as_u16(), &read.json()["spec"]["value"]), (200, &json!(VALUE)));
    assert_eq!(read.header("etag"), Some("\"1\""));
    let list = gateway.get("/secrets").await.json();
    let of = |field: &str| {
        let items = list["secrets"].as_array().cloned().unwrap_or_default();
        items.iter().map(|one| one.pointer(field).cloned().unwrap_or_default()).collect::<Vec<_>>()
    };
    assert_eq!((list["count"].as_u64(), of("/metadata/name")), (Some(2), vec![json!("second"), json!("db")]));
    assert_eq!(of("/spec"), [json!({"displayName": "second"}), json!({"displayName": "db"})]);

    let replaced = gateway.put("/secrets/db", secret("db", "other")).await;
    assert_eq!((replaced.status.as_u16(), replaced.revision()), (200, 3), "{replaced:?}");
    assert_eq!(gateway.get("/secrets/db").await.json()["spec"]["value"], "other");
    let stale = gateway.request(Method::PUT, "/secrets/db").header("if-match", "\"1\"");
    assert_eq!(send(stale.body(secret("db", "x"))).await.status, 412);
    let gone = gateway.delete("/secrets/second").await;
    assert_eq!((gone.status.as_u16(), gone.text.as_str()), (200, ""));
    assert_eq!(gateway.get("/rest-apis").await.json()["count"], 0, "a secret is no API");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_the_contract_s_words() {
    let gateway = Gateway::start().await;
    assert_eq!(gateway.post("/secrets", secret("db", VALUE)).await.status, 201);
    let long = "x".repeat(256);
    for (method, path, body, status, part) in [
        (
            Method::POST,
            "/secrets",
            secret("db", "x"),
            409,
            "storage failed: configuration already exists: secret with id 'db' already exists",
        ),
        (
            Method::POST,
            "/secrets",
            secret("big", &"x".repeat(11 * 1024)),
            400,
            "Request body too large or unreadable",
        ),
        (
            Method::POST,
            "/secrets",
            "kind: Secret\nmetadata: {name: a}\nspec: {displayName: ''}".to_owned(),
            400,
            "configuration validation failed with 2 error(s): 1. spec.displayName: ",
        ),
        (Method::POST, "/secrets", api("a", "/a"), 400, "kind: Unsupported kind (must be 'Secret')"),
        (Method::POST, "/rest-apis", secret("a", "x"), 400, "Configuration validation failed"),
        (Method::PUT, "/secrets/db", secret("else", "x"), 400, "handle mismatch"),
        (Method::PUT, "/secrets/none", secret("none", "x"), 404, "secret configuration not found: id=none: "),
        (Method::GET, "/secrets/none", String::new(), 404, "configuration not found: id=none"),
        (Method::DELETE, "/secrets/none", String::new(), 404, "configuration not found: id=none"),
        (Method::GET, &format!("/secrets/{long}"), String::new(), 400, "id must be"),
        (
            Method::POST,
            "/rest-apis",
            using("a", "/a").replace("\"db\"", "\"nowhere\""),
            400,
            "failed to resolve secret \"nowhere\": ",
        ),
    ] {
        let answer = send(gateway.request(method.clone(), path).body(body)).await;
        let (told, message) = answer.told();
        assert!(told == status && message.contains(part), "{method} {path}: {answer:?}");
        assert!(answer.json().get("errors").is_none() || path == "/rest-apis", "{answer:?}");
        assert!(!answer.text.contains(VALUE), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_in_the_payload_and_nowhere_else() {
    let setup = Setup {
        toml: "[controller.admin_server.config_dump]\nenabled = true".to_owned(),
        ..Setup::default()
    };
    let gateway = Gateway::with(setup).await;
    gateway.post("/secrets", secret("db", VALUE)).await;
    assert_eq!(gateway.post("/rest-apis", using("x", "/x")).await.status, 201);
    assert!(payload(&gateway, "rest-apis/x").contains(VALUE), "the runtimes need it");
    for path in [
        "/rest-apis/x",
        "/rest-apis",
        "/secrets",
        "/revisions",
        "/secrets/db/revisions",
        "/secrets/db/revisions/1",
    ] {
        let answer = gateway.get(path).await;
        assert!(answer.status == 200 && !answer.text.contains(VALUE), "{path}: {answer:?}");
    }
    let dump = gateway.http.get(gateway.admin_url("/config_dump")).basic_auth("admin", Some("correct horse"));
    let dump = send(dump).await;
    assert!(dump.status == 200 && dump.text.contains("x-db") && !dump.text.contains(VALUE), "{dump:?}");
    // A fault that quotes what the template stands for.
    let faulty = using("y", "/y").replace("url: http://127.0.0.1:8089", "url: '{{ secret \"db\" }}'");
    let refused = gateway.post("/rest-apis", faulty).await;
    assert!(refused.status == 400 && !refused.text.contains(VALUE), "{refused:?}");

    let stored = database(&gateway);
    assert!(holds(&stored, "x-db") && holds(&stored, "sealed:1:") && !holds(&stored, VALUE));
    // Runtimes are sent the API and do not learn that there is a secret.
    let snapshot = gateway.controller.replica.current().expect("ready");
    let sent: Vec<String> = snapshot.everything().iter().map(|one| one.name.to_string()).collect();
    assert_eq!(sent, ["rest-apis/x"]);
    gateway.delete("/secrets/db").await;
    eventually("the deletion", || async { gateway.controller.replica.position().revision == Revision(3) })
        .await;
    let snapshot = gateway.controller.replica.current().expect("ready");
    let delta = snapshot.changes_since(Revision(2)).expect("known");
    assert!(delta.upserts.is_empty() && delta.removes.is_empty(), "{:?}", delta.removes);
    assert!(payload(&gateway, "rest-apis/x").contains(VALUE), "deleting a secret leaves what it made");
}

#[tokio::test(flavor = "multi_thread")]
async fn writing_a_secret_renders_what_names_it_in_the_same_batch() {
    let gateway = Gateway::start().await;
    gateway.post("/secrets", secret("db", "first")).await;
    gateway.post("/rest-apis", using("x", "/x")).await;
    gateway.create("plain", "/plain").await;
    let dry = gateway.put("/secrets/db?dryRun=true", secret("db", "second")).await.json();
    assert_eq!(dry["status"]["rerendered"], json!(["rest-apis/x"]));
    let replaced = gateway.put("/secrets/db", secret("db", "second")).await;
    assert_eq!(replaced.json()["status"]["rerendered"], json!(["rest-apis/x"]), "{replaced:?}");
    assert_eq!((replaced.revision(), replaced.header("etag")), (5, Some("\"4\"")), "one range");
    assert!(payload(&gateway, "rest-apis/x").contains("second"));
    let history = gateway.get("/revisions?limit=2").await.json();
    let ends: Vec<_> = (0..2).map(|index| history["revisions"][index]["batchEnd"].clone()).collect();
    assert_eq!(ends, [json!(5), json!(5)]);

    // A value that an artifact cannot take is refused, and everything stays as it was.
    let faulty = api_with("z", "/z", "").replace("url: http://127.0.0.1:8089", "url: '{{ secret \"url\" }}'");
    gateway.post("/secrets", secret("url", "http://127.0.0.1:1")).await;
    assert_eq!(gateway.post("/rest-apis", faulty).await.status, 201);
    let refused = gateway.put("/secrets/url", secret("url", "nonsense")).await;
    assert!(
        refused.status == 400 && refused.text.contains("rest-apis/z: spec.upstream.main.url"),
        "{refused:?}"
    );
    assert_eq!(gateway.get("/secrets/url").await.json()["spec"]["value"], "http://127.0.0.1:1");

    // Gone and back again: what still names it is made anew.
    gateway.delete("/secrets/db").await;
    let back = gateway.post("/secrets", secret("db", "third")).await;
    assert_eq!(back.json()["status"]["rerendered"], json!(["rest-apis/x"]), "{back:?}");
    assert!(payload(&gateway, "rest-apis/x").contains("third"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_goes_back_with_what_names_it() {
    let gateway = Gateway::start().await;
    gateway.post("/secrets", secret("db", "first")).await;
    gateway.post("/rest-apis", using("x", "/x")).await;
    gateway.put("/secrets/db", secret("db", "second")).await;
    let back = gateway.post("/secrets/db/rollback", "{\"revision\": 1}").await;
    assert_eq!(back.status, 200, "{back:?}");
    assert_eq!(gateway.get("/secrets/db").await.json()["spec"]["value"], "first");
    assert!(payload(&gateway, "rest-apis/x").contains("first"));
    assert_eq!(gateway.put("/secrets/db", secret("db", "third")).await.status, 200);
    let whole = gateway.post("/rollback", "{\"revision\": 4}").await;
    assert_eq!(whole.json()["restored"], json!(["secrets/db"]), "{whole:?}");
    assert_eq!(gateway.get("/secrets/db").await.json()["spec"]["value"], "second");
    assert!(payload(&gateway, "rest-apis/x").contains("second"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_may_hold_a_secret_and_what_names_it_in_any_order() {
    let users = "[[controller.auth.basic.users]]\nusername = \"admin\"\npassword = \"correct horse\"\nroles = [\"admin\"]\n\
                 [[controller.auth.basic.users]]\nusername = \"dev\"\npassword = \"d\"\nroles = [\"developer\"]";
    let gateway = Gateway::with(Setup { toml: users.to_owned(), ..Setup::default() }).await;
    let bundle = format!("{}\n---\n{}", using("x", "/x"), secret("db", VALUE));
    let by_developer =
        gateway.http.post(gateway.url("/api/management/v1/apply")).basic_auth("dev", Some("d"));
    assert_eq!(send(by_developer.body(bundle.clone())).await.status, 403);
    let path = gateway.http.get(gateway.url("/api/management/v1/secrets")).basic_auth("dev", Some("d"));
    assert_eq!(send(path).await.status, 403);
    let applied = gateway.post("/apply", bundle).await;
    assert_eq!((applied.status.as_u16(), applied.revision()), (200, 2), "{applied:?}");
    assert!(payload(&gateway, "rest-apis/x").contains(VALUE) && !applied.text.contains(VALUE));
    let again = gateway.post("/apply", secret("db", "changed")).await.json();
    assert_eq!(again["rerendered"], json!(["rest-apis/x"]), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_api_is_left_with_an_older_value() {
    let gateway = Gateway::start().await;
    gateway.post("/secrets", secret("db", "v0")).await;
    // APIs come while the secret changes: whoever commits second must have seen the other.
    let secrets = async {
        for round in 1..=8 {
            let put = gateway.put("/secrets/db", secret("db", &format!("v{round}"))).await;
            assert_eq!(put.status, 200, "{put:?}");
        }
    };
    let apis = futures::future::join_all((0..8).map(|index| {
        let gateway = &gateway;
        async move {
            let post = gateway.post("/rest-apis", using(&format!("a{index}"), &format!("/a{index}"))).await;
            assert_eq!(post.status, 201, "{post:?}");
        }
    }));
    futures::join!(secrets, apis);
    for index in 0..8 {
        let payload = payload(&gateway, &format!("rest-apis/a{index}"));
        assert!(payload.contains("\"v8\""), "a{index}: {payload}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_without_the_key_says_so_and_writes_nothing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let url = format!("sqlite://{}", dir.path().join("shared.db").display());
    let store = || open(&url, &GatewayId::from("g"), &Options::default()).expect("a URL");
    // Each of the two makes a key of its own, in its own directory.
    let first = Gateway::with(Setup { store: Some(store()), ..Setup::default() }).await;
    first.post("/secrets", secret("db", VALUE)).await;
    let second = Gateway::with(Setup { store: Some(store()), not_ready: true, ..Setup::default() }).await;
    eventually("the second says what it lacks", || async {
        let ready = send(second.http.get(second.admin_url("/ready"))).await;
        ready.status == 503 && ready.text.contains("sealed under the key 'aesgcm256-v1'")
    })
    .await;
    assert_eq!(send(second.http.get(second.admin_url("/health"))).await.json()["store"], "sealed");
    let refused = second.post("/rest-apis", api("x", "/x")).await;
    assert!(refused.status == 503 && refused.text.contains("controller.encryption"), "{refused:?}");
    assert_eq!(first.create("y", "/y").await, 2, "the first goes on, and nothing came between");
    // With the first one's key it is a controller like any other.
    let keys = "aesgcm-keys/default-aesgcm256-v1.bin";
    let toml = format!("controller.encryption.key_file = {:?}", first.dir.path().join(keys));
    let third = Gateway::with(Setup { store: Some(store()), toml, ..Setup::default() }).await;
    assert_eq!(third.get("/secrets/db").await.json()["spec"]["value"], VALUE);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_older_versions_stored_in_the_clear_still_loads() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let url = format!("sqlite://{}", dir.path().join("old.db").display());
    let store: Arc<dyn Store> = open(&url, &GatewayId::from("g"), &Options::default()).expect("a URL");
    let source = json!({"kind": "RestApi", "metadata": {"name": "old"}, "spec": {"context": "/old"}});
    let write = Write::Put {
        source: source.to_string(),
        payload: Some("{\"displayName\":\"old\",\"context\":\"/old\"}".to_owned()),
        uuid: uuid::Uuid::new_v4(),
        claims: Vec::new(),
        references: Vec::new(),
    };
    let name: ResourceName = "rest-apis/old".parse().expect("a name");
    let writes = vec![Commit { name, guard: Guard::Absent, write }];
    let batch =
        Batch { id: uuid::Uuid::new_v4(), author: "a".to_owned(), at: 1, writes, expects: Vec::new() };
    store.commit(batch).await.expect("committed");
    let gateway = Gateway::with(Setup { store: Some(store), ..Setup::default() }).await;
    assert_eq!(payload(&gateway, "rest-apis/old"), "{\"displayName\":\"old\",\"context\":\"/old\"}");
    gateway.create("new", "/new").await;
    assert!(payload(&gateway, "rest-apis/new").starts_with('{'), "opened again");
}
