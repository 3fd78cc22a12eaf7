// SPDX-License-Identifier: Apache-2.0
//! Which files hold the keys that seal what is stored (contract 7.2); `seal` reads them.

use std::collections::BTreeSet;
use std::path::PathBuf;

use ferrogate_base::config::Reader;
use serde::Deserialize;

use crate::seal::files::{DEFAULT_VERSION, KeyFile};
use crate::seal::{KeyRingError, check_version};

/// `controller.encryption.providers[]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfiguredProvider {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    keys: Vec<ConfiguredKey>,
}

/// `controller.encryption.providers[].keys[]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfiguredKey {
    version: String,
    file: PathBuf,
}

/// One key by its file, or providers as contract 7.2 has them.
pub(super) fn keys(reader: &mut Reader<'_>) -> Vec<KeyFile> {
    const PROVIDERS: &str = "controller.encryption.providers";
    const FILE: &str = "controller.encryption.key_file";
    let single = reader.optional_path(FILE);
    let providers: Vec<ConfiguredProvider> = reader.tables(PROVIDERS);
    for provider in &providers {
        if provider.kind != "aesgcm" {
            reader.problem(PROVIDERS, "every type must be \"aesgcm\"");
        }
        if provider.keys.is_empty() {
            reader.problem(PROVIDERS, "every provider needs keys");
        }
    }
    let mut versions = BTreeSet::new();
    for version in providers.iter().flat_map(|provider| &provider.keys).map(|key| key.version.as_str()) {
        if let Err(error) = check_version(version) {
            reader.problem(PROVIDERS, error.to_string());
        } else if !versions.insert(version) {
            reader.problem(PROVIDERS, KeyRingError::Twice(version.to_owned()).to_string());
        }
    }
    if single.is_some() && !providers.is_empty() {
        reader.problem(FILE, "cannot stand beside encryption.providers: name the file there");
    }
    let single = single.map(|path| KeyFile { version: DEFAULT_VERSION.to_owned(), path });
    let configured = providers.into_iter().flat_map(|provider| provider.keys);
    let configured = configured.map(|key| KeyFile { version: key.version, path: key.file });
    single.into_iter().chain(configured).collect()
}
