// SPDX-License-Identifier: Apache-2.0
//! Artifacts that come from files and not over the management API: what an immutable
//! gateway serves, and certificates that upstreams are trusted by. Files are read once,
//! before anything listens; every fault of every file is told together, and the controller
//! does not start. What they hold goes through the same admission and the same store as
//! every other write. `run` calls [`put_into_effect`].

pub mod certificates;
pub mod immutable;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ferrogate_base::offload::{self, Threads};
use ferrogate_base::tasks::Tasks;
use ferrogate_store::StoreError;

use crate::config::Config;
use crate::deploy::{Admission, Deployer, Refusal};

/// The most files below a folder; with more the start is refused.
const MAX_FILES: usize = 10_000;
/// The deepest folder looked into; it also ends circles of links.
const MAX_DEPTH: usize = 16;
/// The most faults told; the rest is counted.
const MAX_TOLD: usize = 100;

/// Why files cannot be put into effect.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file or folder cannot be read.
    #[error("{setting}: {path} cannot be read: {source}")]
    Unreadable {
        /// The setting that names the folder.
        setting: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There are too many of them, or one is too large.
    #[error("{setting}: {message}")]
    TooMuch {
        /// The setting that names the folder.
        setting: &'static str,
        /// What there is too much of.
        message: String,
    },
    /// What they hold is not valid, or not together.
    #[error("{setting}: every file must be valid; correct these and start again:\n{faults}")]
    Faults {
        /// The setting that names the folder.
        setting: &'static str,
        /// A line for each.
        faults: String,
    },
    /// It cannot be stored.
    #[error("{setting}: what the files say cannot be stored: {source}")]
    Store {
        /// The setting that names the folder.
        setting: &'static str,
        /// Why.
        source: StoreError,
    },
}

/// A folder of files, and which of them are meant.
struct Folder<'d> {
    /// The setting that names it.
    setting: &'static str,
    path: &'d Path,
    /// How the names of the files end that are read; others are left alone.
    endings: &'static [&'static str],
    /// The largest file.
    max_bytes: usize,
}

/// Reads all files, and deploys what they hold: at once in immutable mode, else in the
/// background, for a start does not wait for a database.
///
/// # Errors
/// When a file cannot be used; in immutable mode also when the database does not answer.
pub async fn put_into_effect(
    config: &Config,
    admission: &Arc<Admission>,
    deployer: &Deployer,
    back: &Tasks,
) -> Result<(), FilesError> {
    let trusted = certificates::read(&config.custom_certs, admission).await?;
    match &config.immutable {
        Some(directory) => immutable::load(directory, trusted, admission, deployer).await,
        None => {
            back.spawn("certificate import", certificates::import(deployer.clone(), trusted, back.token()));
            Ok(())
        }
    }
}

impl Folder<'_> {
    /// The files of the folder and those below it, in the order of their paths.
    fn files(&self) -> Result<Vec<PathBuf>, FilesError> {
        let mut files = Vec::new();
        self.collect(self.path, 0, &mut files)?;
        files.sort();
        Ok(files)
    }

    fn collect(&self, directory: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), FilesError> {
        if depth > MAX_DEPTH {
            let path = directory.display();
            return Err(self.too_much(format!("{path} is nested deeper than {MAX_DEPTH} folders")));
        }
        for entry in std::fs::read_dir(directory).map_err(|error| self.unreadable(directory, error))? {
            let path = entry.map_err(|error| self.unreadable(directory, error))?.path();
            // Links are followed: mounted configuration consists of them.
            if path.is_dir() {
                // Where mounted configuration keeps the files that its links lead to.
                let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
                if !hidden {
                    self.collect(&path, depth + 1, files)?;
                }
            } else if path.extension().is_some_and(|end| self.endings.iter().any(|one| end == *one)) {
                files.push(path);
            }
            if files.len() > MAX_FILES {
                return Err(self.too_much(format!("there are more than {MAX_FILES} files")));
            }
        }
        Ok(())
    }

    fn read(&self, path: &Path) -> Result<String, FilesError> {
        let bytes = std::fs::metadata(path).map_err(|error| self.unreadable(path, error))?.len();
        if usize::try_from(bytes).map_or(true, |bytes| bytes > self.max_bytes) {
            let (path, limit) = (path.display(), self.max_bytes);
            return Err(self.too_much(format!("{path} has {bytes} bytes, the limit is {limit}")));
        }
        std::fs::read_to_string(path).map_err(|error| self.unreadable(path, error))
    }

    /// `Ok` when there is no fault.
    fn judge(&self, mut faults: Vec<String>) -> Result<(), FilesError> {
        if faults.is_empty() {
            return Ok(());
        }
        let more = faults.len().saturating_sub(MAX_TOLD);
        faults.truncate(MAX_TOLD);
        if more > 0 {
            faults.push(format!("and {more} more"));
        }
        let faults = faults.iter().map(|fault| format!("  {fault}")).collect::<Vec<_>>().join("\n");
        Err(FilesError::Faults { setting: self.setting, faults })
    }

    fn unreadable(&self, path: &Path, source: io::Error) -> FilesError {
        FilesError::Unreadable { setting: self.setting, path: path.to_owned(), source }
    }

    fn too_much(&self, message: String) -> FilesError {
        FilesError::TooMuch { setting: self.setting, message }
    }
}

/// The faults of one document, a line each.
fn told(origin: &str, refusal: Refusal) -> Vec<String> {
    match refusal {
        Refusal::Invalid(violations) => {
            violations.0.into_iter().map(|one| format!("{origin}: {}: {}", one.field, one.message)).collect()
        }
        refusal @ (Refusal::Unreadable(_) | Refusal::Template(_) | Refusal::MissingSecret(_)) => {
            vec![format!("{origin}: {refusal}")]
        }
    }
}

/// Reads files off the async threads.
async fn off_thread<T: Send + 'static>(
    setting: &'static str,
    work: impl FnOnce() -> Result<T, FilesError> + Send + 'static,
) -> Result<T, FilesError> {
    let done = offload::carry(&Threads, setting, work).await;
    done.map_err(|error| FilesError::Faults { setting, faults: error.to_string() })?
}
