// SPDX-License-Identifier: Apache-2.0
//! Asks every replica, all the time, where it stands, and holds what it says against what
//! it and the others said before: no runtime goes back (P2), and whoever is at the same
//! position has the same digest (P1, P6). Reads its memory besides.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use super::clients::Shared;
use super::history::{Promise, Sample};
use super::world::View;
use crate::cluster::PASSWORD;

const EVERY: Duration = Duration::from_millis(200);
const DEADLINE: Duration = Duration::from_secs(1);
/// Linux counts resident memory in pages of this many KiB, but for rare configurations.
const PAGE_KIB: u64 = 4;

/// Epoch and revision.
pub type Position = (u64, u64);

/// What a replica says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Where it stands.
    pub position: Position,
    /// The digest of what it holds.
    pub digest: String,
    /// What a runtime would have after a crash.
    pub persisted: Option<u64>,
    /// A runtime follows a controller; a controller sees its store.
    pub connected: bool,
    /// A runtime answers for all that it was given.
    pub whole: bool,
}

/// Which digest was seen at which position first, and of whom.
#[derive(Default)]
pub struct Digests(Mutex<BTreeMap<Position, (String, String)>>);

/// Asks one replica.
///
/// # Errors
/// When it does not answer.
pub async fn ask(http: &reqwest::Client, view: &View) -> anyhow::Result<State> {
    let runtime = view.traffic.is_some();
    let request = if runtime {
        http.get(format!("{}/status", view.state))
    } else {
        let cluster = format!("{}/api/management/v1/cluster", view.state);
        http.get(cluster).basic_auth("admin", Some(PASSWORD))
    };
    let body: Value = request.timeout(DEADLINE).send().await?.error_for_status()?.json().await?;
    let number = |name: &str| body[name].as_u64().with_context(|| format!("{name} in {body}"));
    Ok(State {
        position: (number("epoch")?, number("revision")?),
        digest: body["digest"].as_str().context("a digest")?.to_owned(),
        persisted: body["persistedRevision"].as_u64(),
        connected: if runtime { body["controller"].is_string() } else { body["store"] == "available" },
        whole: body["poisonedRoutes"].as_u64().unwrap_or_default() == 0
            && body["rejects"].as_array().is_none_or(Vec::is_empty),
    })
}

/// Samples one replica until told to stop.
pub async fn sample(shared: Arc<Shared>, view: View, digests: Arc<Digests>) {
    let http = reqwest::Client::new();
    let mut pace = tokio::time::interval(EVERY);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before: Option<(u64, State)> = None;
    while !shared.stop.load(Ordering::Relaxed) {
        pace.tick().await;
        let incarnation = view.incarnation.load(Ordering::Relaxed);
        let Ok(state) = ask(&http, &view).await else { continue };
        if view.incarnation.load(Ordering::Relaxed) != incarnation {
            // It was another process when it answered than is there now.
            continue;
        }
        // A controller that has just been started has read nothing yet, a runtime no file.
        if state.position == (0, 0) {
            continue;
        }
        if view.traffic.is_some() {
            if let Some(what) = backward(before.as_ref(), incarnation, &state) {
                shared.history.violation(Promise::P2, format!("{}: {what}", view.name));
            }
            if !state.whole {
                let what = format!("{}: it refused or poisoned a good artifact", view.name);
                shared.history.violation(Promise::P5, what);
            }
        }
        if let Some(what) = digests.compare(&view.name, &state) {
            shared.history.violation(Promise::P6, what);
        }
        let sample = Sample { at: shared.history.now(), position: state.position, resident: resident(&view) };
        shared.history.sampled(&view.name, sample);
        before = Some((incarnation, state));
    }
}

/// What is wrong with a runtime that said `before` and says `now`. A process never goes back;
/// one that was started again may have lost what it had not acknowledged yet.
fn backward(before: Option<&(u64, State)>, incarnation: u64, now: &State) -> Option<String> {
    let (was, before) = before?;
    let least = if *was == incarnation {
        before.position
    } else {
        (before.position.0, before.persisted.unwrap_or_default())
    };
    (now.position < least).then(|| format!("it was at {least:?} and is at {:?}", now.position))
}

impl Digests {
    fn compare(&self, name: &str, state: &State) -> Option<String> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (digest, first) =
            seen.entry(state.position).or_insert_with(|| (state.digest.clone(), name.to_owned()));
        (*digest != state.digest)
            .then(|| format!("at {:?} {first} had {digest} and {name} has {}", state.position, state.digest))
    }

    /// How many positions were compared.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

fn resident(view: &View) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", view.pid.load(Ordering::Relaxed)));
    let pages = statm.ok().and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    pages.unwrap_or_default() * PAGE_KIB
}

#[cfg(test)]
mod tests {
    use super::{State, backward};

    #[test]
    fn a_process_never_goes_back_and_its_successor_not_below_the_disk() {
        let state = |position, persisted| State {
            position,
            digest: String::new(),
            persisted: Some(persisted),
            connected: true,
            whole: true,
        };
        let before = (1, state((1, 9), 8));
        for (incarnation, position, wrong) in
            [(1, (1, 9), false), (1, (1, 8), true), (2, (1, 8), false), (2, (1, 7), true), (1, (2, 3), false)]
        {
            let found = backward(Some(&before), incarnation, &state(position, position.1));
            assert_eq!(found.is_some(), wrong, "{incarnation} {position:?} {found:?}");
        }
    }
}
