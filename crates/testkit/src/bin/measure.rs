// SPDX-License-Identifier: Apache-2.0
//! The figures of `docs/reliability.md`, measured on real processes and printed as a
//! Markdown table. `cargo xtask measure` builds the release binary and runs this with
//! it. Each figure also checks what it rests on and fails loudly when that is broken:
//! a fast wrong answer is not a figure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use ferrogate_testkit::cluster::{Cluster, Shape};
use ferrogate_testkit::eventually::eventually_async;
use ferrogate_testkit::load::{Load, Plan, is_ok, percentile};
use ferrogate_testkit::management::{Management, api, stamp};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

const CONVERGE: Duration = Duration::from_secs(60);

/// How much of everything: the full figures, or a tenth for a quick look.
struct Scale {
    apis: usize,
    deployments: usize,
    stress_deployments: u64,
    kills: usize,
    mixture_requests: u64,
    mixture_updates: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let mut args = std::env::args().skip(1);
    let binary = PathBuf::from(args.next().context("usage: measure FERROGATE-BINARY [--quick]")?);
    let tenth = if args.next().as_deref() == Some("--quick") { 10 } else { 1 };
    let scale = Scale {
        apis: 1_000 / tenth,
        deployments: 500 / tenth,
        stress_deployments: 10_000 / tenth as u64,
        kills: 10,
        mixture_requests: 100_000 / tenth as u64,
        mixture_updates: 1_000 / tenth,
    };
    println!("| figure | goal | measured |\n|---|---|---|");
    time_to_live(&binary, &scale).await?;
    controller_loss(&binary).await?;
    stress(&binary, &scale).await?;
    mixture(&binary, &scale).await
}

async fn cluster(binary: &Path) -> anyhow::Result<Cluster> {
    Cluster::start(Shape { binary, controllers: &["a", "b"], runtimes: &["a", "a", "b"] }).await
}

/// From POST to live on all three runtimes of two controllers.
async fn time_to_live(binary: &Path, scale: &Scale) -> anyhow::Result<()> {
    let cluster = cluster(binary).await?;
    let management = cluster.management(0);
    for chunk in (0..scale.apis).collect::<Vec<_>>().chunks(100) {
        let documents: Vec<Value> = chunk
            .iter()
            .map(|index| api(&format!("filler-{index}"), &cluster.backend.url(), &json!([])))
            .collect();
        let answer = management.send(Method::POST, "/apply", Some(&Value::Array(documents))).await?;
        ensure!(answer.status.is_success(), "{}: {}", answer.status, answer.body);
    }
    let mut micros = Vec::new();
    for index in 0..scale.deployments {
        let document = api(&format!("timed-{index}"), &cluster.backend.url(), &json!([]));
        let start = Instant::now();
        let answer = cluster.management(index % 2).create(&document, "?wait=live&timeout=10s").await?;
        micros.push(u32::try_from(start.elapsed().as_micros())?);
        ensure!(answer.status == StatusCode::CREATED, "not live: {}: {}", answer.status, answer.body);
    }
    // The answer "live" must be true: the last one is served by each runtime.
    for runtime in 0..3 {
        let url = format!("{}/timed-{}/echo", cluster.traffic(runtime), scale.deployments - 1);
        ensure!(reqwest::get(&url).await?.status() == StatusCode::OK, "answered live, yet not served: {url}");
    }
    let (p50, p99) = (percentile(&mut micros, 0.5), percentile(&mut micros, 0.99));
    println!(
        "| POST to live on 3 runtimes of 2 controllers, {} APIs deployed, {} deployments: p50, p99 | 20 ms, 100 ms | {:.1} ms, {:.1} ms |",
        scale.apis,
        scale.deployments,
        p50.as_secs_f64() * 1e3,
        p99.as_secs_f64() * 1e3
    );
    Ok(())
}

/// `kill -9` of a controller under 2,000 requests a second.
async fn controller_loss(binary: &Path) -> anyhow::Result<()> {
    let mut cluster = cluster(binary).await?;
    let document = api("books", &cluster.backend.url(), &json!([]));
    ensure!(cluster.management(0).create(&document, "?wait=live").await?.status == StatusCode::CREATED);
    let urls = (0..3).map(|runtime| format!("{}/books/echo", cluster.traffic(runtime))).collect();
    let load = Load::start(&Plan { urls, clients: 24, rate: Some(2_000), limit: None, check: is_ok() });
    let warm = eventually_async(CONVERGE, || async { (load.sent() > 2_000).then_some(()) });
    warm.await.context("no traffic")?;
    cluster.controllers[0].kill().await?;
    let killed = Instant::now();
    let survivor = cluster.management(1);
    let moved = eventually_async(CONVERGE, || async {
        let view = survivor.get("/cluster").await.ok()?.body;
        let runtimes = view["runtimes"].as_array()?.clone();
        let here =
            |runtime: &Value| runtime["controller"] == "controller-2" && runtime["connected"] == json!(true);
        (runtimes.len() == 3 && runtimes.iter().all(here)).then_some(())
    });
    moved.await.context("the runtimes did not move")?;
    let in_sync = killed.elapsed();
    let after = load.sent();
    let settled = eventually_async(CONVERGE, || async { (load.sent() > after + 4_000).then_some(()) });
    settled.await.context("traffic stopped")?;
    let mut tally = load.stop().await;
    let p99 = tally.percentile(0.99);
    println!(
        "| `kill -9` of a controller under 2,000 requests/s: failed of sent; its runtimes in sync elsewhere | 0; < 2 s | {} of {}; {:.2} s (request p99 {:.1} ms) |",
        tally.failed,
        tally.sent,
        in_sync.as_secs_f64(),
        p99.as_secs_f64() * 1e3
    );
    ensure!(tally.failed == 0, "{:?}", tally.reasons);
    Ok(())
}

/// Many deployments by 8 writers through 2 controllers, one of which is killed and restarted.
async fn stress(binary: &Path, scale: &Scale) -> anyhow::Result<()> {
    let mut cluster = cluster(binary).await?;
    let issued = Arc::new(AtomicU64::new(0));
    let mut writers = JoinSet::new();
    for writer in 0..8_usize {
        let controllers = [cluster.management(writer % 2), cluster.management((writer + 1) % 2)];
        let upstream = cluster.backend.url();
        writers.spawn(write(writer, controllers, upstream, Arc::clone(&issued), scale.stress_deployments));
    }
    for kill in 1..=scale.kills as u64 {
        let due = scale.stress_deployments * kill / (scale.kills as u64 + 1);
        let reached = eventually_async(CONVERGE * 10, || async {
            (issued.load(Ordering::Relaxed) >= due).then_some(())
        });
        reached.await.context("the writers are stuck")?;
        cluster.restart_controller(0).await?;
    }
    let mut acknowledged = BTreeMap::new();
    let mut retried = 0;
    while let Some(written) = writers.join_next().await {
        let (written, retries) = written??;
        retried += retries;
        for (revision, handle) in written {
            ensure!(
                acknowledged.insert(revision, handle).is_none(),
                "revision {revision} acknowledged twice"
            );
        }
    }
    let survivor = cluster.management(1);
    let last = survivor.get("/cluster").await?.body["revision"].as_u64().context("a revision")?;
    verify_history(&survivor, &acknowledged, last).await?;
    let level = eventually_async(CONVERGE, || async {
        let mut answers = Vec::new();
        for controller in 0..2 {
            let view = cluster.management(controller).get("/cluster").await.ok()?.body;
            answers.push((view["revision"].clone(), view["digest"].clone()));
        }
        let view = survivor.get("/cluster").await.ok()?.body;
        let runtimes = view["runtimes"].as_array()?;
        let current = runtimes.iter().filter(|runtime| runtime["applied"] == json!(last)).count();
        let equal = answers[0] == answers[1] && answers[0].1.is_string();
        (equal && answers[0].0 == json!(last) && current == 3).then_some(())
    });
    level.await.context("the replicas did not end in the same state")?;
    println!(
        "| {} deployments by 8 writers through 2 controllers, one killed and restarted {} times: acknowledged revisions missing, doubled; snapshots equal; runtimes at the last revision | 0, 0; yes; 3 of 3 | 0, 0; yes; 3 of 3 (head {last}, {retried} retried) |",
        acknowledged.len(),
        scale.kills
    );
    Ok(())
}

/// One writer: deploys until the common count is used up; a lost answer is retried through
/// the other controller with the same idempotency key. Gives the acknowledged revisions.
async fn write(
    writer: usize,
    controllers: [Management; 2],
    upstream: String,
    issued: Arc<AtomicU64>,
    limit: u64,
) -> anyhow::Result<(Vec<(u64, String)>, u64)> {
    let (mut written, mut retries) = (Vec::new(), 0);
    let mut round = 0_u64;
    while issued.fetch_add(1, Ordering::Relaxed) < limit {
        round += 1;
        let handle = format!("w{writer}-{}", round % 50);
        let document = api(&handle, &upstream, &stamp("x-round", &round.to_string()));
        let key = uuid::Uuid::new_v4().to_string();
        let mut tries = 0_usize;
        let revision = loop {
            let management = &controllers[tries % 2];
            let answer = management.apply_keyed(&document, &key, "").await;
            match answer {
                Ok(answer) if answer.status.is_success() => break answer.revision.context("a revision")?,
                Ok(answer) if answer.status != StatusCode::SERVICE_UNAVAILABLE => {
                    anyhow::bail!("{handle}: {}: {}", answer.status, answer.body)
                }
                Ok(_) | Err(_) => {}
            }
            tries += 1;
            retries += 1;
            ensure!(tries < 200, "{handle}: no controller takes it");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        written.push((revision, handle));
    }
    Ok((written, retries))
}

/// Every acknowledged revision is in the gateway's history exactly once, with the right artifact.
async fn verify_history(
    management: &Management,
    acknowledged: &BTreeMap<u64, String>,
    last: u64,
) -> anyhow::Result<()> {
    let mut seen = BTreeMap::new();
    let mut below = last + 1;
    while below > 1 {
        let page = management.get(&format!("/revisions?before={below}&limit=1000")).await?;
        let revisions = page.body["revisions"].as_array().context("a list of revisions")?.clone();
        ensure!(!revisions.is_empty(), "the history ends above {below}: {}", page.body);
        for entry in revisions {
            let revision = entry["revision"].as_u64().context("a revision")?;
            ensure!(revision + 1 == below, "{revision} precedes {below}");
            seen.insert(revision, entry["id"].as_str().unwrap_or_default().to_owned());
            below = revision;
        }
    }
    for (revision, handle) in acknowledged {
        ensure!(
            seen.get(revision) == Some(handle),
            "revision {revision}: {handle} acknowledged, {:?} stored",
            seen.get(revision)
        );
    }
    Ok(())
}

/// Requests during updates of the artifact they call: none may see a mixture, none may fail.
async fn mixture(binary: &Path, scale: &Scale) -> anyhow::Result<()> {
    let cluster = cluster(binary).await?;
    let document = |value: &str| {
        let mut policies = stamp("x-stamp", value);
        policies[0]["params"]["request"] = json!({ "headers": [{ "name": "x-stamp", "value": value }] });
        api("books", &cluster.backend.url(), &policies)
    };
    ensure!(cluster.management(0).create(&document("0"), "?wait=live").await?.status == StatusCode::CREATED);
    let same = |status: u16, headers: &reqwest::header::HeaderMap, body: &[u8]| {
        let answered = headers.get("x-stamp").and_then(|value| value.to_str().ok()).unwrap_or("none");
        let consistent =
            status == 200 && String::from_utf8_lossy(body).contains(&format!("[\"x-stamp\",\"{answered}\"]"));
        consistent
            .then_some(())
            .ok_or_else(|| format!("{status}, {answered}: {}", String::from_utf8_lossy(body)))
    };
    let urls = (0..3).map(|runtime| format!("{}/books/echo", cluster.traffic(runtime))).collect();
    let plan = Plan { urls, clients: 12, rate: None, limit: None, check: Arc::new(same) };
    let load = Load::start(&plan);
    let per_update = scale.mixture_requests / scale.mixture_updates as u64;
    for round in 1..=scale.mixture_updates {
        let answer = cluster.management(round % 2).replace(&document(&round.to_string()), "").await?;
        ensure!(answer.status == StatusCode::OK, "{}: {}", answer.status, answer.body);
        // Spread the updates over the traffic, whichever of the two is faster.
        let due = per_update * round as u64;
        let spread = eventually_async(CONVERGE, || async { (load.sent() >= due).then_some(()) });
        spread.await.context("no traffic")?;
    }
    let tally = load.stop().await;
    println!(
        "| {} requests during {} updates of the artifact they call: mixtures or failures | 0 | {} |",
        tally.sent, scale.mixture_updates, tally.failed
    );
    ensure!(tally.failed == 0, "{:?}", tally.reasons);
    Ok(())
}
