// SPDX-License-Identifier: Apache-2.0
//! Where keys come from: files of 32 bytes. Those that are configured must be there; for
//! a gateway that keeps its data beside its keys, on one machine, the first one is made
//! at the first start. For a shared database none is ever made: a key that only one of
//! several controllers has, or that goes with its container, locks everybody out.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use ferrogate_base::directory;
use ring::rand::{SecureRandom as _, SystemRandom};

use super::{KEY_BYTES, KeyRing, KeyRingError};

/// Where the generated key is, below the data directory (contract 7.2).
const GENERATED: &str = "aesgcm-keys/default-aesgcm256-v1.bin";
/// The version of a key whose version is not configured (contract 7.2).
pub const DEFAULT_VERSION: &str = "aesgcm256-v1";

/// A key that is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile {
    /// Its name, which stands beside everything it seals.
    pub version: String,
    /// The file with its 32 bytes.
    pub path: PathBuf,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// A file cannot be read or written.
    #[error("the key file {path} is unusable: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file has another length.
    #[error(
        "the key file {path} has {found} bytes instead of {KEY_BYTES}: make one with 'head -c 32 /dev/urandom'"
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// How many it has.
        found: usize,
    },
    /// The keys do not make a ring.
    #[error("controller.encryption: {0}")]
    Ring(#[from] KeyRingError),
    /// No random numbers.
    #[error("the system has no random numbers to make a key from")]
    Random,
}

/// The configured keys, else the generated one if `may_generate`, else none.
///
/// # Errors
/// When a file cannot be used.
pub fn load(
    configured: &[KeyFile],
    data_dir: &Path,
    may_generate: bool,
) -> Result<Option<KeyRing>, KeyFileError> {
    let mut keys = Vec::with_capacity(configured.len());
    for KeyFile { version, path } in configured {
        keys.push((version.clone(), read(path)?));
    }
    if keys.is_empty() {
        if !may_generate {
            return Ok(None);
        }
        keys.push((DEFAULT_VERSION.to_owned(), generated(&data_dir.join(GENERATED))?));
    }
    Ok(Some(KeyRing::new(keys)?))
}

fn read(path: &Path) -> Result<[u8; KEY_BYTES], KeyFileError> {
    let failed = |source| KeyFileError::File { path: path.to_owned(), source };
    let mut bytes = Vec::with_capacity(KEY_BYTES + 1);
    let file = OpenOptions::new().read(true).open(path).map_err(failed)?;
    // One byte too many is enough to know; a wrong path may name something endless.
    file.take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    let found = bytes.len();
    bytes.try_into().map_err(|_| KeyFileError::Length { path: path.to_owned(), found })
}

/// Two processes may start at once over one directory: the one that finds the file there
/// uses what the other wrote.
fn generated(path: &Path) -> Result<[u8; KEY_BYTES], KeyFileError> {
    let failed = |source| KeyFileError::File { path: path.to_owned(), source };
    if path.try_exists().map_err(failed)? {
        return read(path);
    }
    let mut key = [0; KEY_BYTES];
    SystemRandom::new().fill(&mut key).map_err(|_| KeyFileError::Random)?;
    write(path, &key).map_err(failed)?;
    read(path)
}

fn write(path: &Path, key: &[u8]) -> io::Result<()> {
    let keys = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(keys)?;
    directory::create_once(path, key)?;
    // The directory of the keys may be new as well, and must not go without them.
    directory::sync_parent(keys)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::{GENERATED, KeyFile, KeyFileError, load};
    use crate::seal::open;

    #[test]
    fn a_key_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let first = load(&[], dir.path(), true).expect("made").expect("a ring");
        let mode = std::fs::metadata(dir.path().join(GENERATED)).expect("written").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let sealed = first.seal("p", "x").expect("sealed");
        let second = load(&[], dir.path(), true).expect("read again");
        assert_eq!(open(second.as_ref(), "p", sealed).as_deref(), Ok("x"));
        assert!(load(&[], dir.path(), false).expect("none").is_none(), "not for a shared database");
    }

    #[test]
    fn configured_files_must_be_keys() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = |name: &str, bytes: usize| {
            let path = dir.path().join(name);
            std::fs::write(&path, vec![7; bytes]).expect("written");
            KeyFile { version: name.to_owned(), path }
        };
        let ring = load(&[file("new", 32), file("old", 32)], dir.path(), false).expect("two keys");
        assert_eq!(ring.expect("a ring").version(), "new");
        for (bytes, told) in [(31, 31), (99, 33)] {
            let refused = load(&[file("short", bytes)], dir.path(), true).err();
            assert!(matches!(refused, Some(KeyFileError::Length { found, .. }) if found == told));
        }
        let missing = KeyFile { version: "m".to_owned(), path: dir.path().join("missing") };
        assert!(matches!(load(&[missing], dir.path(), true), Err(KeyFileError::File { .. })));
    }
}
