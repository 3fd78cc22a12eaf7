// SPDX-License-Identifier: Apache-2.0
//! Runs the model's scenarios and says what was walked: states, depth and time for each
//! promise. A promise that breaks comes with the shortest way there. The bounds of
//! continuous integration finish within a minute; deeper ones are asked for.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model};

use super::{Bounds, Grain, Plant, Promise, Protocol};

/// What one scenario showed.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What it checked.
    pub promises: Vec<Promise>,
    /// Within which bounds.
    pub bounds: Bounds,
    /// Different states that were walked.
    pub states: usize,
    /// Transitions that were taken.
    pub transitions: usize,
    /// The longest path.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// The promises that broke, each with the actions that lead there.
    pub broken: Vec<(Promise, String)>,
}

/// The scenarios: a few small worlds cover more than one large one. `deeper` adds that many
/// actions to each path.
#[must_use]
pub fn scenarios(deeper: usize) -> Vec<Protocol> {
    let all = vec![Promise::Line, Promise::Back, Promise::Live, Promise::Bytes, Promise::Assertions];
    let controllers = vec![Promise::Line, Promise::Bytes, Promise::Assertions];
    let bounds = |grain, runtimes, batches, faults, depth: usize| Bounds {
        runtimes,
        batches,
        faults,
        depth: depth + deeper,
        grain,
    };
    [
        (controllers, bounds(Grain::Fine, 0, 4, 3, 12)),
        (all.clone(), bounds(Grain::Fine, 1, 2, 2, 12)),
        (all.clone(), bounds(Grain::Coarse, 1, 4, 3, 10)),
        (all, bounds(Grain::Coarse, 2, 3, 2, 9)),
        (vec![Promise::Converges], bounds(Grain::Coarse, 1, 3, 3, 8)),
    ]
    .into_iter()
    .map(|(promises, bounds)| Protocol { bounds, plant: None, promises })
    .collect()
}

/// The smallest world in which a planted bug shows, and the promise that it breaks.
#[must_use]
pub fn planted(plant: Plant) -> Protocol {
    let (runtimes, batches, faults, promise) = match plant {
        Plant::Sequence => (0, 2, 1, Promise::Line),
        Plant::CursorBeforeApply => (0, 2, 1, Promise::Assertions),
        Plant::AckBeforeDisk => (1, 1, 1, Promise::Live),
        Plant::ResumeWithoutEpoch => (1, 1, 2, Promise::Converges),
        Plant::NoEpochs => (0, 3, 1, Promise::Line),
    };
    let bounds = Bounds { runtimes, batches, faults, depth: 14, grain: Grain::Fine };
    Protocol { bounds, plant: Some(plant), promises: vec![promise] }
}

/// Walks one world.
#[must_use]
pub fn check(protocol: Protocol) -> Finding {
    let began = Instant::now();
    let (promises, bounds) = (protocol.promises.clone(), protocol.bounds);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder = protocol.checker().threads(threads).finish_when(HasDiscoveries::AnyFailures);
    if bounds.depth > 0 {
        builder = builder.target_max_depth(bounds.depth);
    }
    let checker = builder.spawn_bfs().join();
    let mut discoveries = checker.discoveries();
    let broken = promises.iter().filter_map(|promise| {
        let path = discoveries.remove(promise.text())?;
        let mut text = String::new();
        for (world, action) in path.into_vec() {
            // Writing to a string does not fail.
            let _written = match action {
                Some(action) => writeln!(text, "  {world:?}\n{action:?}"),
                None => writeln!(text, "  {world:?}"),
            };
        }
        Some((*promise, text))
    });
    Finding {
        broken: broken.collect(),
        promises: promises.clone(),
        bounds,
        states: checker.unique_state_count(),
        transitions: checker.state_count(),
        depth: checker.max_depth(),
        took: began.elapsed(),
    }
}

/// A table of findings, as it stands in the documents.
#[must_use]
pub fn table(findings: &[Finding]) -> String {
    let mut text = "| promise | runtimes | batches | faults | states | transitions | depth | time |\n\
                    |---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for finding in findings {
        let Bounds { runtimes, batches, faults, .. } = finding.bounds;
        for promise in &finding.promises {
            let _written = writeln!(
                text,
                "| {} | {runtimes} | {batches} | {faults} | {} | {} | {} | {:.1} s |",
                promise.text(),
                finding.states,
                finding.transitions,
                finding.depth,
                finding.took.as_secs_f64()
            );
        }
    }
    text
}
