// SPDX-License-Identifier: Apache-2.0
//! The key that seals the last-known-good file: made on first use, beside the file but
//! not in it, or given by the operator in a file of their own. 64 hexadecimal digits.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use ferrogate_base::directory;

use super::LkgError;
use super::seal::MasterKey;

/// The operator's key.
pub(super) fn configured(path: &Path) -> Result<MasterKey, LkgError> {
    read(path)?.ok_or_else(|| LkgError::Key(path.to_owned(), "the file does not exist".to_owned()))
}

/// The key in the data directory, made when there is none.
pub(super) fn own(path: &Path) -> Result<MasterKey, LkgError> {
    if let Some(key) = read(path)? {
        return Ok(key);
    }
    let mut bytes = [0; 32];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .map_err(|_| LkgError::Key(path.to_owned(), "no random numbers are available".to_owned()))?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).chain(["\n".to_owned()]).collect();
    let failed = |error| LkgError::Io(path.to_owned(), error);
    if directory::create_once(path, text.as_bytes()).map_err(failed)? {
        return Ok(MasterKey::new(bytes));
    }
    // Another process made one meanwhile: two keys for one file would be none.
    read(path)?.ok_or_else(|| LkgError::Key(path.to_owned(), "the file comes and goes".to_owned()))
}

fn read(path: &Path) -> Result<Option<MasterKey>, LkgError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(LkgError::Io(path.to_owned(), error)),
    };
    let mode = fs::metadata(path).map_err(|error| LkgError::Io(path.to_owned(), error))?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "the last-known-good key can be read by others; it should have mode 0600");
    }
    let bytes = parse(text.trim())
        .ok_or_else(|| LkgError::Key(path.to_owned(), "it must hold 64 hexadecimal digits".to_owned()))?;
    Ok(Some(MasterKey::new(bytes)))
}

fn parse(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}
