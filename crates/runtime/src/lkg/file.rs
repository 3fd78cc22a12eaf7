// SPDX-License-Identifier: Apache-2.0
//! The one file: a base set, then one record for each update since. An update is appended
//! and synced; when the updates outgrow the base, or a write has failed, the whole set is
//! written anew beside it and renamed over it, so that the cost of an update stays in
//! proportion to the update. Blocking code: [`super::Lkg`] keeps it off the async threads.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ferrogate_base::directory::{DirectoryLock, sync_parent};
use ferrogate_model::Resource;

use super::record::{Change, Mark, Record};
use super::seal::{FileError, HEADER_BYTES, MasterKey, Seal, decode_with_seal};
use super::{Job, LkgError, Loaded, PersistError};
use crate::state::{Refused, Snapshot};

/// About how much of the base goes into one record.
const PART_BYTES: usize = 1 << 20;
/// An update above this is written as a new base: a record is written in one piece.
const MAX_STEP_BYTES: usize = 16 << 20;
/// Updates may always reach this size, however small the base.
const MIN_LOG_BYTES: u64 = 1 << 20;

const FILE: &str = "set.lkg";
const TEMPORARY: &str = "set.lkg.tmp";
/// Where a file goes that cannot be used, for a person to look at; the latest one only.
const ASIDE: &str = "set.lkg.bad";
const LOCK: &str = "lock";

/// The file and what is known of it.
pub(super) struct Writer {
    directory: PathBuf,
    master: MasterKey,
    /// What can be appended to; `None` when the next write must be a new base.
    open: Option<Open>,
    /// The furthest position that was ever written here.
    floor: Mark,
    /// Held for as long as this process may write.
    _lock: DirectoryLock,
}

/// A file that ends after a whole record.
struct Open {
    file: File,
    seal: Seal,
    records: u64,
    base_bytes: u64,
    log_bytes: u64,
    /// The snapshot it holds.
    sequence: u64,
}

impl Writer {
    /// Takes the directory for this process and reads what is there.
    pub(super) fn open(directory: &Path, master: MasterKey) -> Result<(Writer, Loaded), LkgError> {
        let failed = |error| LkgError::Io(directory.to_owned(), error);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let lock = lock(directory)?;
        remove_if_there(&directory.join(TEMPORARY)).map_err(failed)?;
        let mut writer = Writer {
            directory: directory.to_owned(),
            master,
            open: None,
            floor: Mark::default(),
            _lock: lock,
        };
        let loaded = writer.load().map_err(failed)?;
        Ok((writer, loaded))
    }

    /// Brings the file to the job's snapshot; on return it is there for good.
    pub(super) fn persist(&mut self, job: &Job) -> Result<Mark, PersistError> {
        let mark = mark_of(&job.snapshot);
        if mark.position < self.floor.position {
            return Err(PersistError::GoesBack { from: self.floor.position, to: mark.position });
        }
        let appended = self.append(job, mark)?;
        if !appended {
            self.rewrite(&job.snapshot, mark)?;
        }
        self.floor = mark;
        Ok(mark)
    }

    /// Appends the update, if the file stands at the snapshot it starts from. After a failed
    /// write the file is not appended to again: its record's number is spent.
    fn append(&mut self, job: &Job, mark: Mark) -> Result<bool, PersistError> {
        let Some(mut open) = self.open.take() else { return Ok(false) };
        if open.sequence != job.after || open.log_bytes > open.base_bytes.max(MIN_LOG_BYTES) {
            return Ok(false);
        }
        let frame = open.seal.frame(open.records, &Record::Step(mark, job.change.clone()))?;
        if frame.len() > MAX_STEP_BYTES {
            return Ok(false);
        }
        open.file.write_all(&frame)?;
        open.file.sync_data()?;
        open.records += 1;
        open.log_bytes += frame.len() as u64;
        open.sequence = job.snapshot.sequence;
        self.open = Some(open);
        Ok(true)
    }

    /// Writes the whole set beside the file and renames it over it.
    fn rewrite(&mut self, snapshot: &Snapshot, mark: Mark) -> Result<(), PersistError> {
        self.open = None;
        let temporary = self.directory.join(TEMPORARY);
        match self.write_base(&temporary, snapshot, mark) {
            Ok(open) => {
                let path = self.directory.join(FILE);
                fs::rename(&temporary, &path)?;
                sync_parent(&path)?;
                self.open = Some(open);
                Ok(())
            }
            Err(error) => {
                // What is left of it may be what fills the disk.
                if let Err(error) = remove_if_there(&temporary) {
                    tracing::warn!(%error, "a half-written last-known-good file could not be removed");
                }
                Err(error)
            }
        }
    }

    fn write_base(&self, path: &Path, snapshot: &Snapshot, mark: Mark) -> Result<Open, PersistError> {
        let seal = Seal::create(&self.master)?;
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        let mut out = Out { file: BufWriter::new(file), seal: &seal, records: 0, bytes: HEADER_BYTES as u64 };
        out.file.write_all(seal.header())?;
        let mut part = Change::default();
        let mut size = 0;
        for (name, artifact) in &snapshot.artifacts {
            size += artifact.payload.len();
            part.upserts.push(Resource {
                name: name.clone(),
                version: artifact.version,
                payload: artifact.payload.clone(),
            });
            if size >= PART_BYTES {
                out.record(&Record::Part(std::mem::take(&mut part)))?;
                size = 0;
            }
        }
        part.refused = snapshot.refused.iter().map(|(name, r)| (name.clone(), Refused::clone(r))).collect();
        if !part.is_empty() {
            out.record(&Record::Part(part))?;
        }
        out.record(&Record::Base(mark))?;
        let (records, base_bytes) = (out.records, out.bytes);
        let file = out.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok(Open { file, seal, records, base_bytes, log_bytes: 0, sequence: snapshot.sequence })
    }

    fn load(&mut self) -> io::Result<Loaded> {
        let path = self.directory.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::default()),
            Err(error) => return Err(error),
        };
        let (decoded, seal) = match decode_with_seal(&bytes, &self.master) {
            Ok(decoded) => decoded,
            Err(reason) => return self.set_aside(&path, &reason),
        };
        self.floor = decoded.contents.mark;
        if decoded.torn {
            // The number of the torn record is spent, so the next write is a new base.
            tracing::warn!(
                path = %path.display(), position = %decoded.contents.mark.position,
                "the last write to the last-known-good file was cut off; it was never acknowledged and is dropped"
            );
        } else {
            let mut file = OpenOptions::new().write(true).open(&path)?;
            let length = file.seek(SeekFrom::End(0))?;
            let records = decoded.records;
            // How much of it is base is not recorded: an even share makes the next rewrite
            // come neither at once nor never.
            let (base_bytes, log_bytes) = (length / 2, length / 2);
            self.open = Some(Open { file, seal, records, base_bytes, log_bytes, sequence: 0 });
        }
        Ok(Loaded { contents: Some(decoded.contents), refused_file: None })
    }

    /// Starts without the file: serving a part of it could bring back what was revoked.
    fn set_aside(&self, path: &Path, reason: &FileError) -> io::Result<Loaded> {
        let aside = self.directory.join(ASIDE);
        fs::rename(path, &aside)?;
        sync_parent(&aside)?;
        tracing::error!(
            file = %aside.display(), %reason,
            "the last-known-good file cannot be used and was set aside; nothing is served until a controller answers"
        );
        Ok(Loaded { contents: None, refused_file: Some(reason.to_string()) })
    }
}

/// A file being written.
struct Out<'a> {
    file: BufWriter<File>,
    seal: &'a Seal,
    records: u64,
    bytes: u64,
}

impl Out<'_> {
    fn record(&mut self, record: &Record) -> Result<(), PersistError> {
        let frame = self.seal.frame(self.records, record)?;
        self.file.write_all(&frame)?;
        self.records += 1;
        self.bytes += frame.len() as u64;
        Ok(())
    }
}

pub(crate) fn mark_of(snapshot: &Snapshot) -> Mark {
    Mark { position: snapshot.position, digest: snapshot.digest }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Two runtimes on one directory would write over each other: the second does not start.
fn lock(directory: &Path) -> Result<DirectoryLock, LkgError> {
    let path = directory.join(LOCK);
    let taken = DirectoryLock::take(&path).map_err(|error| LkgError::Io(path, error))?;
    taken.ok_or_else(|| LkgError::InUse(directory.to_owned()))
}
