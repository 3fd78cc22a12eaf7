// SPDX-License-Identifier: Apache-2.0
//! The admin and metrics servers (contract 1.6 and 8.1), start, stop, and the committed
//! description of the API.

use std::path::Path;
use std::time::Duration;

use ferrogate_controller::run::{Controller, StartError};
use ferrogate_controller::{api as management, auth};
use ferrogate_model::{Position, Revision};
use ferrogate_xds::Catalog as _;
use serde_json::{Value, json};

use crate::harness::{Gateway, Setup, api, api_with, config, parts, send};

#[tokio::test(flavor = "multi_thread")]
async fn health_is_open_and_the_rest_is_the_administrator_s() {
    let gateway = Gateway::start().await;
    for (path, deprecated) in [("/api/admin/v1/health", None), ("/health", Some("true"))] {
        let health = send(gateway.http.get(gateway.admin_url(path))).await;
        let body = health.json();
        assert_eq!((health.status.as_u16(), &body["status"]), (200, &json!("healthy")), "{path}");
        assert!(
            body["timestamp"].as_str().is_some_and(|time| time.len() == 20 && time.ends_with('Z')),
            "{body}"
        );
        assert_eq!(health.header("deprecation"), deprecated, "{path}");
    }
    let status = gateway.http.get(gateway.admin_url("/xds_sync_status"));
    assert_eq!(send(status.try_clone().expect("no body")).await.status, 401);
    gateway.create("x", "/x").await;
    let status = send(status.basic_auth("admin", Some("correct horse"))).await.json();
    assert_eq!(
        (&status["component"], &status["policy_chain_version"]),
        (&json!("gateway-controller"), &json!("1"))
    );
    let dump = gateway.http.get(gateway.admin_url("/config_dump")).basic_auth("admin", Some("correct horse"));
    assert_eq!(send(dump).await.status, 404, "off unless asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dump_shows_everything_but_secrets() {
    let toml = "[controller.admin_server.config_dump]\nenabled = true\n".to_owned();
    let gateway = Gateway::with(Setup { toml, ..Setup::default() }).await;
    let more = "  policies:\n    - name: basic-auth\n      version: v1\n      params:\n        username: u\n        \
                password: hunter2\n";
    let created = gateway.post("/rest-apis", api_with("x", "/x", more)).await;
    assert_eq!(created.status, 201, "{created:?}");
    let away = gateway.post("/rest-apis", api_with("y", "/y", "  deploymentState: undeployed\n")).await;
    assert_eq!(away.status, 201, "{away:?}");
    let dump = gateway.http.get(gateway.admin_url("/config_dump")).basic_auth("admin", Some("correct horse"));
    let dump = send(dump).await;
    assert!(dump.status == 200 && !dump.text.contains("hunter2"), "{dump:?}");
    let body = dump.json();
    assert_eq!(body["apis"][0]["configuration"]["metadata"]["name"], "x");
    assert_eq!(body["apis"][0]["metadata"]["status"], "deployed");
    assert!(body["apis"][0]["metadata"]["deployedAt"].is_string(), "{body}");
    assert_eq!(body["apis"][1]["metadata"]["status"], "undeployed");
    assert_eq!(body["apis"][1]["metadata"].get("deployedAt"), None, "as in the management API");
    assert_eq!(body["apis"][0].get("id"), None, "the handle is no UUID");
    assert_eq!(body["statistics"]["totalApis"], 2);
    assert!(
        body["policies"].as_array().is_some_and(|list| list.iter().any(|one| one["name"] == "basic-auth"))
    );
    assert_eq!(body["xds_sync"]["policy_chain_version"], "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_not_allowed_is_forbidden() {
    let toml = "[controller.admin_server]\nallowed_ips = [\"192.0.2.1\"]\n".to_owned();
    let gateway = Gateway::with(Setup { toml, ..Setup::default() }).await;
    let status =
        gateway.http.get(gateway.admin_url("/xds_sync_status")).basic_auth("admin", Some("correct horse"));
    let answer = send(status).await;
    assert_eq!((answer.status.as_u16(), answer.text.trim()), (403, "Forbidden"));
    assert_eq!(send(gateway.http.get(gateway.admin_url("/health"))).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_what_happened() {
    let gateway = Gateway::start().await;
    gateway.create("x", "/x").await;
    let address = gateway.controller.addresses.metrics.expect("listens");
    let metrics = send(gateway.http.get(format!("http://{address}/metrics"))).await;
    for line in [
        "gateway_controller_http_requests_total{method=\"POST\",endpoint=\"/rest-apis\",status_code=\"201\"} 1",
        "gateway_controller_api_operations_total{operation=\"create\",status=\"success\",api_type=\"rest\"} 1",
        "ferrogate_controller_store_available 1",
    ] {
        assert!(metrics.text.contains(line), "{line} is missing in\n{}", metrics.text);
    }
    let catalogue = gateway.get("/policies").await.json();
    assert!(
        catalogue["policies"]
            .as_array()
            .is_some_and(|list| list.iter().all(|one| one["parameters"].is_object()))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_one_clear_error() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = taken.local_addr().expect("bound");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = config(dir.path(), &format!("[controller.listen]\nadmin = \"{address}\"\n"));
    let error = Controller::start(config, parts(None)).await.err().expect("the port is taken");
    assert!(matches!(&error, StartError::Bind(one) if one.key == "controller.listen.admin"), "{error}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_has_one_controller_at_a_time() {
    let gateway = Gateway::start().await;
    let start = || Controller::start(config(gateway.dir.path(), ""), parts(None));
    let error = start().await.err().expect("the first one is there");
    assert!(matches!(&error, StartError::InUse(path) if path == gateway.dir.path()), "{error}");
    assert!(gateway.controller.shutdown(Duration::from_secs(5)).await.aborted.is_empty());
    let next = Controller::start(config(gateway.dir.path(), ""), parts(None)).await.expect("it has gone");
    assert!(next.shutdown(Duration::from_secs(5)).await.aborted.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_certificate_that_is_not_there_is_told_with_its_setting() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let certificate = file("c.pem", "-----BEGIN CERTIFICATE-----\n");
    let key = file("k.pem", "-----BEGIN PRIVATE KEY-----\n");
    for (cert, key, setting) in [
        ("/no/such", key.as_str(), "cert_file (--stream-cert)"),
        (certificate.as_str(), "/no/such", "key_file (--stream-key)"),
    ] {
        let toml = format!("[controller.stream.tls]\ncert_file = \"{cert}\"\nkey_file = \"{key}\"\n");
        let error = Controller::start(config(dir.path(), &toml), parts(None)).await.err().expect("refused");
        let told = error.to_string();
        assert!(told.contains(&format!("controller.stream.tls.{setting}: cannot read /no/such")), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_anybody_could_read_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let open = "[controller.listen]\nstream = \"0.0.0.0:0\"\n";
    let error = Controller::start(config(dir.path(), open), parts(None)).await.err().expect("refused");
    assert!(matches!(error, StartError::Unprotected(_)), "{error}");
    let token = dir.path().join("token");
    std::fs::write(&token, "join-me\n").expect("writable");
    let guarded = format!("[controller]\njoin_token_file = \"{}\"\n{open}", token.display());
    let running = Controller::start(config(dir.path(), &guarded), parts(None)).await.expect("guarded");
    assert!(running.shutdown(Duration::from_secs(5)).await.aborted.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_finds_what_was_stored_and_shutdown_is_clean() {
    let gateway = Gateway::start().await;
    gateway.create("x", "/x").await;
    let first = Position::new(gateway.controller.replica.position().epoch, Revision(1));
    let replicated = gateway.controller.replica.reached(first, Duration::from_secs(10)).await;
    let digest_at_first = replicated.expect("replicated").digest();
    gateway.create("y", "/y").await;
    gateway.create("z", "/z").await;
    // Rendered when it was written: what a start finds must not need rendering.
    let templated = api("t", "/t").replace("127.0.0.1", r#"{{ env "NONE" | default "books.internal" }}"#);
    assert_eq!(gateway.post("/rest-apis", templated).await.status, 201);
    assert_eq!(gateway.delete("/rest-apis/y").await.status, 200);
    let before = gateway.controller.replica.current().expect("loaded").bytes();
    let report = gateway.controller.shutdown(Duration::from_secs(10)).await;
    assert!(report.aborted.is_empty(), "{report:?}");
    let again = Controller::start(config(gateway.dir.path(), ""), parts(None)).await.expect("started again");
    crate::harness::eventually("ready", || async { again.readiness.is_ready() }).await;
    let snapshot = again.replica.current().expect("loaded");
    assert_eq!(snapshot.bytes(), before);
    let payload = |name: &str| snapshot.get(&name.parse().expect("well-formed"))?.stored.payload.clone();
    assert!(payload("rest-apis/t").is_some_and(|payload| payload.contains("books.internal")));
    // The past before the restart is known: a runtime at revision 1 gets the changes, not all.
    let delta = snapshot.changes_since(Revision(1)).expect("still known");
    assert_eq!((delta.upserts.len(), delta.removes.len()), (2, 1));
    assert!(snapshot.had(Revision(1), digest_at_first));
    assert!(again.administrator.as_ref().is_some_and(|admin| !admin.generated));
    assert!(
        !gateway.dir.path().join(auth::admin_password::FILE_NAME).exists(),
        "a configured password is not written"
    );
    assert!(again.shutdown(Duration::from_secs(10)).await.aborted.is_empty());
}

/// Write the copy anew with `cargo run -p ferrogate-controller --example openapi > docs/openapi.json`.
#[test]
fn the_committed_description_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let committed = std::fs::read_to_string(path).expect("docs/openapi.json is committed");
    let committed: Value = serde_json::from_str(&committed).expect("JSON");
    let made = serde_json::to_value(management::description()).expect("JSON");
    assert_eq!(made["openapi"], "3.1.0");
    let paths = made["paths"].as_object().expect("paths");
    for path in
        ["/rest-apis", "/rest-apis/{id}", "/apply", "/rollback", "/revisions", "/cluster", "/policies"]
    {
        assert!(paths.contains_key(path), "{path}");
    }
    assert!(
        made == committed,
        "docs/openapi.json is stale: cargo run -p ferrogate-controller --example openapi > docs/openapi.json"
    );
}
