// SPDX-License-Identifier: Apache-2.0
//! Directories and what must last in them. A directory that one process at a time may use:
//! two that write the same files would write over each other without a word; the lock is the
//! system's and ends with the process, however it ends, and its file means nothing by itself.
//! A file that is made once, whole and for good: keys and passwords. Blocking code; callers
//! keep it off the async threads or call it at a start.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
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

/// Makes this file with these bytes, readable by its owner only, unless it is there; false
/// when it is. It appears whole or not at all, whoever else makes it at the same time and
/// however the process ends, and once this returns true it survives a power cut: its bytes
/// are synced before it has its name, and the name before anybody relies on it.
///
/// # Errors
/// When it cannot be written. It may be there all the same, if only syncing its name failed.
pub fn create_once(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    // By chance, for processes of one directory may have the same number: each in its container.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = parent(path).join(format!(".{name}.{:032x}", fastrand::u128(..)));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    let linked = written.map(|()| fs::hard_link(&draft, path));
    fs::remove_file(&draft)?;
    let made = match linked? {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(error),
    };
    // Of a file that another made as well: it may have been cut off before it came to this.
    sync_parent(path)?;
    Ok(made)
}

/// Makes what has become of names in this file's directory survive a power cut.
///
/// # Errors
/// When the directory cannot be opened or synced.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(parent(path))?.sync_all()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::{DirectoryLock, create_once, sync_parent};

    #[test]
    fn a_file_is_made_once_whole_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        // All at once: one of them makes it, and none leaves anything behind.
        let made: Vec<bool> = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..8_u8)
                .map(|byte| {
                    let file = &file;
                    scope.spawn(move || create_once(file, &[byte; 32]).unwrap())
                })
                .collect();
            makers.into_iter().map(|maker| maker.join().unwrap()).collect()
        });
        let winner = made.iter().position(|made| *made).unwrap();
        assert_eq!(made.iter().filter(|made| **made).count(), 1);
        assert_eq!(std::fs::read(&file).unwrap(), vec![u8::try_from(winner).unwrap(); 32]);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(create_once(&dir.path().join("none/key"), b"k").is_err());
        assert!(sync_parent(&dir.path().join("none/key")).is_err());
    }

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
