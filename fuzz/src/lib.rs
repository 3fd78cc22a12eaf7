// SPDX-License-Identifier: Apache-2.0
//! What is fuzzed: one target for every decoder of foreign bytes, each with the
//! conversion that follows it, and with a property that must hold of whatever was
//! accepted. A target panics when its property breaks; it never reads a clock, a file or
//! the network, so that an input fails always or never. The ordinary tests of this
//! package replay the kept corpora and mutate them for a moment; the binaries of
//! `fuzz/guided` run the same targets under libFuzzer (`cargo xtask fuzz`).
#![allow(clippy::panic, reason = "a target reports what it found by panicking")]

pub mod choices;
pub mod documents;
pub mod edit;
pub mod mutate;
pub mod split;
pub mod targets;

/// One fuzz target.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, and its corpus' folder.
    pub name: &'static str,
    /// What it does with one input.
    pub run: fn(&[u8]),
    /// How many mutated inputs the ordinary tests try: about three seconds' worth unoptimised.
    pub rounds: u32,
    /// Texts worth inserting.
    pub words: &'static [&'static str],
}

/// Every target.
pub const TARGETS: [Target; 15] = [
    targets::artifact::TARGET,
    targets::certificate::TARGET,
    targets::chunked::TARGET,
    targets::condition::TARGET,
    targets::config::TARGET,
    targets::document::TARGET,
    targets::path::TARGET,
    targets::policy::TARGET,
    targets::request_head::TARGET,
    targets::resource::TARGET,
    targets::response_head::TARGET,
    targets::secret::TARGET,
    targets::snapshot_file::TARGET,
    targets::stream::TARGET,
    targets::template::TARGET,
];

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    static ALL: [Target; TARGETS.len()] = TARGETS;
    ALL.iter().find(|target| target.name == name)
}
