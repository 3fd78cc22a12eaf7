// SPDX-License-Identifier: Apache-2.0
//! A directory that one process at a time may use: two that write the same files would
//! write over each other without a word. The lock is the system's and ends with the
//! process, however it ends; the file stays and means nothing by itself.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Proof that this process has the directory, until it is dropped.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the directory whose lock is this file; `None` when another process, or another part of
    /// this one, has it.
    ///
    /// # Errors
    /// When the file cannot be made or locked.
    pub fn take(file: &Path) -> io::Result<Option<DirectoryLock>> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(file)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(DirectoryLock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::DirectoryLock;

    #[test]
    fn one_at_a_time_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lock");
        let held = DirectoryLock::take(&file).unwrap();
        assert!(held.is_some());
        assert!(DirectoryLock::take(&file).unwrap().is_none());
        drop(held);
        assert!(DirectoryLock::take(&file).unwrap().is_some());
        assert!(DirectoryLock::take(&dir.path().join("none/lock")).is_err());
    }
}
