// SPDX-License-Identifier: Apache-2.0
//! The rules that neither the compiler nor clippy checks: which crate may see which,
//! how long files and functions may be, licence lines, that the architecture text names
//! only paths that exist, and the texts that claim proofs only tests that do. Every violation
//! is listed, not just the first.

mod edges;
mod paths;
mod proofs;
mod sources;
mod text;

use std::path::Path;

use anyhow::bail;

/// Checks everything.
pub fn run(root: &Path) -> anyhow::Result<()> {
    let mut violations = edges::check(root)?;
    let sources = sources::read(root)?;
    violations.extend(sources::check(root, &sources)?);
    violations.extend(paths::check(root));
    violations.extend(proofs::check(root, &sources));
    for violation in &violations {
        eprintln!("    {violation}");
    }
    if !violations.is_empty() {
        bail!("{} violations of the house rules", violations.len());
    }
    Ok(())
}
