// SPDX-License-Identifier: Apache-2.0
//! Immutable mode (contract 7.2): what the gateway serves is what its files say. Files
//! that are gone are deletions, files that have not changed are nothing: a restart with
//! the same files makes no new revision.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use ferrogate_model::document::{Format, MAX_BUNDLE_BYTES, MAX_DOCUMENT_BYTES, oversize, parse_many};
use ferrogate_model::{ResourceName, Violation};
use ferrogate_store::{Guard, StoreError, StoredArtifact};
use serde_json::Value;
use uuid::Uuid;

use super::{FilesError, Folder, off_thread, told};
use crate::deploy::{
    Admission, Admitted, DeployError, Deployer, Deployment, Planned, Secrets, dangling, kind_of,
};

/// Who writes them.
const AUTHOR: &str = "immutable-gateway";
/// The setting that names the folder.
const SETTING: &str = "immutable_gateway.artifacts_dir";

/// A document and where it stands.
struct Document {
    origin: String,
    value: Value,
}

/// Makes the store hold what the files say, and what was read elsewhere: artifacts, each
/// with where it stands.
///
/// # Errors
/// When a file cannot be used, or the store does not answer.
pub async fn load(
    directory: &Path,
    elsewhere: Vec<(String, Admitted)>,
    admission: &Arc<Admission>,
    deployer: &Deployer,
) -> Result<(), FilesError> {
    let (directory, admission) = (directory.to_owned(), Arc::clone(admission));
    let admitted = off_thread(SETTING, move || admit(&directory, elsewhere, &admission)).await?;
    let not_stored = |source| FilesError::Store { setting: SETTING, source };
    let origins: HashMap<ResourceName, String> =
        admitted.iter().map(|(origin, one)| (one.name.clone(), origin.clone())).collect();
    let stored = deployer.store().load().await.map_err(not_stored)?.artifacts;
    let present: HashMap<ResourceName, StoredArtifact> =
        stored.into_iter().map(|one| (one.name.clone(), one)).collect();
    let mut writes = Vec::new();
    for name in present.keys().filter(|name| !origins.contains_key(*name)) {
        writes.push(Planned { name: name.clone(), guard: Guard::Any, content: None });
    }
    for (_, one) in admitted {
        if !present.get(&one.name).is_some_and(|stored| says_the_same(stored, &one)) {
            writes.push(Planned { name: one.name.clone(), guard: Guard::Any, content: Some(one) });
        }
    }
    if writes.is_empty() {
        return Ok(());
    }
    let author = AUTHOR.to_owned();
    let deployment = Deployment { id: Uuid::new_v4(), author, writes, expects: Vec::new() };
    let deployed = deployer.deploy(deployment).await.map_err(|error| match error {
        DeployError::Claimed { name, claim, holder } => {
            let place = |name: &ResourceName| origins.get(name).cloned().unwrap_or_else(|| name.to_string());
            let faults = format!("  {}: {claim} is that of {} too", place(&name), place(&holder));
            FilesError::Faults { setting: SETTING, faults }
        }
        DeployError::Store(error) => not_stored(error),
        DeployError::Guard { .. } | DeployError::Moved { .. } | DeployError::Unknown(_) => {
            not_stored(StoreError::Unavailable(error.to_string()))
        }
    })?;
    tracing::info!(revision = %deployed.committed.last, artifacts = origins.len(), "the files are in effect");
    Ok(())
}

fn says_the_same(stored: &StoredArtifact, admitted: &Admitted) -> bool {
    let source = admitted.source.to_string();
    stored.source == source && stored.payload == admitted.payload
}

/// Reads and admits every document below a directory, secrets before what names them.
fn admit(
    directory: &Path,
    elsewhere: Vec<(String, Admitted)>,
    admission: &Admission,
) -> Result<Vec<(String, Admitted)>, FilesError> {
    let folder = Folder {
        setting: SETTING,
        path: directory,
        endings: &["yaml", "yml", "json"],
        max_bytes: MAX_BUNDLE_BYTES,
    };
    let (mut documents, mut faults) = (Vec::new(), Vec::new());
    for file in &folder.files()? {
        let text = folder.read(file)?;
        let json = file.extension().is_some_and(|extension| extension == "json");
        match parse_many(&text, if json { Format::Json } else { Format::Yaml }) {
            Ok(values) => {
                let several = values.len() > 1;
                documents.extend(values.into_iter().enumerate().map(|(index, value)| {
                    let number = if several { format!(" (document {})", index + 1) } else { String::new() };
                    Document { origin: format!("{}{number}", file.display()), value }
                }));
            }
            Err(error) => faults.push(format!("{}: {error}", file.display())),
        }
    }
    let (mut origins, mut values) = (Vec::new(), Vec::new());
    for Document { origin, value } in documents {
        match (kind_of(&value), oversize(&value, MAX_DOCUMENT_BYTES)) {
            (Ok(kind), None) => {
                origins.push(origin);
                values.push((kind, value));
            }
            (Err(violation), _) => {
                faults.push(format!("{origin}: {}: {}", violation.field, violation.message))
            }
            (Ok(_), Some(fault)) => faults.push(format!("{origin}: {fault}")),
        }
    }
    let results = admission.admit_all(values, false, Secrets::default());
    let elsewhere = elsewhere.into_iter().map(|(origin, one)| (origin, Ok(one)));
    let mut seen = HashMap::<ResourceName, String>::new();
    let mut admitted = Vec::new();
    for (origin, result) in elsewhere.chain(origins.into_iter().zip(results)) {
        match result {
            Ok(one) => match seen.insert(one.name.clone(), origin.clone()) {
                None => admitted.push((origin, one)),
                Some(other) => {
                    faults.push(format!("{origin}: metadata.name: {} stands in {other} too", one.name));
                }
            },
            Err(refusal) => faults.extend(told(&origin, refusal)),
        }
    }
    folder.judge(faults)?;
    for (origin, one) in &admitted {
        let dangling = dangling::warnings(one, admitted.iter().map(|(_, other)| other), None);
        for Violation { field, message } in one.warnings.0.iter().chain(&dangling) {
            tracing::warn!(origin, field, "{message}");
        }
    }
    Ok(admitted)
}
