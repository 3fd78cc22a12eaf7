// SPDX-License-Identifier: Apache-2.0
//! The clients: writers that deploy one version after another and repeat under the same
//! key until they are answered, readers through the balancer, and a probe straight at each
//! runtime. Each tells [`Truth`] and [`History`] what it sent and saw. They know nothing
//! of the faults.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::balancer::{ID, RUNTIME};
use super::history::{History, Promise, Write};
use super::truth::{Content, Seen, Truth, Version};
use super::world::{RUNTIMES, View};
use crate::management::{Answer, Management, api};

/// Writers, each alone responsible for its handles.
pub const WRITERS: usize = 4;
/// Handles per writer that always exist once written; one more comes and goes.
const LASTING: usize = 3;
/// The handle that asks for a password nobody sends, per run.
pub const LOCKED: &str = "locked";
/// A document that breaks rules.
const BROKEN: &str = "broken";
/// One in so many writes is preceded by a document that must be refused.
const BROKEN_EVERY: u64 = 10;
const READ_DEADLINE: Duration = Duration::from_secs(10);
const PROBE_DEADLINE: Duration = Duration::from_secs(2);
/// Longer than the wait for live that is asked for.
pub const WRITE_DEADLINE: Duration = Duration::from_secs(3);
const WAIT: &str = "?wait=live&timeout=2s";
/// Between two attempts at the same write.
const RETRY: Duration = Duration::from_millis(25);
/// The header that says which version answered.
const STAMP: &str = "x-version";

/// What all clients share.
pub struct Shared {
    /// What is owed.
    pub truth: Truth,
    /// What happened.
    pub history: History,
    /// Set at the end: finish what is under way.
    pub stop: AtomicBool,
    /// The base URLs of the backends.
    pub upstreams: Vec<String>,
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// The handles of a writer.
#[must_use]
pub fn handles(writer: usize) -> Vec<String> {
    let lasting = (0..LASTING).map(|index| format!("w{writer}-{index}"));
    let mut all: Vec<String> = lasting.chain([format!("w{writer}-fleeting")]).collect();
    if writer == 0 {
        all.push(LOCKED.to_owned());
    }
    all
}

/// Deploys until told to stop; ends once the last write is answered or given up.
pub async fn write(
    shared: Arc<Shared>,
    writer: usize,
    controllers: Vec<Management>,
    every: Duration,
    seed: u64,
) {
    let mut rng = Rng::with_seed(seed.wrapping_add(writer as u64));
    let handles = handles(writer);
    let mut there = false;
    let mut pace = tokio::time::interval(every);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut first = rng.usize(..controllers.len());
    let mut count = 0_usize;
    while !shared.stopped() {
        pace.tick().await;
        if rng.u64(..BROKEN_EVERY) == 0 {
            write_broken(&shared, &controllers[first]).await;
        }
        // Each once first, so that readers have something to ask for.
        let handle = handles.get(count).unwrap_or_else(|| &handles[rng.usize(..handles.len())]);
        count += 1;
        let fleeting = handle.ends_with("fleeting");
        let content = if fleeting && there { Content::Gone } else { Content::There };
        there ^= fleeting;
        first = (first + 1) % controllers.len();
        write_one(&shared, handle, content, &controllers, first).await;
    }
}

async fn write_one(
    shared: &Shared,
    handle: &str,
    content: Content,
    controllers: &[Management],
    first: usize,
) {
    let version = shared.truth.begin(handle, content);
    let document = document(handle, version, &shared.upstreams);
    let key = uuid::Uuid::new_v4().to_string();
    let (began, since) = (shared.history.now(), shared.truth.generation());
    for retries in 0_u32.. {
        let controller = (first + retries as usize) % controllers.len();
        let management = &controllers[controller];
        let sent = shared.history.now();
        let answer = match content {
            Content::There => management.apply_keyed(&document, &key, WAIT).await,
            Content::Gone => management.delete_keyed(handle, &key, WAIT).await,
        };
        record_attempt(shared, handle, version, controller, sent, &key, &answer);
        let ended = shared.history.now();
        match answer {
            Ok(answer) if answer.status.is_success() => {
                let Some(revision) = answer.revision else {
                    let what = format!("{handle}: a write was answered without a revision");
                    return shared.history.violation(Promise::P8, what);
                };
                let live_on = live_on(&answer.body);
                let live = !live_on.is_empty();
                shared.truth.acknowledge(handle, version, revision, live_on, since);
                return shared.history.written(Write { began, ended, revision, retries, live });
            }
            // What was to be deleted went with a lost tail.
            Ok(answer) if answer.status == StatusCode::NOT_FOUND && content == Content::Gone => {
                if shared.truth.generation() == 0 {
                    let what = format!("{handle}: acknowledged and deleted by nobody, yet not found");
                    shared.history.violation(Promise::P8, what);
                }
                return;
            }
            Ok(answer) if answer.status != StatusCode::SERVICE_UNAVAILABLE => {
                let what = format!("{handle}: a good write was answered {}: {}", answer.status, answer.body);
                return shared.history.violation(Promise::P8, what);
            }
            Ok(_) | Err(_) => shared.history.unanswered_write(),
        }
        if shared.stopped() && ended.saturating_sub(began) > 30_000 {
            return shared.history.violation(Promise::P7, format!("{handle}: no controller takes writes"));
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn record_attempt(
    shared: &Shared,
    handle: &str,
    version: Version,
    controller: usize,
    sent: u64,
    key: &str,
    answer: &anyhow::Result<Answer>,
) {
    let (status, revision, body) = match answer {
        Ok(answer) => (json!(answer.status.as_u16()), json!(answer.revision), live(&answer.body).clone()),
        Err(error) => (json!(format!("{error:#}")), Value::Null, Value::Null),
    };
    let ended = shared.history.now();
    shared.history.line(&json!({
        "write": handle, "version": version, "key": key, "controller": controller, "began": sent,
        "ended": ended, "status": status, "revision": revision, "live": body,
    }));
}

/// Sends what must be refused (P5): an unknown policy.
async fn write_broken(shared: &Shared, management: &Management) {
    let bad = api(BROKEN, &shared.upstreams[0], &json!([{ "name": "no-such-policy", "version": "v1" }]));
    match management.create(&bad, "").await {
        Ok(answer) if answer.status == StatusCode::BAD_REQUEST => shared.history.refused_document(),
        Ok(answer) if answer.status == StatusCode::SERVICE_UNAVAILABLE => {}
        Ok(answer) => {
            let what = format!("a bad document was answered {}: {}", answer.status, answer.body);
            shared.history.violation(Promise::P5, what);
        }
        Err(_) => {}
    }
}

/// A version tells itself in three places: what the client sees, what the backend sees, and
/// where the request went. An answer with two versions in it is a mixture.
fn document(handle: &str, version: Version, upstreams: &[String]) -> Value {
    let header = json!([{ "name": STAMP, "value": version.to_string() }]);
    let stamp = json!({ "name": "set-headers", "version": "v1",
                        "params": { "request": { "headers": header }, "response": { "headers": header } } });
    let lock = json!({ "name": "basic-auth", "version": "v1",
                       "params": { "username": "nobody", "password": format!("knows-{version}") } });
    let policies = if handle == LOCKED { json!([lock, stamp]) } else { json!([stamp]) };
    let upstream = &upstreams[usize::try_from(version).unwrap_or_default() % upstreams.len()];
    api(handle, &format!("{upstream}/at-{version}"), &policies)
}

fn live(body: &Value) -> &Value {
    let places = [&body["live"], &body["status"]["live"]];
    places.into_iter().find(|place| place.is_object()).unwrap_or(&Value::Null)
}

/// The runtimes that an answer says serve it. When it does not account for all of them, one
/// that it does not name may be any.
fn live_on(body: &Value) -> BTreeSet<usize> {
    let live = live(body);
    let absent: BTreeSet<usize> = live["absent"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| index(one["runtime"].as_str()?))
        .collect();
    let counted = live["runtimes"].as_u64().unwrap_or_default();
    if live["live"] != json!(true) || counted + absent.len() as u64 != RUNTIMES.len() as u64 {
        return BTreeSet::new();
    }
    (0..RUNTIMES.len()).filter(|runtime| !absent.contains(runtime)).collect()
}

/// `runtime-2` is 1.
fn index(name: &str) -> Option<usize> {
    name.strip_prefix("runtime-")?.parse::<usize>().ok()?.checked_sub(1)
}

/// What came back, as far as it can be read.
enum Read {
    Seen(usize, Seen),
    /// The locked handle said no.
    Locked(usize),
    Wrong(Promise, String),
    Failed(String),
}

/// Requests through the balancer, one after the other over a kept connection.
pub async fn read(shared: Arc<Shared>, base: String, every: Duration, seed: u64) {
    static IDS: AtomicU64 = AtomicU64::new(1);
    let mut rng = Rng::with_seed(seed);
    let Ok(http) = client(READ_DEADLINE) else { return };
    let all: Vec<String> = (0..WRITERS).flat_map(handles).collect();
    let mut pace = tokio::time::interval(every);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !shared.stopped() {
        pace.tick().await;
        let handle = &all[rng.usize(..all.len())];
        let id = IDS.fetch_add(1, Ordering::Relaxed).to_string();
        let (began, due) = (shared.history.now(), shared.truth.due(handle));
        let read = ask(&http, &base, handle, Some(&id), None).await;
        match read {
            Read::Seen(runtime, seen) => match shared.truth.judge(handle, runtime, &due, seen) {
                Ok(()) => shared.history.answered(began, runtime, handle, &text(seen)),
                Err(what) => shared.history.violation(Promise::P3, format!("request {id}: {what}")),
            },
            Read::Locked(runtime) => shared.history.answered(began, runtime, handle, "locked"),
            Read::Wrong(promise, what) => shared.history.violation(promise, format!("request {id}: {what}")),
            Read::Failed(reason) => shared.history.failed(id, began, format!("{handle}: {reason}")),
        }
    }
}

/// Requests straight to one runtime, which besides may never go back while it lives (P2).
/// When it does not answer, that is for the balancer's clients to notice.
pub async fn probe(shared: Arc<Shared>, runtime: usize, view: View, every: Duration, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let (Ok(http), Some(base)) = (client(PROBE_DEADLINE), view.traffic.clone()) else { return };
    let all: Vec<String> = (0..WRITERS).flat_map(handles).collect();
    let mut pace = tokio::time::interval(every);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut newest: BTreeMap<String, (u64, u64, Version)> = BTreeMap::new();
    while !shared.stopped() {
        pace.tick().await;
        let handle = &all[rng.usize(..all.len())];
        let incarnation = view.incarnation.load(Ordering::Relaxed);
        let (began, due) = (shared.history.now(), shared.truth.due(handle));
        match ask(&http, &base, handle, None, Some(runtime)).await {
            Read::Seen(_, seen) => {
                if let Err(what) = shared.truth.judge(handle, runtime, &due, seen) {
                    shared.history.violation(Promise::P3, format!("{}: {what}", view.name));
                    continue;
                }
                let generation = shared.truth.generation();
                if let Seen::Version(version) = seen {
                    let before = newest.insert(handle.clone(), (incarnation, generation, version));
                    let backward = before.is_some_and(|before| {
                        before > (incarnation, generation, version) && before.0 == incarnation
                    });
                    // After a failover it may lose versions once, and when is not known here.
                    if backward && generation == 0 {
                        let what = format!("{}: {handle} went from {before:?} to {version}", view.name);
                        shared.history.violation(Promise::P2, what);
                    }
                }
                shared.history.probed(began, runtime, handle, &text(seen));
            }
            Read::Locked(_) => shared.history.probed(began, runtime, handle, "locked"),
            Read::Wrong(promise, what) => {
                shared.history.violation(promise, format!("{}: {what}", view.name));
            }
            Read::Failed(_) => {}
        }
    }
}

fn client(deadline: Duration) -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder().pool_max_idle_per_host(1).timeout(deadline).build()
}

fn text(seen: Seen) -> String {
    match seen {
        Seen::Version(version) => version.to_string(),
        Seen::Absent => "absent".to_owned(),
    }
}

/// One request; `runtime` is which one answers, when that is known beforehand.
async fn ask(
    http: &reqwest::Client,
    base: &str,
    handle: &str,
    id: Option<&str>,
    runtime: Option<usize>,
) -> Read {
    let mut request = http.get(format!("{base}/{handle}/echo"));
    if let Some(id) = id {
        request = request.header(ID, id);
    }
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) => return Read::Failed(format!("{error:?}")),
    };
    let status = response.status();
    let header = |name: &str| response.headers().get(name)?.to_str().ok().map(str::to_owned);
    let runtime = runtime.or_else(|| index(&header(RUNTIME)?));
    let stamp = header(STAMP);
    let body = match response.bytes().await {
        Ok(body) => body,
        Err(error) => return Read::Failed(format!("body: {error:?}")),
    };
    let Some(runtime) = runtime else { return Read::Failed(format!("{status} of no runtime")) };
    match status {
        StatusCode::UNAUTHORIZED if handle == LOCKED => Read::Locked(runtime),
        StatusCode::NOT_FOUND => Read::Seen(runtime, Seen::Absent),
        StatusCode::OK if handle == LOCKED => {
            Read::Wrong(Promise::P9, "the locked handle was served without a password".to_owned())
        }
        StatusCode::OK => match version(stamp.as_deref(), &body) {
            Some(version) => Read::Seen(runtime, Seen::Version(version)),
            None => {
                let body = String::from_utf8_lossy(&body);
                Read::Wrong(Promise::P3, format!("{handle}: a mixture: {stamp:?} with {body}"))
            }
        },
        other => Read::Failed(format!("{other}: {}", String::from_utf8_lossy(&body))),
    }
}

/// How one runtime serves a handle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Served {
    /// This version.
    Version(Version),
    /// Not at all.
    Absent,
    /// Not without a password.
    Locked,
    /// In none of the ways it may.
    Wrong(String),
}

/// Asks one runtime, not through the balancer, how it serves a handle.
pub async fn served(base: &str, handle: &str) -> Served {
    let http = match client(READ_DEADLINE) {
        Ok(http) => http,
        Err(error) => return Served::Wrong(error.to_string()),
    };
    match ask(&http, base, handle, None, Some(0)).await {
        Read::Seen(_, Seen::Version(version)) => Served::Version(version),
        Read::Seen(_, Seen::Absent) => Served::Absent,
        Read::Locked(_) => Served::Locked,
        Read::Wrong(_, what) | Read::Failed(what) => Served::Wrong(what),
    }
}

/// The version of an answer, when all of it is of one.
fn version(stamp: Option<&str>, body: &[u8]) -> Option<Version> {
    let version: Version = stamp?.parse().ok()?;
    let echo: Value = serde_json::from_slice(body).ok()?;
    let wanted = json!([STAMP, version.to_string()]);
    let received = echo["headers"].as_array()?.contains(&wanted);
    let place = echo["path"].as_str()?.starts_with(&format!("/at-{version}/"));
    (received && place).then_some(version)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::{live_on, version};

    #[test]
    fn an_answer_counts_only_runtimes_it_accounts_for() {
        let absent = json!([{ "runtime": "runtime-3" }]);
        for (live, expected) in [
            (json!({ "live": true, "runtimes": 4, "absent": [] }), vec![0, 1, 2, 3]),
            (json!({ "live": true, "runtimes": 3, "absent": absent }), vec![0, 1, 3]),
            (json!({ "live": true, "runtimes": 3, "absent": [] }), vec![]),
            (json!({ "live": false, "runtimes": 4, "absent": [] }), vec![]),
        ] {
            let body = json!({ "live": live });
            assert_eq!(live_on(&body), expected.into_iter().collect::<BTreeSet<_>>(), "{body}");
        }
    }

    #[test]
    fn a_mixture_is_no_version() {
        let echo = |header: &str, path: &str| {
            json!({ "headers": [["x-version", header]], "path": path }).to_string().into_bytes()
        };
        assert_eq!(version(Some("7"), &echo("7", "/at-7/echo")), Some(7));
        assert_eq!(version(Some("7"), &echo("6", "/at-7/echo")), None);
        assert_eq!(version(Some("7"), &echo("7", "/at-71/echo")), None);
        assert_eq!(version(None, &echo("7", "/at-7/echo")), None);
    }
}
