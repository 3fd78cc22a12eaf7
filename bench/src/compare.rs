// SPDX-License-Identifier: Apache-2.0
//! The comparison: in every round of a scenario each proxy is loaded once, one after the
//! other, in an order that turns from round to round, so that what the machine does
//! meanwhile does not favour one of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;

use crate::figure::{Figure, Rounds};
use crate::load::{self, Plan};
use crate::peers::{self, Ground, Kind, Peer};
use crate::report;
use crate::scenario::{SCENARIOS, Scenario, Traffic};

/// Unmeasured load before each measured one: connections are made, caches are warm.
const WARM_UP: Duration = Duration::from_secs(1);

/// What to measure.
#[derive(Args)]
pub struct Options {
    /// The gateway's release binary
    #[arg(long)]
    ferrogate: PathBuf,
    /// Envoy's binary; without it Envoy is left out, and the tables say so
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// Rounds of each scenario
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of load for each proxy in each round
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Only these scenarios
    #[arg(long)]
    only: Vec<String>,
    /// The document whose marked part is replaced, the plot beside it
    #[arg(long)]
    document: Option<PathBuf>,
}

/// Measures and reports.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism()?.get();
    ensure!(cores >= 2, "the proxy and its load need a core each");
    let (core, other_core) = (0, cores - 1);
    let dir = tempfile::tempdir()?;
    let (certificate, key) = peers::certificate(other_core, dir.path()).await?;
    let (backend, _upstream) = peers::backend(other_core, dir.path()).await?;
    let ground = Ground {
        core,
        other_core,
        backend,
        dir: dir.path(),
        ferrogate: &options.ferrogate,
        envoy: options.envoy.as_deref(),
        certificate: &certificate,
        key: &key,
    };
    let chosen = |scenario: &&Scenario| {
        options.only.is_empty() || options.only.iter().any(|name| name == scenario.name)
    };
    let scenarios: Vec<&Scenario> = SCENARIOS.iter().filter(chosen).collect();
    ensure!(!scenarios.is_empty(), "no such scenario; there are {}", names());
    let peers = start(&scenarios, &ground).await?;
    let mut results = Vec::new();
    for scenario in scenarios {
        let mut rounds = Rounds::default();
        for round in 0..options.rounds {
            eprintln!("{}: round {} of {}", scenario.name, round + 1, options.rounds);
            rounds.push(one_round(scenario, round, &peers, options, &ground).await?);
        }
        results.push((*scenario, rounds));
    }
    let text = report::tables(&results, options.rounds, options.seconds);
    println!("{text}");
    if let Some(document) = &options.document {
        report::write(document, &text, &results)?;
    }
    Ok(())
}

fn names() -> String {
    SCENARIOS.iter().map(|scenario| scenario.name).collect::<Vec<_>>().join(", ")
}

/// Every proxy that some scenario needs. All of them stay up for the whole run: an idle one
/// costs its core nothing.
async fn start(scenarios: &[&Scenario], ground: &Ground<'_>) -> anyhow::Result<BTreeMap<Kind, Peer>> {
    let mut peers = BTreeMap::new();
    for kind in scenarios.iter().flat_map(|scenario| scenario.kinds) {
        let is_envoy = matches!(kind, Kind::Envoy | Kind::EnvoyExtProc);
        if peers.contains_key(kind) || (is_envoy && ground.envoy.is_none()) {
            continue;
        }
        eprintln!("starting {}", kind.name());
        peers.insert(*kind, kind.start(ground).await?);
    }
    Ok(peers)
}

async fn one_round(
    scenario: &Scenario,
    round: usize,
    peers: &BTreeMap<Kind, Peer>,
    options: &Options,
    ground: &Ground<'_>,
) -> anyhow::Result<BTreeMap<Kind, Figure>> {
    let mut kinds: Vec<Kind> =
        scenario.kinds.iter().copied().filter(|kind| peers.contains_key(kind)).collect();
    let turn = round % kinds.len().max(1);
    kinds.rotate_left(turn);
    let mut figures = BTreeMap::new();
    for kind in kinds {
        let Some(peer) = peers.get(&kind) else { continue };
        let time = Duration::from_secs(options.seconds);
        let measured = match scenario.traffic {
            Traffic::Idle(count) => idle(peer, count).await,
            _ => loaded(scenario, peer, time, ground).await,
        };
        let figure = measured.with_context(|| format!("{} in {}", kind.name(), scenario.name))?;
        figures.insert(kind, figure);
    }
    Ok(figures)
}

async fn loaded(
    scenario: &Scenario,
    peer: &Peer,
    time: Duration,
    ground: &Ground<'_>,
) -> anyhow::Result<Figure> {
    let plan = |time| Plan { core: ground.other_core, time, dir: ground.dir, token: peer.token.as_deref() };
    load::run(scenario.traffic, peer, &plan(WARM_UP)).await?;
    let before = peer.cpu_nanos()?;
    let seen = load::run(scenario.traffic, peer, &plan(time)).await?;
    let nanos = peer.cpu_nanos()?.saturating_sub(before);
    ensure!(seen.requests > 0, "not one request was answered");
    Ok(Figure {
        requests: seen.requests,
        errors: seen.errors,
        seconds: seen.seconds,
        cpu_micros: nanos as f64 / 1e3 / seen.requests as f64,
        p50: seen.p50,
        p99: seen.p99,
        p999: seen.p999,
        memory_kib: peer.memory_kib()?,
    })
}

async fn idle(peer: &Peer, count: usize) -> anyhow::Result<Figure> {
    let mut held = tokio::process::Command::new(std::env::current_exe()?)
        .args(["idle", &peer.http.to_string(), &count.to_string()])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let output = held.stdout.take().context("its output is piped")?;
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(output));
    let limit = Duration::from_secs(60);
    let line =
        tokio::time::timeout(limit, lines.next_line()).await.context("the connections are not made")??;
    ensure!(line.as_deref() == Some("held"), "the connections were not made");
    let memory_kib = peer.memory_kib()?;
    drop(held.stdin.take());
    held.wait().await?;
    Ok(Figure { memory_kib, ..Figure::default() })
}

/// The folder a document lies in.
pub fn folder(document: &Path) -> &Path {
    document.parent().unwrap_or(Path::new("."))
}
