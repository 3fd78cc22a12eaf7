// SPDX-License-Identifier: Apache-2.0
//! A runtime's binary replaced in place: two real processes, one after the other on the same
//! listening sockets, and clients that must notice nothing.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, ensure};
use ferrogate_testkit::backend::Backend;
use ferrogate_testkit::eventually::eventually;
use ferrogate_testkit::load::{Load, Plan, is_ok};
use ferrogate_testkit::process::{Process, Spec};
use tokio::task::JoinSet;

use crate::gateway::BINARY;
use crate::tools::{PATIENCE, curl, run};

/// Requests that must pass before and after each step, so that it happens under traffic.
const PROGRESS: u64 = 200;

fn spec(root: &Path, name: &str, args: &[&str]) -> Spec {
    Spec {
        binary: BINARY.into(),
        name: name.to_owned(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: Vec::new(),
        data_dir: root.join(name),
        log: root.join(format!("{name}.log")),
    }
}

async fn control_plane(root: &Path) -> anyhow::Result<Process> {
    let mut args = vec!["controller"];
    for listener in ["--listen-management", "--listen-admin", "--listen-metrics", "--listen-stream"] {
        args.extend([listener, "127.0.0.1:0"]);
    }
    spec(root, "controller", &args).start().await
}

/// A runtime on these addresses, which all runtimes of the test hand on.
async fn runtime(
    root: &Path,
    name: &str,
    controller: &str,
    [http, readiness]: [&str; 2],
) -> anyhow::Result<Process> {
    let socket = root.join("handover.sock").display().to_string();
    let args = [
        "runtime",
        "--runtime-id",
        name,
        "--controller",
        controller,
        "--handover",
        &socket,
        "--workers",
        "2",
        "--listen-http",
        http,
        "--listen-readiness",
        readiness,
        "--listen-https",
        "off",
        "--listen-admin",
        "127.0.0.1:0",
        "--listen-metrics",
        "127.0.0.1:0",
    ];
    spec(root, name, &args).start().await
}

async fn deploy(root: &Path, backend: &Backend) -> anyhow::Result<()> {
    let file = root.join("books.yaml");
    let text = format!(
        "apiVersion: gateway.api-platform.wso2.com/v1\nkind: RestApi\nmetadata: {{ name: books }}\n\
         spec:\n  displayName: Books\n  version: v1.0\n  context: /books\n\
         \x20 upstream: {{ main: {{ url: \"{}\" }} }}\n  operations: [{{ method: GET, path: /echo }}]\n",
        backend.url()
    );
    std::fs::write(&file, text)?;
    let (file, data) = (file.display().to_string(), root.join("controller").display().to_string());
    let told = run(BINARY, &["apply", "--wait", "-f", &file, "--data-dir", &data]).await?;
    ensure!(told.success, "{}", told.all());
    Ok(())
}

/// Requests each on a connection of its own, until told to stop: one that is refused or reset
/// is an error.
async fn newcomers(url: String, done: Arc<AtomicBool>) -> anyhow::Result<u64> {
    let http = reqwest::Client::builder().pool_max_idle_per_host(0).build()?;
    let mut served = 0;
    while !done.load(Ordering::SeqCst) {
        let status = http.get(&url).send().await.with_context(|| format!("after {served}"))?.status();
        ensure!(status == 200, "{status} after {served}");
        served += 1;
    }
    Ok(served)
}

/// The same with curl: a hundred connections to a process, each closed after its one request.
async fn newcomers_by_curl(url: String, done: Arc<AtomicBool>) -> anyhow::Result<u64> {
    let urls = format!("{url}?[1-100]");
    let format = "%{http_code} %{num_connects}\n";
    let mut served = 0;
    while !done.load(Ordering::SeqCst) {
        let told = curl(&["-H", "connection: close", "-o", "/dev/null", "-w", format, &urls]).await?;
        ensure!(told == "200 1\n".repeat(100), "after {served}: {told}");
        served += 100;
    }
    Ok(served)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binary_is_replaced_without_a_refused_connection() -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let root = tempfile::tempdir()?;
    let backend = Backend::start().await?;
    let controller = control_plane(root.path()).await?;
    let stream = format!("http://{}", controller.address("stream"));
    let mut serving = runtime(root.path(), "r0", &stream, ["127.0.0.1:0", "127.0.0.1:0"]).await?;
    deploy(root.path(), &backend).await?;
    let (http, readiness) = (serving.address("http").to_string(), serving.address("readiness").to_string());

    let url = format!("http://{http}/books/echo");
    let kept =
        Load::start(&Plan { urls: vec![url.clone()], clients: 4, rate: None, limit: None, check: is_ok() });
    let done = Arc::new(AtomicBool::new(false));
    let mut fresh = JoinSet::new();
    fresh.spawn(newcomers(url.clone(), done.clone()));
    fresh.spawn(newcomers_by_curl(url.clone(), done.clone()));
    let progress = async || {
        let aim = kept.sent() + PROGRESS;
        eventually(PATIENCE, || (kept.sent() >= aim).then_some(())).await.context("the traffic stands still")
    };
    for name in ["r1", "r2"] {
        progress().await?;
        let successor = runtime(root.path(), name, &stream, [&http, &readiness]).await?;
        ensure!(successor.address("http").to_string() == http, "another address");
        let mut predecessor = std::mem::replace(&mut serving, successor);
        let status = eventually(PATIENCE, || predecessor.ended()).await.context("the predecessor stayed")?;
        ensure!(status.success(), "the predecessor's drain was not clean: {status}");
        progress().await?;
        let ready = reqwest::get(format!("http://{readiness}/ready")).await?.status();
        ensure!(ready == 200, "{name} is {ready}");
    }
    done.store(true, Ordering::SeqCst);
    while let Some(ended) = fresh.join_next().await {
        ensure!(ended?? > 0, "no newcomer was served");
    }
    let tally = kept.stop().await;
    ensure!(tally.failed == 0, "{} of {} failed: {:?}", tally.failed, tally.sent, tally.reasons);
    Ok(())
}
