// SPDX-License-Identifier: Apache-2.0
//! Last-known-good: the acknowledged set on disk, so that a runtime restarted with every
//! controller down serves what it served (invariant 8, P4). Sealed, because artifacts hold
//! secrets; synced before an update is acknowledged; refused as a whole when damaged,
//! because a part of it could bring back what was revoked. [`crate::sync`] loads it once
//! and persists every update through it; nothing else touches the directory.

mod file;
mod key;
pub mod record;
pub mod seal;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ferrogate_base::offload::{Offload, carry};
use ferrogate_model::Position;

pub(crate) use file::mark_of;
pub use record::{Change, Contents, Mark};
pub use seal::{Decoded, FileError, MasterKey, decode};

use crate::state::Snapshot;

/// What a write to the file is called where it is carried out.
pub const PERSIST: &str = "persist";

/// Where and how the set is kept.
#[derive(Clone, Debug)]
pub struct LkgOptions {
    /// The runtime's data directory; the files are in `lkg/` below it, the key is `lkg.key`.
    pub data_dir: PathBuf,
    /// The operator's key file, instead of one made in the data directory.
    pub key_file: Option<PathBuf>,
    /// How long one write may take before the update counts as not persisted.
    pub deadline: Duration,
}

/// The last-known-good file of this runtime.
pub struct Lkg {
    offload: Arc<dyn Offload>,
    writer: Arc<Mutex<file::Writer>>,
    /// What the file holds for certain.
    persisted: Arc<Mutex<Mark>>,
    /// A write is going on, perhaps beyond its deadline.
    busy: Arc<AtomicBool>,
    deadline: Duration,
}

/// What was on disk at start.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The set; `None` at the first start and when the file could not be used.
    pub contents: Option<Contents>,
    /// Why a file that is there was not used.
    pub refused_file: Option<String>,
}

/// One update to write.
pub(crate) struct Job {
    /// What the file must hold afterwards.
    pub snapshot: Arc<Snapshot>,
    /// The snapshot that `change` starts from.
    pub after: u64,
    /// The difference.
    pub change: Change,
}

/// The directory cannot be used at all: the runtime does not start.
#[derive(Debug, thiserror::Error)]
pub enum LkgError {
    /// The file system says no.
    #[error("{path}: {1}", path = .0.display())]
    Io(PathBuf, #[source] std::io::Error),
    /// The key file is not one.
    #[error("the last-known-good key {path}: {1}", path = .0.display())]
    Key(PathBuf, String),
    /// Another process has it.
    #[error("the data directory {} is in use by another runtime", .0.display())]
    InUse(PathBuf),
    /// The process is shutting down.
    #[error("the runtime is stopping")]
    Stopping,
}

/// An update that is not, or not certainly, on disk.
#[derive(Debug, thiserror::Error)]
pub enum PersistError {
    /// The file system says no: a full disk, most often.
    #[error("the last-known-good file cannot be written: {0}")]
    Io(#[from] std::io::Error),
    /// The record cannot be sealed.
    #[error(transparent)]
    Seal(#[from] FileError),
    /// The file is already further on (invariant 4).
    #[error("the last-known-good file stands at {from} and does not go back to {to}")]
    GoesBack {
        /// Where it stands.
        from: Position,
        /// What was to be written.
        to: Position,
    },
    /// It took too long; it may yet succeed.
    #[error("writing the last-known-good file took longer than {0:?}")]
    Deadline(Duration),
    /// An earlier write that missed its deadline has not come back.
    #[error("an earlier write of the last-known-good file has not ended")]
    Busy,
    /// The process is shutting down.
    #[error("the runtime is stopping")]
    Stopping,
}

/// Says that no write is going on any more, however the write ended.
struct Idle(Arc<AtomicBool>);

impl Lkg {
    /// Takes the directory for this process and reads what is there.
    ///
    /// # Errors
    /// When the directory or the key cannot be used. A damaged file is not an error: it is
    /// set aside, and [`Loaded`] says so.
    pub async fn open(options: LkgOptions, offload: Arc<dyn Offload>) -> Result<(Lkg, Loaded), LkgError> {
        let deadline = options.deadline;
        // No deadline here: nothing is served before it, and the file is read once.
        let opened = carry(offload.as_ref(), "open", move || {
            std::fs::create_dir_all(&options.data_dir)
                .map_err(|error| LkgError::Io(options.data_dir.clone(), error))?;
            let master = match &options.key_file {
                Some(path) => key::configured(path)?,
                None => key::own(&options.data_dir.join("lkg.key"))?,
            };
            file::Writer::open(&options.data_dir.join("lkg"), master)
        })
        .await;
        let (writer, loaded) = opened.map_err(|_| LkgError::Stopping)??;
        let mark = loaded.contents.as_ref().map(|contents| contents.mark).unwrap_or_default();
        let lkg = Lkg {
            offload,
            writer: Arc::new(Mutex::new(writer)),
            persisted: Arc::new(Mutex::new(mark)),
            busy: Arc::default(),
            deadline,
        };
        Ok((lkg, loaded))
    }

    /// What the file holds for certain.
    #[must_use]
    pub fn persisted(&self) -> Mark {
        *self.persisted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the file to the job's snapshot. Once this returns `Ok`, it survives a crash.
    /// May be dropped at any time: the write goes on, and the next one finds out.
    pub(crate) async fn persist(&self, job: Job) -> Result<(), PersistError> {
        if self.busy.swap(true, Ordering::AcqRel) {
            return Err(PersistError::Busy);
        }
        let idle = Idle(Arc::clone(&self.busy));
        let (writer, persisted) = (Arc::clone(&self.writer), Arc::clone(&self.persisted));
        let write = carry(self.offload.as_ref(), PERSIST, move || {
            let _idle = idle;
            let mark = writer.lock().unwrap_or_else(PoisonError::into_inner).persist(&job)?;
            *persisted.lock().unwrap_or_else(PoisonError::into_inner) = mark;
            Ok(())
        });
        match tokio::time::timeout(self.deadline, write).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(PersistError::Stopping),
            Err(_) => Err(PersistError::Deadline(self.deadline)),
        }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
