// SPDX-License-Identifier: Apache-2.0
//! Secrets planted wherever one can be given, and then looked for wherever one must not
//! be: logs, answers, dumps, metrics and the runtimes' disks of a running cluster. A
//! search that would find nothing anywhere proves nothing, so what is looked for is first
//! shown to be at work.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ferrogate_testkit::cluster::{Cluster, PASSWORD, Shape};
use ferrogate_testkit::management::api;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

/// The password of an API's policy.
const POLICY: &str = "planted-policy-password";
/// What clients and attackers send.
const GUESS: &str = "planted-wrong-password";
const CLIENT: &str = "planted-client-token";
/// What lets runtimes join; the test kit's.
const TOKEN: &str = "a-token-for-this-cluster-only";

async fn cluster() -> anyhow::Result<Cluster> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let binary = Path::new(env!("CARGO_BIN_EXE_ferrogate"));
    Cluster::start(Shape { binary, controllers: &["a"], runtimes: &["a"] }).await
}

/// Every form in which a text may be lying around.
fn forms(secret: &str) -> Vec<Vec<u8>> {
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    // Three alignments: a text within a longer one that was encoded as a whole.
    let encoded = (0..3).map(|shift| {
        let text = STANDARD.encode(format!("{}{secret}", " ".repeat(shift)));
        let inner = text.trim_end_matches('=');
        inner.get(4..inner.len().saturating_sub(2)).unwrap_or_default().to_owned()
    });
    encoded.chain([secret.to_owned(), hex]).map(String::into_bytes).collect()
}

fn contains(bytes: &[u8], form: &[u8]) -> bool {
    bytes.windows(form.len()).any(|window| window == form)
}

/// Where in these files one of the secrets is, in whatever form.
fn found(files: &[PathBuf], secrets: &[&str]) -> anyhow::Result<Vec<String>> {
    let mut places = Vec::new();
    for file in files {
        let bytes = std::fs::read(file)?;
        for secret in secrets {
            if forms(secret).iter().any(|form| contains(&bytes, form)) {
                places.push(format!("{secret} in {}", file.display()));
            }
        }
    }
    Ok(places)
}

/// Deploys an API with a password, uses it rightly and wrongly, and gives every part of
/// the gateway a reason to talk of what it was given.
async fn provoke(cluster: &Cluster) -> anyhow::Result<()> {
    let (http, management) = (Client::new(), cluster.management(0));
    let policies = json!([{ "name": "basic-auth", "version": "v1",
                            "params": { "username": "reader", "password": POLICY } }]);
    let guarded = api("guarded", &cluster.backend.url(), &policies);
    let answer = management.create(&guarded, "?wait=live&timeout=20s").await?;
    ensure!(answer.status == StatusCode::CREATED, "{}", answer.body);
    let url = format!("{}/guarded/echo?token={CLIENT}", cluster.traffic(0));
    for (password, status) in [(POLICY, 200), (GUESS, 401)] {
        let request = http.get(&url).basic_auth("reader", Some(password)).header("cookie", CLIENT);
        let answer = request.send().await?;
        ensure!(answer.status() == status, "{password}: {}", answer.status());
        ensure!(status == 200 || !answer.text().await?.contains(POLICY), "the 401 tells the password");
    }
    // A document that is refused, with the password in the wrong place.
    let mut broken = guarded.clone();
    broken["spec"]["policies"][0]["params"]["pasword"] = json!(POLICY);
    broken["spec"]["policies"][0]["params"]["password"] = json!([POLICY]);
    let answer = management.replace(&broken, "").await?;
    ensure!(answer.status == StatusCode::BAD_REQUEST, "{}", answer.body);
    ensure!(!answer.body.to_string().contains(POLICY), "the refusal tells the password: {}", answer.body);
    let base = cluster.controllers[0].url("management");
    let wrong = http.get(format!("{base}/api/management/v1/rest-apis")).basic_auth("admin", Some(GUESS));
    ensure!(wrong.send().await?.status() == StatusCode::UNAUTHORIZED);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_a_log_a_dump_an_error_or_on_a_runtimes_disk() -> anyhow::Result<()> {
    let mut cluster = cluster().await?;
    provoke(&cluster).await?;
    // A runtime that starts from its disk has read what is there: it is not only absent.
    cluster.restart_runtime(0).await?;
    let url = format!("{}/guarded/echo", cluster.traffic(0));
    let answer = Client::new().get(&url).basic_auth("reader", Some(POLICY)).send().await?;
    ensure!(answer.status() == StatusCode::OK, "the sealed copy holds the password: {}", answer.status());

    let all = [POLICY, GUESS, CLIENT, PASSWORD, TOKEN];
    let runtime = cluster.files("runtime-1")?;
    ensure!(runtime.iter().any(|file| file.ends_with("lkg/set.lkg")), "no sealed copy: {runtime:?}");
    // A request's own line tells its path as the client sent it, and so its query.
    let without_query = all.map(|secret| if secret == CLIENT { GUESS } else { secret });
    assert_eq!(found(&runtime, &without_query)?, [""; 0]);
    let controller = cluster.files("controller-1")?;
    assert_eq!(found(&controller, &all)?, [""; 0]);

    for page in [
        format!("{}/metrics", cluster.runtimes[0].url("metrics")),
        format!("{}/config_dump", cluster.runtimes[0].url("admin")),
        format!("{}/metrics", cluster.controllers[0].url("metrics")),
        format!("{}/config_dump", cluster.controllers[0].url("admin")),
        format!("{}/health", cluster.controllers[0].url("admin")),
    ] {
        let text = Client::new().get(&page).basic_auth("admin", Some(PASSWORD)).send().await?.text().await?;
        for secret in all {
            ensure!(!forms(secret).iter().any(|form| contains(text.as_bytes(), form)), "{secret} in {page}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_effective_configuration_shows_has_no_secret() -> anyhow::Result<()> {
    let root = tempfile::tempdir()?;
    let file = root.path().join("f.toml");
    let toml = format!(
        "[controller]\nadmin_password = \"{POLICY}\"\n[controller.storage]\ntype = \"postgres\"\n\
         [controller.storage.postgres]\nhost = \"db\"\nuser = \"u\"\npassword = \"{GUESS}\"\n\
         [[controller.auth.basic.users]]\nusername = \"a\"\npassword = \"{CLIENT}\"\nroles = [\"admin\"]\n"
    );
    std::fs::write(&file, toml)?;
    let path = file.to_str().context("a path in UTF-8")?;
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_ferrogate"))
        .args(["controller", "--check", "--config", path])
        .output()?;
    let told = [output.stdout, output.stderr].concat();
    ensure!(contains(&told, b"admin_password"), "nothing is shown: {}", String::from_utf8_lossy(&told));
    for secret in [POLICY, GUESS, CLIENT] {
        ensure!(!forms(secret).iter().any(|form| contains(&told, form)), "{secret} is shown");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_author_alone_reads_a_password_back() -> anyhow::Result<()> {
    let cluster = cluster().await?;
    provoke(&cluster).await?;
    let base = cluster.controllers[0].url("management");
    for path in ["/rest-apis/guarded", "/rest-apis", "/revisions", "/cluster", "/rest-apis/guarded/revisions"]
    {
        let answer =
            Client::new().request(Method::GET, format!("{base}/api/management/v1{path}")).send().await?;
        ensure!(answer.status() == StatusCode::UNAUTHORIZED, "{path}: {}", answer.status());
        let body: Value = answer.json().await?;
        ensure!(!body.to_string().contains(POLICY));
    }
    // With his credentials he gets the document as he wrote it (contract 2.2); a template's secret would be its template.
    let read = cluster.management(0).get("/rest-apis/guarded").await?;
    assert_eq!(read.body["spec"]["policies"][0]["params"]["password"], POLICY);
    Ok(())
}
