// SPDX-License-Identifier: Apache-2.0
//! Every path that the architecture text names must exist, whether it is written from the
//! workspace's folder or, as in the walks, from a crate's sources: a map that has drifted
//! from the land is worse than none.

use std::path::{Path, PathBuf};

const TEXT: &str = "ARCHITECTURE.md";
/// A quoted word that starts with one of these is a path from the workspace's folder.
const PLACES: &[&str] = &[".ci/", "bench/", "crates/", "docs/", "examples/", "fuzz/", "proto/", "xtask/"];
/// Any other that ends with one of these is a path from some crate's sources.
const ENDS: &[&str] = &[".rs", "/"];

/// Every path named in the text that does not exist.
pub fn check(root: &Path) -> Vec<String> {
    let text = match std::fs::read_to_string(root.join(TEXT)) {
        Ok(text) => text,
        Err(error) => return vec![format!("{TEXT}: {error}")],
    };
    let crates = match sources(root) {
        Ok(crates) => crates,
        Err(error) => return vec![format!("crates: {error}")],
    };
    let missing = named(&text).filter(|path| {
        let is_in_one = || crates.iter().any(|sources| sources.join(path).exists());
        !root.join(path).exists() && (is_from_root(path) || !is_in_one())
    });
    missing.map(|path| format!("{TEXT}: {path} does not exist")).collect()
}

/// Every crate's sources.
fn sources(root: &Path) -> std::io::Result<Vec<PathBuf>> {
    std::fs::read_dir(root.join("crates"))?.map(|entry| Ok(entry?.path().join("src"))).collect()
}

fn is_from_root(word: &str) -> bool {
    PLACES.iter().any(|place| word.starts_with(place))
}

/// The paths in back quotes; one with a placeholder or wildcard in it names no one file.
fn named(text: &str) -> impl Iterator<Item = &str> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| is_from_root(word) || ENDS.iter().any(|end| word.ends_with(end)))
        .filter(|word| !word.contains(['*', '<', '{', '…', ' ', '\n']))
}

#[cfg(test)]
mod tests {
    use super::{check, named};

    #[test]
    fn quoted_paths_are_found() {
        let text = "see `crates/base/src` and `crates/*/x`, not docs/x nor `cargo test` but `docs/adr/` \
                    and `conn/`, `lkg/file.rs`, `error.rs`, not `Kind::ALL` nor `a / b/`";
        let found: Vec<_> = named(text).collect();
        assert_eq!(found, ["crates/base/src", "docs/adr/", "conn/", "lkg/file.rs", "error.rs"]);
    }

    #[test]
    fn a_path_of_the_walks_is_looked_for_in_every_crate() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let sources = root.path().join("crates/one/src/conn");
        std::fs::create_dir_all(&sources).expect("made");
        std::fs::write(sources.join("io.rs"), "").expect("made");
        std::fs::write(
            root.path().join("ARCHITECTURE.md"),
            "`conn/`, `conn/io.rs`, `crates/one`, `gone.rs`, `docs/x`",
        )
        .expect("made");
        let missing = ["gone.rs", "docs/x"].map(|path| format!("ARCHITECTURE.md: {path} does not exist"));
        assert_eq!(check(root.path()), missing);
    }
}
