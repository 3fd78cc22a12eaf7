// SPDX-License-Identifier: Apache-2.0
//! Every path that the architecture text names must exist: a map that has drifted from
//! the land is worse than none.

use std::path::Path;

const TEXT: &str = "ARCHITECTURE.md";
/// A quoted word that starts with one of these is a path from the workspace's folder.
const PLACES: &[&str] =
    &[".ci/", "bench/", "console/", "crates/", "deploy/", "docs/", "examples/", "fuzz/", "proto/", "xtask/"];

/// Every path named in the text that does not exist.
pub fn check(root: &Path) -> Vec<String> {
    let text = match std::fs::read_to_string(root.join(TEXT)) {
        Ok(text) => text,
        Err(error) => return vec![format!("{TEXT}: {error}")],
    };
    let missing = named(&text).filter(|path| !root.join(path).exists());
    missing.map(|path| format!("{TEXT}: {path} does not exist")).collect()
}

/// The paths in back quotes; one with a placeholder or wildcard in it names no one file.
fn named(text: &str) -> impl Iterator<Item = &str> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| PLACES.iter().any(|place| word.starts_with(place)))
        .filter(|word| !word.contains(['*', '<', '{', '…', ' ', '\n']))
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn quoted_paths_are_found() {
        let text = "see `crates/base/src` and `crates/*/x`, not docs/x nor `cargo test` but `docs/adr/`";
        assert_eq!(named(text).collect::<Vec<_>>(), ["crates/base/src", "docs/adr/"]);
    }
}
