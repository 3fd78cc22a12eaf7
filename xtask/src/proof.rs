// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask model` and `cargo xtask simulate`: the protocol's model deeper, and more
//! seeds of the simulation, than the tests run. The work is done by the proof crate, which
//! sees the product; this crate sees nothing of it.

use std::path::Path;

use crate::stage::program;
use crate::test;

/// Walks the model, in the build that the tests use.
pub fn model(root: &Path, depth: usize) -> anyhow::Result<()> {
    proof(root, &["model", "--depth", &depth.to_string()])
}

/// Runs other seeds, in the build that the tests use.
pub fn simulate(root: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    proof(root, &[&["simulate"], arguments].concat())
}

fn proof(root: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    test::build(root)?;
    let binary = test::target_directory(root)?.join("debug/proof").display().to_string();
    program(root, &binary, arguments)
}
