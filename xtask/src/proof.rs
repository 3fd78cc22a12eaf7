// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask model`: the protocol's model, deeper than the tests walk it. The work is
//! done by the proof crate, which sees the product; this crate sees nothing of it.

use std::path::Path;

use crate::stage::program;
use crate::test;

/// Runs one of the proofs with its arguments, in the build that the tests use.
pub fn run(root: &Path, proof: &str, arguments: &[String]) -> anyhow::Result<()> {
    test::build(root)?;
    let binary = test::target_directory(root)?.join("debug/proof").display().to_string();
    let mut all = vec![proof];
    all.extend(arguments.iter().map(String::as_str));
    program(root, &binary, &all)
}
