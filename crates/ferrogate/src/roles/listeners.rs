// SPDX-License-Identifier: Apache-2.0
//! Where a process listens, told to people and programs. The file in the data directory
//! is written once everything is bound: with port 0 it is the only way to learn the
//! ports, and its appearance says that the process is up.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;

/// The file in the data directory: a JSON object from listener to address.
pub const LISTENERS_FILE: &str = "listeners.json";

/// Listeners by name, without those that are off.
pub type Listeners = BTreeMap<&'static str, SocketAddr>;

/// Keeps those that listen.
pub fn collect(named: &[(&'static str, Option<SocketAddr>)]) -> Listeners {
    named.iter().filter_map(|(name, address)| Some((*name, (*address)?))).collect()
}

/// Writes the file; a reader sees all of it or none.
pub fn write(data_dir: &Path, listeners: &Listeners) -> anyhow::Result<()> {
    let path = data_dir.join(LISTENERS_FILE);
    let draft = data_dir.join(format!("{LISTENERS_FILE}.new"));
    let text = serde_json::to_vec(listeners)?;
    let written = std::fs::write(&draft, text).and_then(|()| std::fs::rename(&draft, &path));
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// One line per listener.
pub fn lines(listeners: &Listeners) -> String {
    listeners.iter().map(|(name, address)| row(name, &address.to_string())).collect()
}

/// One line of what a process says about itself at its start.
pub fn row(name: &str, value: &str) -> String {
    format!("  {name:<16} {value}\n")
}
