// SPDX-License-Identifier: Apache-2.0
//! `router.upstream.tls.custom_certs_path` (contract 2.6, 7.3): PEM files that every `https`
//! upstream may be trusted by. At a start each file becomes a Certificate that is called as
//! the file is without its ending. What is there already is left alone; so is what anybody
//! but this module has written last. Controllers that share a database all do the same: the
//! guards let one of them write, the others then find it done.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ferrogate_base::backoff::Backoff;
use ferrogate_model::Kind;
use ferrogate_model::kinds::certificate::MAX_PEM_BYTES;
use ferrogate_store::{Guard, StoreError};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{FilesError, Folder, off_thread, told};
use crate::deploy::{Admission, Admitted, DeployError, Deployer, Deployment, Planned, Secrets};

/// Who writes them: what has another author is not ours to replace.
pub const AUTHOR: &str = "custom-certs-path";
/// The setting that names the folder.
pub const SETTING: &str = "router.upstream.tls.custom_certs_path";

/// Where the files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The folder.
    pub path: PathBuf,
    /// Somebody named it, so it must be there.
    pub required: bool,
}

/// What became of one file.
#[derive(Debug, PartialEq, Eq)]
enum Imported {
    /// It is in effect; it was before.
    Before,
    /// It is in effect now.
    Now,
    /// Somebody else's artifact has its name.
    Foreign { author: String },
}

/// Reads and admits the files, each with where it stands.
///
/// # Errors
/// When one of them cannot be used.
pub(super) async fn read(
    files: &CertificateFiles,
    admission: &Arc<Admission>,
) -> Result<Vec<(String, Admitted)>, FilesError> {
    let (files, admission) = (files.clone(), Arc::clone(admission));
    off_thread(SETTING, move || {
        if files.required || files.path.is_dir() { admit(&files.path, &admission) } else { Ok(Vec::new()) }
    })
    .await
}

fn admit(directory: &Path, admission: &Admission) -> Result<Vec<(String, Admitted)>, FilesError> {
    let folder = Folder {
        setting: SETTING,
        path: directory,
        endings: &["pem", "crt", "cer"],
        max_bytes: MAX_PEM_BYTES,
    };
    let (mut admitted, mut faults, mut seen) = (Vec::new(), Vec::new(), HashMap::new());
    for file in folder.files()? {
        let origin = file.display().to_string();
        let text = folder.read(&file)?;
        match admission.admit(Kind::Certificate, document(&file, &text), true, &Secrets::default()) {
            Ok(one) => match seen.insert(one.name.clone(), origin.clone()) {
                None => admitted.push((origin, one)),
                Some(other) => faults.push(format!("{origin}: {other} has the same name")),
            },
            Err(refusal) => faults.extend(told(&origin, refusal)),
        }
    }
    folder.judge(faults)?;
    Ok(admitted)
}

fn document(file: &Path, text: &str) -> serde_json::Value {
    let name = file.file_stem().map(|stem| stem.to_string_lossy());
    json!({
        "apiVersion": "gateway.api-platform.wso2.com/v1",
        "kind": Kind::Certificate.document_name(),
        "metadata": {"name": name},
        "spec": {"certificate": text, "usage": "upstreamTrust"},
    })
}

/// Deploys what the files hold. What cannot be deployed now, for want of a database above all,
/// is tried again and keeps nothing else waiting.
pub(super) async fn import(
    deployer: Deployer,
    mut pending: Vec<(String, Admitted)>,
    token: CancellationToken,
) {
    let mut backoff = Backoff::for_outages();
    let mut told = false;
    loop {
        let mut failed = None;
        let mut left = Vec::new();
        for (origin, one) in pending {
            match bring(&deployer, &one).await {
                Ok(imported) => imported.tell(&origin, &one),
                Err(error) => {
                    failed = Some(error);
                    left.push((origin, one));
                }
            }
        }
        let Some(error) = failed else { return };
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(files = left.len(), %error, "certificates not imported yet");
        }
        pending = left;
        tokio::select! {
            biased;
            // Both arms only wait.
            () = token.cancelled() => return,
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
}

impl Imported {
    fn tell(self, origin: &str, admitted: &Admitted) {
        let name = &admitted.name;
        match self {
            Imported::Before => tracing::debug!(file = origin, %name, "certificate imported before"),
            Imported::Now => tracing::info!(file = origin, %name, "certificate imported"),
            Imported::Foreign { author } => tracing::warn!(
                file = origin, %name, author,
                "certificate not imported: another of this name was deployed, and stays"
            ),
        }
    }
}

/// Looks at what stands and writes what differs from it, unless it is somebody else's.
async fn bring(deployer: &Deployer, admitted: &Admitted) -> Result<Imported, DeployError> {
    deployer.catch_up().await?;
    let Some(snapshot) = deployer.replica().current() else {
        return Err(StoreError::Unavailable("nothing has been read yet".to_owned()).into());
    };
    let guard = match snapshot.get(&admitted.name).map(|entry| &entry.stored) {
        None => Guard::Absent,
        Some(stored) if stored.payload == admitted.payload => return Ok(Imported::Before),
        Some(stored) => {
            let last = deployer.store().revisions(&admitted.name, None, 1).await?;
            match last.into_iter().next() {
                Some(change) if change.author == AUTHOR => Guard::AtRevision(stored.revision),
                other => {
                    let author = other.map(|change| change.author).unwrap_or_default();
                    return Ok(Imported::Foreign { author });
                }
            }
        }
    };
    let content = Some(admitted.clone());
    deployer
        .deploy(Deployment {
            id: Uuid::new_v4(),
            author: AUTHOR.to_owned(),
            writes: vec![Planned { name: admitted.name.clone(), guard, content }],
            expects: Vec::new(),
        })
        .await?;
    Ok(Imported::Now)
}
