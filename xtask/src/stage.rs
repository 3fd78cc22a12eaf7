// SPDX-License-Identifier: Apache-2.0
//! One stage of a task: a line before it, its output as it comes, a line with the time
//! it took after it. The first stage that fails ends the task.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, bail};

/// What `cargo run` tells this program of itself. A cargo started with them would hand them to
/// build scripts that look at these names (ring's does): they would take them for a change, and
/// all that depends on them would be compiled anew after each cargo that was started by hand.
const TOLD_BY_CARGO: &[&str] = &[
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "CARGO_PKG_NAME",
    "CARGO_PKG_VERSION",
    "CARGO_PKG_VERSION_MAJOR",
    "CARGO_PKG_VERSION_MINOR",
    "CARGO_PKG_VERSION_PATCH",
    "CARGO_PKG_VERSION_PRE",
];

/// Counts the stages of a task.
pub struct Stages {
    total: usize,
    done: usize,
    began: Instant,
}

impl Stages {
    /// A task of this many stages.
    pub fn new(total: usize) -> Self {
        Self { total, done: 0, began: Instant::now() }
    }

    /// Runs a stage.
    pub fn run(&mut self, name: &str, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
        self.announce(name);
        let began = Instant::now();
        work().with_context(|| format!("stage {name} failed"))?;
        eprintln!("    {name}: ok in {:.1} s", began.elapsed().as_secs_f64());
        Ok(())
    }

    /// Runs the last stage, whose own last line stays the last line of all.
    pub fn run_last(mut self, name: &str, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
        self.announce(name);
        work().with_context(|| format!("stage {name} failed"))
    }

    fn announce(&mut self, name: &str) {
        self.done += 1;
        let so_far = self.began.elapsed().as_secs();
        eprintln!("==> [{}/{}] {name} ({so_far} s so far)", self.done, self.total);
    }
}

/// Runs a program in the workspace, its output shown as it comes.
pub fn program(root: &Path, name: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new(name);
    command.args(arguments).current_dir(root);
    for variable in TOLD_BY_CARGO {
        command.env_remove(variable);
    }
    let status = command.status().with_context(|| format!("{name} cannot be started"))?;
    if !status.success() {
        bail!("`{name} {}` failed: {status}", arguments.join(" "));
    }
    Ok(())
}

/// Whether a program runs at all with these arguments; its output is dropped.
pub fn answers(name: &str, arguments: &[&str]) -> bool {
    Command::new(name).args(arguments).output().is_ok_and(|output| output.status.success())
}
