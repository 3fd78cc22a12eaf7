// SPDX-License-Identifier: Apache-2.0
//! Certificates that come from files (contract 2.6, 7.3): imported once however many
//! controllers there are, replaced when their file says something else, and never in the
//! place of what somebody deployed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_controller::run::Controller;
use ferrogate_store::Store;
use serde_json::{Value, json};

use crate::fault::{Faulty, Mode};
use crate::harness::{Gateway, Setup, api, config, eventually, parts};

fn made(name: &str) -> String {
    rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate").cert.pem()
}

fn toml(certificates: &Path) -> String {
    format!("router.upstream.tls.custom_certs_path = {certificates:?}\n")
}

async fn start(certificates: &Path, store: &Arc<Faulty>) -> Gateway {
    let store: Arc<dyn Store> = Arc::<Faulty>::clone(store);
    let key = certificates.with_file_name("key.bin");
    let toml = format!("{}controller.encryption.key_file = {key:?}\n", toml(certificates));
    Gateway::with(Setup { toml, store: Some(store), not_ready: true, ..Setup::default() }).await
}

/// Waits until these are listed, and answers what stands at `spec.certificate` of each.
async fn listed(gateway: &Gateway, names: &[&str]) -> Vec<Value> {
    eventually("the certificates are listed", || async {
        let list = gateway.get("/certificates").await.json();
        let listed = list["certificates"].as_array().into_iter().flatten();
        listed.map(|one| one["name"].clone()).eq(names.iter().map(|name| json!(name)))
    })
    .await;
    let mut texts = Vec::new();
    for name in names {
        texts.push(gateway.get(&format!("/certificates/{name}")).await.json()["spec"]["certificate"].clone());
    }
    texts
}

async fn stop(gateway: Gateway) {
    drop(gateway.controller.shutdown(Duration::from_secs(5)).await);
}

/// A folder of certificates beside a database and its key.
fn folder(dir: &Path) -> std::path::PathBuf {
    std::fs::write(dir.join("key.bin"), [7; 32]).expect("written");
    let certificates = dir.join("certs");
    std::fs::create_dir_all(certificates.join("more")).expect("made");
    certificates
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_imported_once_by_all_controllers_together() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let certificates = folder(dir.path());
    let (first, second) = (made("a.example"), made("b.example"));
    std::fs::write(certificates.join("partners.pem"), format!("{first}{second}")).expect("written");
    std::fs::write(certificates.join("more/corp.crt"), &second).expect("written");
    std::fs::write(certificates.join("README"), "not a certificate").expect("written");
    let store = Faulty::over(dir.path());
    // They begin to write at the same time, when the database comes.
    store.set(Mode::Down);
    let (one, other) = (start(&certificates, &store).await, start(&certificates, &store).await);
    store.set(Mode::Sound);
    for gateway in [&one, &other] {
        let texts = listed(gateway, &["corp", "partners"]).await;
        assert_eq!(texts, [json!(second), json!(format!("{first}{second}"))]);
        let list = gateway.get("/certificates").await.json();
        assert_eq!(list["certificates"][0]["usage"], "upstreamTrust");
    }
    let history = one.get("/revisions").await.json();
    let authors = history["revisions"].as_array().map(|all| all.iter().map(|one| &one["author"]).collect());
    assert_eq!(authors, Some(vec![&json!("custom-certs-path"); 2]), "each once: {history}");
    stop(one).await;
    stop(other).await;

    let again = start(&certificates, &store).await;
    listed(&again, &["corp", "partners"]).await;
    again.create("later", "/later").await;
    assert_eq!(again.controller.replica.position().revision.0, 3, "the same files write nothing");
    stop(again).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_replaces_what_came_from_it_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let certificates = folder(dir.path());
    let write = |name: &str, text: &str| std::fs::write(certificates.join(name), text).expect("written");
    let (old, new, deployed) = (made("old.example"), made("new.example"), made("deployed.example"));
    for name in ["ours.pem", "theirs.pem", "gone.pem"] {
        write(name, &old);
    }
    let store = Faulty::over(dir.path());
    let gateway = start(&certificates, &store).await;
    listed(&gateway, &["gone", "ours", "theirs"]).await;
    let document = json!({"kind": "Certificate", "apiVersion": "gateway.api-platform.wso2.com/v1",
        "metadata": {"name": "theirs"}, "spec": {"certificate": deployed}});
    assert_eq!(gateway.put("/certificates/theirs", document.to_string()).await.status, 200);
    stop(gateway).await;

    // Files are imported in the order of their names: with the last one all are done.
    for name in ["ours.pem", "theirs.pem", "zzz.pem"] {
        write(name, &new);
    }
    std::fs::remove_file(certificates.join("gone.pem")).expect("removed");
    let gateway = start(&certificates, &store).await;
    let texts = listed(&gateway, &["gone", "ours", "theirs", "zzz"]).await;
    assert_eq!(texts, [json!(old), json!(new), json!(deployed), json!(new)]);

    // While its file is there, a deletion lasts until the next start.
    assert_eq!(gateway.delete("/certificates/ours").await.status, 200);
    listed(&gateway, &["gone", "theirs", "zzz"]).await;
    stop(gateway).await;
    let gateway = start(&certificates, &store).await;
    listed(&gateway, &["gone", "ours", "theirs", "zzz"]).await;
    stop(gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_faulty_file_is_named_and_stops_the_start() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let certificates = folder(dir.path());
    let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).expect("a certificate");
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    for (name, text) in [
        ("empty.pem", String::new()),
        ("key.pem", format!("{certificate}{key}")),
        ("same.pem", certificate.clone()),
        ("more/same.crt", certificate.clone()),
        ("a name.cer", certificate.clone()),
        ("text.crt", "no PEM".to_owned()),
    ] {
        std::fs::write(certificates.join(name), text).expect("written");
    }
    let started = async |certificates: &Path| {
        let config = config(dir.path(), &toml(certificates));
        Controller::start(config, parts(None)).await.err().map(|error| error.to_string()).unwrap_or_default()
    };
    let error = started(&certificates).await;
    for wanted in [
        "router.upstream.tls.custom_certs_path: ",
        "empty.pem: spec.certificate: Certificate is required",
        "key.pem: spec.certificate: There is a private key among the certificates",
        "same.pem: ",
        "same.crt has the same name",
        "a name.cer: metadata.name: ",
        "text.crt: spec.certificate: no valid certificates found in PEM data",
    ] {
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
    assert!(!error.contains(key.lines().nth(1).expect("a line of base64")), "{error}");
    assert!(started(&dir.path().join("nowhere")).await.contains("nowhere cannot be read"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immutable_gateway_has_them_beside_its_files() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let certificates = folder(dir.path());
    std::fs::write(certificates.join("corp.pem"), made("a.example")).expect("written");
    let files = dir.path().join("files");
    std::fs::create_dir(&files).expect("made");
    std::fs::write(files.join("a.yaml"), api("a", "/a")).expect("written");
    let start = || {
        let (database, key) = (dir.path().join("immutable.db"), dir.path().join("key.bin"));
        let toml = format!(
            "{}controller.storage.sqlite.path = {database:?}\nimmutable_gateway.enabled = true\n\
             immutable_gateway.artifacts_dir = {files:?}\ncontroller.encryption.key_file = {key:?}\n",
            toml(&certificates)
        );
        Gateway::with(Setup { toml, ..Setup::default() })
    };
    let gateway = start().await;
    listed(&gateway, &["corp"]).await;
    assert_eq!(gateway.controller.replica.position().revision.0, 2);
    stop(gateway).await;
    let gateway = start().await;
    listed(&gateway, &["corp"]).await;
    assert_eq!(gateway.controller.replica.position().revision.0, 2, "the same files make no revision");
    stop(gateway).await;
    std::fs::remove_file(certificates.join("corp.pem")).expect("removed");
    let gateway = start().await;
    listed(&gateway, &[]).await;
    stop(gateway).await;
}
