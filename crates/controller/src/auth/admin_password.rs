// SPDX-License-Identifier: Apache-2.0
//! The administrator of a gateway whose configuration names no user. There is no
//! default password: one is generated at the first start and kept, readable by its
//! owner only, where the client verbs of the same user find it.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use argon2::Argon2;
use argon2::password_hash::PasswordHasher as _;
use argon2::password_hash::phc::PasswordHash;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ferrogate_base::secret::Secret;

use super::basic::{Password, User};
use super::roles::ADMIN;

/// The user name of the generated administrator.
pub const ADMIN_NAME: &str = "admin";
/// The file in the data directory that holds the password.
pub const FILE_NAME: &str = "admin-password";

/// Why there is no administrator.
#[derive(Debug, thiserror::Error)]
pub enum AdminPasswordError {
    /// The file cannot be read or written.
    #[error("the administrator's password file {path} is unusable: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is there but empty.
    #[error("the administrator's password file {0} is empty: delete it to have a new one generated")]
    Empty(PathBuf),
    /// The password cannot be hashed.
    #[error("the administrator's password cannot be hashed")]
    Hash,
}

/// The generated administrator, and where its password came from.
pub struct Admin {
    /// The user, its password hashed.
    pub user: User,
    /// The password's text, to be shown once.
    pub password: Secret,
    /// The file that holds it; `None` when it was configured.
    pub file: Option<PathBuf>,
    /// Whether this start made it.
    pub generated: bool,
}

/// The administrator with the configured password, else with the one in the data directory,
/// else with a new one.
///
/// # Errors
/// When the file cannot be used.
pub fn establish(configured: Option<&Secret>, data_dir: &Path) -> Result<Admin, AdminPasswordError> {
    if let Some(password) = configured {
        return Ok(Admin {
            user: admin(password)?,
            password: password.clone(),
            file: None,
            generated: false,
        });
    }
    let path = data_dir.join(FILE_NAME);
    let failed = |source| AdminPasswordError::File { path: path.clone(), source };
    let (text, generated) = match read(&path) {
        Ok(text) => (text, false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(data_dir, &path).map_err(failed)?,
        Err(error) => return Err(failed(error)),
    };
    if text.is_empty() {
        return Err(AdminPasswordError::Empty(path));
    }
    let password = Secret::new(text);
    Ok(Admin { user: admin(&password)?, password, file: Some(path), generated })
}

fn admin(password: &Secret) -> Result<User, AdminPasswordError> {
    let hash: PasswordHash = Argon2::default()
        .hash_password(password.expose().as_bytes())
        .map_err(|_| AdminPasswordError::Hash)?;
    Ok(User {
        name: ADMIN_NAME.to_owned(),
        password: Password::Hashed(Secret::new(hash.to_string())),
        roles: vec![ADMIN.to_owned()],
    })
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    OpenOptions::new().read(true).open(path)?.read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

/// Two processes may start at once over one directory: the one that finds the file taken
/// uses what the other wrote. The file appears whole, by a hard link from a private one.
fn create(data_dir: &Path, path: &Path) -> io::Result<(String, bool)> {
    DirBuilder::new().recursive(true).mode(0o700).create(data_dir)?;
    let random = [*uuid::Uuid::new_v4().as_bytes(), *uuid::Uuid::new_v4().as_bytes()].concat();
    let text = URL_SAFE_NO_PAD.encode(&random).replace(['-', '_'], "x");
    let text: String = text.chars().take(32).collect();
    let draft = data_dir.join(format!(".{FILE_NAME}.{}", uuid::Uuid::new_v4()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    let linked = std::fs::hard_link(&draft, path);
    std::fs::remove_file(&draft)?;
    match linked {
        Ok(()) => Ok((text, true)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok((read(path)?, false)),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use ferrogate_base::secret::Secret;

    use super::{FILE_NAME, establish};

    #[test]
    fn generated_once_kept_private_and_reused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data_dir = dir.path().join("data");
        let first = establish(None, &data_dir).expect("generated");
        assert!(first.generated && first.password.expose().len() >= 32);
        let mode = std::fs::metadata(data_dir.join(FILE_NAME)).expect("written").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let second = establish(None, &data_dir).expect("reused");
        assert!(!second.generated);
        assert_eq!(first.password.expose(), second.password.expose());
        assert_eq!(std::fs::read_dir(&data_dir).expect("readable").count(), 1, "no draft is left behind");
    }

    #[test]
    fn a_configured_password_wins_and_is_not_written() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let admin = establish(Some(&Secret::new("mine")), dir.path()).expect("configured");
        assert!(admin.file.is_none() && !admin.generated);
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 0);
    }
}
