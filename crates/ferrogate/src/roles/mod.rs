// SPDX-License-Identifier: Apache-2.0
//! Composition of processes: a role's flags become a configuration layer, its
//! configuration is read and checked, its parts are started and, on a signal, drained.
//! What the parts do is theirs; this only fits them together.

pub mod controller;
mod listeners;
pub mod runtime;
mod settings;
pub mod signals;
pub mod standalone;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use ferrogate_policy::Registry;

pub use listeners::LISTENERS_FILE;
pub use settings::data_root;

/// The built-in policies, for controller and runtime alike.
fn registry() -> anyhow::Result<Arc<Registry>> {
    let registry = Registry::new(ferrogate_policies::catalog::all());
    registry.map(Arc::new).context("the built-in policies contradict one another")
}

/// The executor of a role. The runtime's workers bring executors of their own.
fn executor() -> anyhow::Result<tokio::runtime::Runtime> {
    let built = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    built.context("cannot start the executor")
}

/// Makes a role's data directory, for its owner only.
fn make_dir(path: &PathBuf) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = std::fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("cannot make the data directory {}", path.display()))
}
