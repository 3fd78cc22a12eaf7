// SPDX-License-Identifier: Apache-2.0
//! The verdict: what the gateway says at the end held against everything it acknowledged,
//! every failed request explained or not, and one line per promise. A promise is held only
//! if it was looked at; each line says how.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use super::balancer::LogLine;
use super::clients::{self, Shared};
use super::faults::CONVERGE;
use super::history::{Band, FailedRequest, Kept, Promise};
use super::sampler;
use super::truth::{Acknowledged, Content};
use super::world::World;
use crate::eventually::eventually_async;
use crate::management::Management;

const ANSWER: Duration = Duration::from_secs(10);
/// A request may fail this long after the end of the fault that broke its connection: the
/// balancer waits so long for an answer on one that is silent.
const LINGER: u64 = 5_500;
/// A request that failed so long before the fault was noted was on its way already.
const NOTED: u64 = 50;

/// What became of the promises.
pub struct Verdict {
    /// Each promise, whether it was held, and what was looked at.
    pub promises: Vec<(Promise, bool, String)>,
    /// Each failed request with its explanation.
    pub failures: Vec<Explained>,
    /// What could not be carried out.
    pub broken: Option<String>,
}

/// A failed request.
pub struct Explained {
    /// What the client saw.
    pub request: FailedRequest,
    /// What the balancer saw.
    pub log: Option<LogLine>,
    /// The fault that broke a connection it used; none is a failure of ours.
    pub fault: Option<String>,
}

impl Verdict {
    /// Whether every promise was held and every failed request explained.
    #[must_use]
    pub fn held(&self) -> bool {
        self.broken.is_none() && self.promises.iter().all(|(_, held, _)| *held) && self.unexplained() == 0
    }

    /// Failed requests that no fault of a runtime's connections explains.
    #[must_use]
    pub fn unexplained(&self) -> usize {
        self.failures.iter().filter(|failure| failure.fault.is_none()).count()
    }

    /// The run besides could not be finished.
    #[must_use]
    pub fn and_broken(mut self, why: String) -> Verdict {
        self.broken = Some(why);
        self
    }
}

/// Looks at the end state and judges. The clients have stopped.
///
/// # Errors
/// When the gateway does not answer at all.
pub async fn reach(world: &World, shared: &Shared, positions: usize) -> anyhow::Result<Verdict> {
    let level = level(world).await;
    match &level {
        Ok(at) => {
            let what = format!("at the end all replicas stood at {at:?} with one digest");
            shared.history.evidence(Promise::P7, what);
        }
        Err(error) => shared.history.violation(Promise::P7, format!("{error:#}")),
    }
    let management = world.managements(ANSWER).swap_remove(0);
    let line = read_line(&management).await?;
    check_line(shared, &line);
    check_acknowledged(shared, &line);
    check_served(world, shared).await;
    let log = world.balancer.read_log()?;
    let kept = shared.history.kept();
    let failures = kept.failed.iter().map(|request| explain(request, &log, &kept.bands)).collect();
    Ok(Verdict { promises: judge(&kept, shared, &line, positions), failures, broken: None })
}

/// Waits until all replicas say the same.
async fn level(world: &World) -> anyhow::Result<sampler::Position> {
    let http = reqwest::Client::new();
    let level = eventually_async(CONVERGE, || async {
        let mut states = Vec::new();
        for replica in world.replicas() {
            let state = sampler::ask(&http, &replica.view).await.ok()?;
            states.push((state.position, state.digest));
        }
        let first = states.first()?.clone();
        states.iter().all(|state| *state == first).then_some(first.0)
    });
    level.await.context("the replicas do not end in the same state")
}

/// The gateway's whole line as it tells it: revision and handle, newest first.
async fn read_line(management: &Management) -> anyhow::Result<Vec<(u64, String)>> {
    let (mut line, mut before) = (Vec::new(), u64::MAX);
    loop {
        let page = management.get(&format!("/revisions?before={before}&limit=1000")).await?.body;
        let page: Vec<Value> = page["revisions"].as_array().context("a list of revisions")?.clone();
        if page.is_empty() {
            return Ok(line);
        }
        for entry in page {
            before = entry["revision"].as_u64().context("a revision")?;
            line.push((before, entry["id"].as_str().context("a handle")?.to_owned()));
        }
    }
}

/// P1: from the last revision down to 1, each once.
fn check_line(shared: &Shared, line: &[(u64, String)]) {
    let last = line.first().map(|(revision, _)| *revision).unwrap_or_default();
    let expected = (1..=last).rev();
    if line.len() as u64 != last || !line.iter().map(|(revision, _)| *revision).eq(expected) {
        let what = format!("the line of {} entries up to {last} has gaps or repetitions", line.len());
        shared.history.violation(Promise::P1, what);
    }
}

/// P8: every acknowledged write is there once, and nothing that nobody wrote.
fn check_acknowledged(shared: &Shared, line: &[(u64, String)]) {
    let stored: BTreeMap<u64, &str> =
        line.iter().map(|(revision, handle)| (*revision, handle.as_str())).collect();
    let (acknowledged, lost) = (shared.truth.acknowledged(), shared.truth.lost());
    let found = |write: &&Acknowledged| stored.get(&write.revision) == Some(&write.handle.as_str());
    for write in acknowledged.iter().filter(|write| !write.straddles && !found(write)) {
        let at = stored.get(&write.revision);
        let what = format!(
            "{} version {} was acknowledged as revision {}, where {at:?} is stored",
            write.handle, write.version, write.revision
        );
        shared.history.violation(Promise::P8, what);
    }
    let mut revisions = BTreeSet::new();
    for write in acknowledged.iter().filter(|write| !write.straddles) {
        if !revisions.insert(write.revision) {
            let what = format!("revision {} was acknowledged twice", write.revision);
            shared.history.violation(Promise::P8, what);
        }
    }
    for (handle, (begun, _)) in shared.truth.newest() {
        let of =
            |writes: &[Acknowledged]| writes.iter().filter(|write| write.handle == handle).count() as u64;
        let entries = line.iter().filter(|(_, stored)| *stored == handle).count() as u64;
        // An unanswered write may be there or not; more entries than writes are repetitions.
        if entries > begun.saturating_sub(of(&lost)) {
            let what = format!("{handle} stands {entries} times in the line and was written {begun} times");
            shared.history.violation(Promise::P8, what);
        }
    }
}

/// P3 at rest: every runtime serves the last acknowledged version of everything.
async fn check_served(world: &World, shared: &Shared) {
    let acknowledged = shared.truth.acknowledged();
    for (handle, (begun, content)) in shared.truth.newest() {
        let last =
            acknowledged.iter().filter(|write| write.handle == handle).map(|write| write.version).max();
        if last != Some(begun) {
            // It went with a lost tail, or was never answered: either may be served.
            continue;
        }
        for runtime in &world.runtimes {
            let Some(base) = &runtime.view.traffic else { continue };
            let served = clients::served(base, &handle).await;
            let expected = match content {
                Content::Gone => clients::Served::Absent,
                Content::There if handle == clients::LOCKED => clients::Served::Locked,
                Content::There => clients::Served::Version(begun),
            };
            if served != expected {
                let what = format!("{} serves {handle} as {served:?}, not {expected:?}", runtime.name);
                shared.history.violation(Promise::P3, what);
            }
        }
    }
}

fn explain(request: &FailedRequest, log: &BTreeMap<String, LogLine>, bands: &[Band]) -> Explained {
    let log = log.get(&request.id).cloned();
    // When a kept connection to a server breaks before the answer begins, the balancer closes
    // its client's connection without a word in the log, so that the client may try again.
    let runtime = log.as_ref().map(|log| log.runtime.as_str());
    let broke = bands.iter().find(|band| breaks(band, request, runtime));
    let fault = broke.map(|band| format!("{} of {}", band.kind, band.victim));
    Explained { request: request.clone(), log, fault }
}

/// Whether this fault broke connections to this runtime, or to whichever if that is not
/// known, while the request was under way.
fn breaks(band: &Band, request: &FailedRequest, runtime: Option<&str>) -> bool {
    let linger = if band.lingers { LINGER } else { 0 };
    let is_it = |index: &usize| runtime.is_none_or(|name| name == format!("runtime-{}", index + 1));
    band.breaks.iter().any(is_it)
        && request.ended.saturating_add(NOTED) >= band.began
        && request.began <= band.ended.saturating_add(linger)
}

fn judge(
    kept: &Kept,
    shared: &Shared,
    line: &[(u64, String)],
    positions: usize,
) -> Vec<(Promise, bool, String)> {
    let samples: usize = kept.samples.values().map(Vec::len).sum();
    let (lost, writes) = (shared.truth.lost().len(), kept.writes.len());
    let live = kept.writes.iter().filter(|write| write.live).count();
    let failovers = kept.bands.iter().filter(|band| band.failed_over.is_some()).count();
    let done = kept.bands.iter().filter(|band| band.converged.is_some() || band.paired).count();
    let slowest = kept.bands.iter().filter_map(|band| band.converged).max().unwrap_or_default();
    let answers = kept.requests - kept.failed.len() as u64;
    let looked = |promise: Promise| match promise {
        Promise::P1 => format!(
            "the line at the end has revisions 1 to {} once each; {positions} positions had one digest on \
             whichever replicas were seen there",
            line.len()
        ),
        Promise::P2 => format!(
            "{samples} samples and {} answers straight from runtimes; none went back in one epoch",
            kept.probes
        ),
        Promise::P3 => format!(
            "{live} writes answered live; {answers} answers through the balancer and {} from runtimes, none \
             older than owed, none a mixture; every runtime serves the last of each at the end",
            kept.probes
        ),
        Promise::P4 => "requests went on through every outage of database and controllers".to_owned(),
        Promise::P5 => format!(
            "{} bad documents among the good ones, all refused; no artifact refused or poisoned by a runtime",
            kept.refused_documents
        ),
        Promise::P6 => format!("{positions} positions compared over all replicas"),
        Promise::P7 => format!("{done} faults; all replicas were level again at most {slowest} ms after one"),
        Promise::P8 => format!(
            "{writes} acknowledged writes, {} attempts without an answer; {lost} lost with the tails of \
             {failovers} failovers, no other; none twice",
            kept.unanswered_writes
        ),
        Promise::P9 => "the locked API was never served without its password".to_owned(),
    };
    [
        Promise::P1,
        Promise::P2,
        Promise::P3,
        Promise::P4,
        Promise::P5,
        Promise::P6,
        Promise::P7,
        Promise::P8,
        Promise::P9,
    ]
    .into_iter()
    .map(|promise| {
        let broken: Vec<&str> =
            kept.violations.iter().filter(|(of, _)| *of == promise).map(|(_, what)| what.as_str()).collect();
        if !broken.is_empty() {
            return (promise, false, broken.join("\n"));
        }
        let more = kept.evidence.get(&promise).map(|all| format!("; {}", all.join("; "))).unwrap_or_default();
        (promise, true, looked(promise) + &more)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{LINGER, explain};
    use crate::chaos::balancer::LogLine;
    use crate::chaos::history::{Band, FailedRequest};

    #[test]
    fn only_a_fault_of_the_runtime_that_had_it_explains_a_failure() {
        let band = Band {
            kind: "SIGSTOP runtime".to_owned(),
            victim: "runtime-2".to_owned(),
            breaks: vec![1],
            lingers: true,
            began: 1_000,
            ended: 2_000,
            failed_over: None,
            converged: None,
            paired: false,
            note: String::new(),
        };
        for (runtime, began, ended, explained) in [
            ("runtime-2", 900, 1_100, true),
            ("runtime-1", 900, 1_100, false),
            ("runtime-2", 100, 900, false),
            ("runtime-2", 2_000 + LINGER, 9_000, true),
            ("runtime-2", 2_001 + LINGER, 9_000, false),
            ("<NOSRV>", 900, 1_100, false),
        ] {
            let request = FailedRequest { id: "1".to_owned(), began, ended, reason: String::new() };
            let line = LogLine {
                runtime: runtime.to_owned(),
                termination: "SH--".to_owned(),
                retries: "0".to_owned(),
            };
            let log = BTreeMap::from([("1".to_owned(), line)]);
            let found = explain(&request, &log, std::slice::from_ref(&band));
            assert_eq!(found.fault.is_some(), explained, "{runtime} {began} {ended}");
            assert!(explain(&request, &log, &[]).fault.is_none());
        }
    }
}
