// SPDX-License-Identifier: Apache-2.0
//! Composition of processes: a role's flags become a configuration layer, its
//! configuration is read and checked, its parts are started and, on a signal, drained.
//! What the parts do is theirs; this only fits them together.

pub mod controller;
mod fetch;
mod listeners;
pub mod reseal;
pub mod runtime;
mod settings;
pub mod signals;
pub mod standalone;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use ferrogate_base::config::Reader;
use ferrogate_policy::Registry;

pub use listeners::{LISTENERS_FILE, reachable};
pub use settings::data_root;

/// Where the operator configures policies: runtimes run them with it, controllers try an
/// artifact's policies with it before they take the artifact.
const POLICY_SECTION: &str = "policy_configurations";

/// Sections of policies of the contract that this build does not have.
const SECTIONS_WITHOUT_POLICY: [&str; 3] = ["opaquetokenauth_v1", "backendjwt_v1", "interceptor_service_v0"];

/// The built-in policies with what the operator says of them (contract 7.4). Wrong values
/// are left with the reader, as everything wrong.
fn registry(reader: &mut Reader<'_>) -> anyhow::Result<Arc<Registry>> {
    let registry = Registry::new(ferrogate_policies::catalog::all());
    let mut registry = registry.context("the built-in policies contradict one another")?;
    for section in registry.sections() {
        let key = format!("{POLICY_SECTION}.{section}");
        let values = reader.subtree(&key);
        for fault in registry.configure(section, &values).err().into_iter().flatten() {
            let field = if fault.field.is_empty() { key.clone() } else { format!("{key}.{}", fault.field) };
            reader.problem(&field, fault.message);
        }
    }
    for section in SECTIONS_WITHOUT_POLICY {
        reader.accept(&format!("{POLICY_SECTION}.{section}"));
    }
    Ok(Arc::new(registry))
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
