// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask model` and `cargo xtask simulate`: the protocol's model deeper, and more
//! seeds of the simulation, than the tests run. The work is done by the proof crate, which
//! sees the product; this crate sees nothing of it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use crate::stage::program;
use crate::test;

/// What the simulation is built from.
const SIMULATION: &[&str] = &["--package", "ferrogate-proof", "--features", "simulation"];

/// Walks the model, in the build that the tests use.
pub fn model(root: &Path, depth: usize) -> anyhow::Result<()> {
    test::build(root)?;
    let binary = test::target_directory(root)?.join("debug/proof").display().to_string();
    program(root, &binary, &["model", "--depth", &depth.to_string()])
}

/// Runs the seeds of the tests.
pub fn simulation_tests(root: &Path) -> anyhow::Result<()> {
    program(root, "cargo", &[&["test", "--quiet"], SIMULATION, &["--test", "simulation"]].concat())
}

/// Runs other seeds. One seed is one run only when the executor's own chances are drawn from
/// it too, which tokio keeps behind a flag of the compiler. With that flag everything is
/// another build, so it has a folder of its own and does not throw away the usual one.
pub fn simulate(root: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("cargo")
        .args(["run", "--quiet"])
        .args(SIMULATION)
        .arg("--target-dir")
        .arg(test::target_directory(root)?.join("simulation"))
        .args(["--bin", "proof", "--", "simulate"])
        .args(arguments)
        .env("RUSTFLAGS", "--cfg tokio_unstable")
        .current_dir(root)
        .status()
        .context("cargo cannot be started")?;
    if !status.success() {
        bail!("the simulation failed: {status}");
    }
    Ok(())
}
