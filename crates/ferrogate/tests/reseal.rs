// SPDX-License-Identifier: Apache-2.0
//! A change of keys on a whole gateway over PostgreSQL, as the operator's guide has it: two
//! rounds of restarts, `ferrogate reseal`, and a third round without the old key.

use std::path::Path;

use anyhow::{Context as _, ensure};
use ferrogate_testkit::cluster::{Cluster, Shape};
use ferrogate_testkit::management::api;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::process::Command;

const BINARY: &str = env!("CARGO_BIN_EXE_ferrogate");
/// The flag that names the key of a cluster's controllers, and the version that it has then.
const KEY_FILE: &str = "--encryption-key-file";
const OLD: &str = "aesgcm256-v1";

/// Restarts every controller, one after the other, with this configuration.
async fn restart_with(cluster: &mut Cluster, file: &Path) -> anyhow::Result<()> {
    for controller in &mut cluster.controllers {
        let mut spec = controller.pinned_spec();
        for flag in [KEY_FILE, "--config"] {
            if let Some(at) = spec.args.iter().position(|arg| arg == flag) {
                spec.args.drain(at..at + 2);
            }
        }
        spec.args.extend(["--config".to_owned(), file.display().to_string()]);
        controller.kill().await?;
        *controller = spec.start().await?;
    }
    Ok(())
}

/// Runs the command; answers its exit code and all that it said.
async fn reseal(database: &str, file: &Path) -> anyhow::Result<(Option<i32>, String)> {
    let file = file.to_str().context("a path in UTF-8")?;
    let output =
        Command::new(BINARY).args(["reseal", "--database-url", database, "--config", file]).output().await?;
    let told = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&told).into_owned()))
}

async fn value(cluster: &Cluster, controller: usize) -> anyhow::Result<Value> {
    Ok(cluster.management(controller).get("/secrets/stamp").await?.body["spec"]["value"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_changes_its_keys_without_an_outage() -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let binary = Path::new(BINARY);
    let mut cluster = Cluster::start(Shape { binary, controllers: &["a", "a"], runtimes: &["a"] }).await?;
    let spec = cluster.controllers[0].pinned_spec();
    let given = |flag: &str| {
        let at = spec.args.iter().position(|arg| arg == flag).context("a flag")?;
        anyhow::Ok(spec.args[at + 1].clone())
    };
    let (database, old_key) = (given("--database-url")?, given(KEY_FILE)?);
    let folder = tempfile::tempdir()?;
    let new_key = folder.path().join("new.key").display().to_string();
    std::fs::write(&new_key, [9; 32])?;
    let file = |name: &str, keys: &[(&str, &str)]| {
        let keys =
            keys.iter().map(|(version, file)| format!("{{ version = \"{version}\", file = \"{file}\" }}"));
        let keys = keys.collect::<Vec<_>>().join(", ");
        let path = folder.path().join(name);
        let text = format!("[[controller.encryption.providers]]\ntype = \"aesgcm\"\nkeys = [{keys}]\n");
        std::fs::write(&path, text).map(|()| path)
    };
    let (old, new) = ((OLD, old_key.as_str()), ("v2", new_key.as_str()));
    let (first, second, third) =
        (file("1.toml", &[old, new])?, file("2.toml", &[new, old])?, file("3.toml", &[new])?);

    let secret = |value: &str| {
        json!({"apiVersion": "gateway.api-platform.wso2.com/v1", "kind": "Secret",
               "metadata": {"name": "stamp"}, "spec": {"displayName": "stamp", "value": value}})
    };
    let stamped = json!([{ "name": "set-headers", "version": "v1", "params": {
        "response": { "headers": [{ "name": "x-stamp", "value": "{{ secret \"stamp\" }}" }] } } }]);
    let documents = [secret("one"), api("books", &cluster.backend.url(), &stamped)];
    let answer = cluster.management(0).apply(&documents, "?wait=live&timeout=20s").await?;
    ensure!(answer.status == StatusCode::OK, "{}", answer.body);
    let written = answer.revision.context("a revision")?;
    let answer = cluster.management(1).apply(&[secret("two")], "?wait=live&timeout=20s").await?;
    ensure!(answer.status == StatusCode::OK, "{}", answer.body);

    restart_with(&mut cluster, &first).await?;
    let (code, told) = reseal(&database, &second).await?;
    ensure!(code == Some(1) && told.contains(&format!("seals under '{OLD}'")), "{code:?}: {told}");
    restart_with(&mut cluster, &second).await?;
    // The leases of what was restarted tell of the new settings within a second.
    let done =
        ferrogate_testkit::eventually::eventually_async(std::time::Duration::from_secs(30), || async {
            reseal(&database, &second).await.ok().filter(|(code, _)| *code == Some(0))
        });
    let (_, told) = done.await.context("never sealed anew")?;
    ensure!(told.contains("payloads sealed anew under 'v2'"), "{told}");
    ensure!(told.contains(&format!("nothing stored needs {OLD} any more")), "{told}");
    ensure!(value(&cluster, 0).await? == "two" && value(&cluster, 1).await? == "two");

    restart_with(&mut cluster, &third).await?;
    for controller in 0..2 {
        ensure!(value(&cluster, controller).await? == "two", "controller {controller}");
    }
    let back = json!({ "revision": written });
    let answer = cluster
        .management(1)
        .send(Method::POST, "/secrets/stamp/rollback?wait=live&timeout=20s", Some(&back))
        .await?;
    ensure!(answer.status == StatusCode::OK, "the past needs the old key: {}", answer.body);
    let answer = reqwest::get(format!("{}/books/echo", cluster.traffic(0))).await?;
    let stamp = answer.headers().get("x-stamp").and_then(|value| value.to_str().ok());
    ensure!(stamp == Some("one"), "{stamp:?}");
    Ok(())
}
