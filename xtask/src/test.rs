// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask test`: every proof the project has, in the order in which a failure is
//! cheapest to learn. The tests run last, so that their runner's summary is what the
//! output ends with.

use std::path::{Path, PathBuf};

use cargo_metadata::MetadataCommand;

use crate::stage::{Stages, answers, program};
use crate::{chaos, postgres, programs, tidy};

/// Runs all stages.
pub fn run(root: &Path) -> anyhow::Result<()> {
    let nextest = answers("cargo", &["nextest", "--version"]);
    let cargo = |arguments: &[&str]| program(root, "cargo", arguments);
    let mut stages = Stages::new(if nextest { 10 } else { 9 });
    stages.run("format", || cargo(&["fmt", "--all", "--check"]))?;
    stages.run("tidy", || tidy::run(root))?;
    stages.run("postgresql", postgres::ensure)?;
    stages.run("clients", || programs::ensure(programs::CLIENTS))?;
    stages.run("lints", || {
        cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])
    })?;
    // The end-to-end tests and the demo run the real binary.
    stages.run("build", || build(root))?;
    stages.run("demo", || demo(root, &[]))?;
    stages.run("chaos", || chaos::stage(root))?;
    if nextest {
        stages.run("doc tests", || cargo(&["test", "--workspace", "--doc", "--quiet"]))?;
        return stages.run_last("tests", || cargo(&["nextest", "run", "--workspace"]));
    }
    stages.run_last("tests", || cargo(&["test", "--workspace"]))
}

/// Builds everything that is run, once: building package by package would resolve other
/// features for shared dependencies and compile them again.
pub fn build(root: &Path) -> anyhow::Result<()> {
    program(root, "cargo", &["build", "--workspace", "--all-targets", "--quiet"])
}

/// Builds what is measured, as a release and once for the same reason.
pub fn build_release(root: &Path) -> anyhow::Result<()> {
    program(root, "cargo", &["build", "--release", "--workspace", "--bins"])
}

/// Runs the demo in the build that the tests use.
pub fn demo(root: &Path, arguments: &[String]) -> anyhow::Result<()> {
    let binary = target_directory(root)?.join("debug/ferrogate").display().to_string();
    let mut all = vec!["demo"];
    all.extend(arguments.iter().map(String::as_str));
    program(root, &binary, &all)
}

/// Where cargo puts what it builds, which the environment may have moved.
pub fn target_directory(root: &Path) -> anyhow::Result<PathBuf> {
    let metadata = MetadataCommand::new().current_dir(root).no_deps().exec()?;
    Ok(metadata.target_directory.into_std_path_buf())
}
