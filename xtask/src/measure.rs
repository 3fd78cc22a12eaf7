// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask measure`: the release build of the gateway under the test kit's clusters
//! and traffic. What it prints is what the documents quote.

use std::path::Path;

use crate::stage::program;
use crate::{postgres, test};

/// Builds both sides and measures.
pub fn run(root: &Path, quick: bool) -> anyhow::Result<()> {
    postgres::ensure()?;
    test::build_release(root)?;
    test::build(root)?;
    let target = test::target_directory(root)?;
    let gateway = target.join("release/ferrogate").display().to_string();
    let measure = target.join("debug/measure").display().to_string();
    let mut arguments = vec![gateway.as_str()];
    if quick {
        arguments.push("--quick");
    }
    program(root, &measure, &arguments)
}
