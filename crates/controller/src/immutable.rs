// SPDX-License-Identifier: Apache-2.0
//! Immutable mode (contract 7.2): what the gateway serves is what its files say. Read
//! once, before anything listens; every fault of every file is told together and the
//! controller does not start. Files that are gone are deletions, files that have not
//! changed are nothing: a restart with the same files makes no new revision. It goes
//! through the same admission and the same store as every other write.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ferrogate_model::document::{Format, MAX_BUNDLE_BYTES, parse_many};
use ferrogate_model::{Kind, ResourceName};
use ferrogate_store::{Guard, Store, StoreError, StoredArtifact};
use serde_json::Value;
use uuid::Uuid;

use crate::deploy::{
    Admission, Admitted, DeployError, Deployer, Deployment, Planned, Refusal, Secrets, kind_of,
};

/// Who writes them.
const AUTHOR: &str = "immutable-gateway";
/// The most files below the directory; with more the start is refused.
const MAX_FILES: usize = 10_000;
/// The deepest folder looked into; it also ends circles of links.
const MAX_DEPTH: usize = 16;
/// The most faults told; the rest is counted.
const MAX_TOLD: usize = 100;

/// Why the files cannot be what the gateway serves.
#[derive(Debug, thiserror::Error)]
pub enum ImmutableError {
    /// A file or folder cannot be read.
    #[error("immutable_gateway.artifacts_dir: {path} cannot be read: {source}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There are too many of them, or one is too large.
    #[error("immutable_gateway.artifacts_dir: {0}")]
    TooMuch(String),
    /// The documents are not valid, or not together.
    #[error("the artifacts of an immutable gateway must all be valid; correct these and start again:\n{0}")]
    Faults(String),
    /// They cannot be stored.
    #[error("the artifacts of an immutable gateway cannot be stored: {0}")]
    Store(#[from] StoreError),
}

/// A document and where it stands.
struct Document {
    origin: String,
    value: Value,
}

/// Makes the store hold what the files say.
///
/// # Errors
/// When a file cannot be used, or the store does not answer.
pub async fn load(
    directory: &Path,
    admission: &Arc<Admission>,
    store: &dyn Store,
    deployer: &Deployer,
) -> Result<(), ImmutableError> {
    let (directory, admission) = (directory.to_owned(), Arc::clone(admission));
    let read = tokio::task::spawn_blocking(move || admit(&directory, &admission)).await;
    let admitted = read.map_err(|error| ImmutableError::Faults(error.to_string()))??;
    let origins: HashMap<ResourceName, String> =
        admitted.iter().map(|(origin, one)| (one.name.clone(), origin.clone())).collect();
    let present: HashMap<ResourceName, StoredArtifact> =
        store.load().await?.artifacts.into_iter().map(|one| (one.name.clone(), one)).collect();
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
            ImmutableError::Faults(format!("  {}: {claim} is that of {} too", place(&name), place(&holder)))
        }
        DeployError::Store(error) => ImmutableError::Store(error),
        DeployError::Guard { .. } | DeployError::Moved { .. } | DeployError::Unknown(_) => {
            ImmutableError::Store(StoreError::Unavailable(error.to_string()))
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
fn admit(directory: &Path, admission: &Admission) -> Result<Vec<(String, Admitted)>, ImmutableError> {
    let mut files = Vec::new();
    collect(directory, 0, &mut files)?;
    files.sort();
    let (mut documents, mut faults) = (Vec::new(), Vec::new());
    for file in &files {
        let text = read(file)?;
        let json = file.extension().is_some_and(|extension| extension == "json");
        match parse_many(&text, if json { Format::Json } else { Format::Yaml }) {
            Ok(values) => {
                let several = values.len() > 1;
                documents.extend(values.into_iter().enumerate().map(|(index, value)| {
                    let number = if several { format!(" (document {})", index + 1) } else { String::new() };
                    Document { origin: format!("{}{number}", file.display()), value }
                }));
            }
            Err(error) => faults.push(format!("  {}: {error}", file.display())),
        }
    }
    let (origins, values): (Vec<String>, Vec<(Kind, Value)>) =
        documents.into_iter().map(|one| (one.origin, (kind_of(&one.value), one.value))).unzip();
    let mut seen = HashMap::<ResourceName, String>::new();
    let mut admitted = Vec::with_capacity(origins.len());
    for (origin, result) in origins.into_iter().zip(admission.admit_all(values, false, Secrets::default())) {
        match result {
            Ok(one) => match seen.insert(one.name.clone(), origin.clone()) {
                None => admitted.push((origin, one)),
                Some(other) => {
                    faults.push(format!("  {origin}: metadata.name: {} stands in {other} too", one.name));
                }
            },
            Err(Refusal::Invalid(violations)) => faults.extend(
                violations.0.into_iter().map(|one| format!("  {origin}: {}: {}", one.field, one.message)),
            ),
            Err(refusal @ (Refusal::Unreadable(_) | Refusal::Template(_) | Refusal::MissingSecret(_))) => {
                faults.push(format!("  {origin}: {refusal}"))
            }
        }
    }
    if faults.is_empty() {
        return Ok(admitted);
    }
    let more = faults.len().saturating_sub(MAX_TOLD);
    faults.truncate(MAX_TOLD);
    if more > 0 {
        faults.push(format!("  and {more} more"));
    }
    Err(ImmutableError::Faults(faults.join("\n")))
}

fn collect(directory: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), ImmutableError> {
    let failed = |source| ImmutableError::Unreadable { path: directory.to_owned(), source };
    if depth > MAX_DEPTH {
        let message = format!("{} is nested deeper than {MAX_DEPTH} folders", directory.display());
        return Err(ImmutableError::TooMuch(message));
    }
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        // Links are followed: mounted configuration consists of them.
        if path.is_dir() {
            // Where mounted configuration keeps the files that its links lead to.
            let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            if !hidden {
                collect(&path, depth + 1, files)?;
            }
        } else if path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json") {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(ImmutableError::TooMuch(format!("there are more than {MAX_FILES} files")));
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, ImmutableError> {
    let failed = |source| ImmutableError::Unreadable { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if usize::try_from(bytes).map_or(true, |bytes| bytes > MAX_BUNDLE_BYTES) {
        let message = format!("{} has {bytes} bytes, the limit is {MAX_BUNDLE_BYTES}", path.display());
        return Err(ImmutableError::TooMuch(message));
    }
    std::fs::read_to_string(path).map_err(failed)
}
