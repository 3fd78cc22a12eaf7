// SPDX-License-Identifier: Apache-2.0
//! Whether memory comes back: a gateway of real processes under a steady stream of changes,
//! its memory sampled all the while. `cargo xtask soak` builds what is needed and runs this.
//! It fails when a process ends more than a twentieth above what it had once it was warm,
//! or when a change was not acknowledged or is not served in the end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use ferrogate_testkit::cluster::{Cluster, Shape};
use ferrogate_testkit::eventually::eventually_async;
use ferrogate_testkit::management::{api, stamp};
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior, interval};

const USAGE: &str = "usage: soak FERROGATE-BINARY SECONDS CHANGES-PER-SECOND";
/// Artifacts that the changes go round.
const ARTIFACTS: u64 = 50;
const SAMPLED_EVERY: Duration = Duration::from_secs(2);
/// The part of the run in which caches and pools fill, and the parts compared.
const WARM: f64 = 0.3;
const COMPARED: f64 = 0.1;
const CONVERGE: Duration = Duration::from_secs(60);

/// One process's memory, in MiB, by when.
type Samples = BTreeMap<String, Vec<(f64, f64)>>;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let mut args = std::env::args().skip(1);
    let mut next = || args.next().context(USAGE);
    let binary = PathBuf::from(next()?);
    let length = Duration::from_secs(next()?.parse().context(USAGE)?);
    let rate: u32 = next()?.parse().context(USAGE)?;
    let shape = Shape { binary: &binary, controllers: &["a", "b"], runtimes: &["a", "b"] };
    let cluster = Cluster::start(shape).await?;
    let began = Instant::now();
    let (changes, samples) = change(&cluster, length, rate).await?;
    let per_second = changes as f64 / began.elapsed().as_secs_f64();
    served(&cluster, changes).await?;
    println!("{changes} changes in {:.0} s, {per_second:.1} a second", length.as_secs_f64());
    report(&samples, length.as_secs_f64())
}

/// Replaces one artifact after the other, at either controller in turn; every change is
/// acknowledged or ends the run.
async fn change(cluster: &Cluster, length: Duration, rate: u32) -> anyhow::Result<(u64, Samples)> {
    let clients = [cluster.management(0), cluster.management(1)];
    let began = Instant::now();
    let (mut changes, mut samples, mut sample_at) = (0_u64, Samples::new(), began);
    let mut pace = interval(Duration::from_secs(1) / rate.max(1));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while began.elapsed() < length {
        pace.tick().await;
        let client = if changes.is_multiple_of(2) { &clients[0] } else { &clients[1] };
        let document = document(cluster, changes);
        let answer = if changes < ARTIFACTS {
            client.create(&document, "").await?
        } else {
            client.replace(&document, "").await?
        };
        ensure!(answer.status.is_success(), "change {changes}: {}: {}", answer.status, answer.body);
        changes += 1;
        if Instant::now() >= sample_at {
            sample_at = Instant::now() + SAMPLED_EVERY;
            for process in cluster.controllers.iter().chain(&cluster.runtimes) {
                let resident = process.resident().with_context(|| format!("{} ended", process.name()))?;
                let sample = (began.elapsed().as_secs_f64(), resident as f64 / 1024.0);
                samples.entry(process.name().to_owned()).or_default().push(sample);
            }
        }
    }
    Ok((changes, samples))
}

/// The artifact of this change; its responses carry the number.
fn document(cluster: &Cluster, change: u64) -> Value {
    let policies = stamp("x-change", &change.to_string());
    api(&format!("soaked-{}", change % ARTIFACTS), &cluster.backend.url(), &policies)
}

/// Every runtime serves every artifact's last change.
async fn served(cluster: &Cluster, changes: u64) -> anyhow::Result<()> {
    for runtime in 0..cluster.runtimes.len() {
        for change in changes.saturating_sub(ARTIFACTS)..changes {
            let url = format!("{}/soaked-{}/echo", cluster.traffic(runtime), change % ARTIFACTS);
            let there = eventually_async(CONVERGE, || async {
                let answer = reqwest::get(&url).await.ok()?;
                let told = answer.headers().get("x-change")?.to_str().ok()?.parse::<u64>().ok()?;
                (told == change).then_some(())
            });
            there.await.with_context(|| format!("change {change} is not served at {url}"))?;
        }
    }
    Ok(())
}

fn report(samples: &Samples, length: f64) -> anyhow::Result<()> {
    println!("| process | warm, MiB | end, MiB | most, MiB | grown |\n|---|---|---|---|---|");
    let mut grown_too_much = Vec::new();
    for (name, samples) in samples {
        let between = |from: f64, to: f64| {
            let held = samples.iter().filter(|(at, _)| (from * length..to * length).contains(at));
            median(held.map(|(_, size)| *size).collect())
        };
        let (warm, end) = (between(WARM, WARM + COMPARED), between(1.0 - COMPARED, 1.0));
        let most = samples.iter().map(|(_, size)| *size).fold(0.0, f64::max);
        let grown = (end / warm - 1.0) * 100.0;
        println!("| {name} | {warm:.1} | {end:.1} | {most:.1} | {grown:+.1} % |");
        if grown > 5.0 {
            grown_too_much.push(name.as_str());
        }
    }
    ensure!(grown_too_much.is_empty(), "memory did not come back: {}", grown_too_much.join(", "));
    Ok(())
}

fn median(mut sizes: Vec<f64>) -> f64 {
    sizes.sort_by(f64::total_cmp);
    sizes.get(sizes.len() / 2).copied().unwrap_or(f64::NAN)
}
