// SPDX-License-Identifier: Apache-2.0
//! Certificates in a whole gateway, seen by clients that are not ours: `openssl` and `curl`.
//! Uploaded through one controller they are shown by every runtime, also by one that starts
//! from its disk while no controller is there; their keys are in no log and on no disk.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, ensure};
use ferrogate_testkit::cluster::{Cluster, PASSWORD, Shape};
use ferrogate_testkit::eventually::eventually_async;
use ferrogate_testkit::management::{Management, api};
use ferrogate_testkit::process::{Process, Spec};
use reqwest::StatusCode;
use serde_json::json;

use crate::gateway::BINARY;
use crate::pki::Authority;
use crate::tools::{PATIENCE, curl, run};
use crate::upstream::Upstream;

/// A handshake of `openssl` that verifies what it is shown.
async fn s_client(
    authority: &Authority,
    address: SocketAddr,
    server: &str,
    more: &[&str],
) -> anyhow::Result<(bool, String)> {
    let (address, trusted) = (address.to_string(), authority.file("ca.pem"));
    let args = ["s_client", "-connect", &address, "-servername", server, "-verify_hostname", server];
    let args = [&args[..], &["-CAfile", &trusted, "-verify_return_error"], more].concat();
    let told = run("openssl", &args).await?;
    Ok((told.success, told.all()))
}

async fn cluster() -> anyhow::Result<Cluster> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let binary = Path::new(BINARY);
    Cluster::start(Shape { binary, controllers: &["a", "a"], runtimes: &["a", "a"] }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_upload_is_shown_by_every_runtime_and_survives_its_restart() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::new(folder.path())?;
    let mut cluster = cluster().await?;
    let (shop, bank) = (authority.issue("shop.example")?, authority.issue("bank.example")?);
    ensure!(
        !s_client(&authority, cluster.runtimes[0].address("https"), "shop.example", &[]).await?.0,
        "trusted beforehand"
    );
    let documents =
        [shop.artifact("shop"), bank.artifact("bank"), api("books", &cluster.backend.url(), &json!([]))];
    let answer = cluster.management(1).apply(&documents, "?wait=live&timeout=20s").await?;
    ensure!(answer.status == StatusCode::OK, "{}", answer.body);

    for runtime in 0..2 {
        let address = cluster.runtimes[runtime].address("https");
        for server in ["shop.example", "bank.example"] {
            let (verified, told) = s_client(&authority, address, server, &[]).await?;
            ensure!(verified && told.replace(' ', "").contains(&format!("subject=CN={server}")), "{told}");
        }
        let (verified, _) = s_client(&authority, address, "other.example", &[]).await?;
        ensure!(!verified, "a name that nobody has");
        for (at_least, at_most) in [("--tlsv1.2", "1.2"), ("--tlsv1.3", "1.3")] {
            let url = format!("https://shop.example:{}/books/echo", address.port());
            let place = format!("shop.example:{}:127.0.0.1", address.port());
            let trusted = authority.file("ca.pem");
            let args = ["--fail", "--cacert", &trusted, "--resolve", &place, at_least];
            curl(&[&args[..], &["--tls-max", at_most, &url]].concat()).await?;
        }
    }

    for controller in &mut cluster.controllers {
        controller.kill().await?;
    }
    cluster.restart_runtime(0).await?;
    let (verified, told) =
        s_client(&authority, cluster.runtimes[0].address("https"), "shop.example", &[]).await?;
    ensure!(verified, "from its disk: {told}");
    let secret = shop.key.lines().nth(1).context("a line of base64")?;
    let mut read = 0;
    for file in cluster.files("")? {
        let bytes = std::fs::read(&file)?;
        read += bytes.len();
        ensure!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()), "{}", file.display());
    }
    ensure!(read > 0, "no file was looked at");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_is_trusted_by_a_file_alone() -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let (folder, data) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let authority = Authority::new(folder.path())?;
    let upstream = Upstream::over_tls(authority.issue("localhost")?.server(None)?).await?;
    let certificates = data.path().join("certificates");
    std::fs::create_dir(&certificates)?;
    let mut spec = Spec::standalone(BINARY, data.path(), &[]);
    let setting = "FERROGATE_ROUTER_UPSTREAM_TLS_CUSTOM_CERTS_PATH".to_owned();
    spec.env.extend([
        ("FERROGATE_ADMIN_PASSWORD".to_owned(), PASSWORD.to_owned()),
        (setting, certificates.display().to_string()),
    ]);
    let mut process = spec.start().await?;
    let management = Management::new(process.url("management"));
    let books = api("books", &format!("https://localhost:{}", upstream.address.port()), &json!([]));
    let answer = management.create(&books, "?wait=live&timeout=20s").await?;
    ensure!(answer.status == StatusCode::CREATED, "{}", answer.body);
    let asked = async |process: &Process| -> anyhow::Result<(u16, String)> {
        let answer = reqwest::get(format!("{}/books/echo", process.url("http"))).await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    };
    let (status, told) = asked(&process).await?;
    ensure!(status == 503 && told.contains("upstream_tls_failed"), "nobody vouches for it yet: {told}");

    std::fs::copy(authority.file("ca.pem"), certificates.join("corp.pem"))?;
    let again = process.pinned_spec();
    ensure!(process.terminate(PATIENCE).await?.success(), "the drain was not clean");
    process = again.start().await?;
    let trusted = eventually_async(PATIENCE, || async {
        asked(&process).await.ok().filter(|(status, _)| *status == 200)
    });
    trusted.await.context("the file's authority is not trusted")?;
    let listed = Management::new(process.url("management")).get("/certificates").await?;
    ensure!(listed.body["certificates"][0]["name"] == "corp", "{}", listed.body);
    Ok(())
}
