// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask soak`: a gateway of real processes under a steady stream of changes, to see
//! that its memory comes back. The work is the test kit's.

use std::path::Path;

use crate::stage::program;
use crate::{postgres, test};

/// Builds and runs.
pub fn run(root: &Path, minutes: u32, changes: u32) -> anyhow::Result<()> {
    postgres::ensure()?;
    test::build_release(root)?;
    let built = test::target_directory(root)?.join("release");
    let (soak, gateway) =
        (built.join("soak").display().to_string(), built.join("ferrogate").display().to_string());
    program(root, &soak, &[&gateway, &(minutes * 60).to_string(), &changes.to_string()])
}
