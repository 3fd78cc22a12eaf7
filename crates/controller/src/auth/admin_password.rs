// SPDX-License-Identifier: Apache-2.0
//! The administrator of a gateway whose configuration names no user. There is no
//! default password: one is generated at the first start and kept, readable by its
//! owner only, where the client verbs of the same user find it. Controllers that share
//! a database share the administrator: its hash is there, and the password itself only
//! in the directory of the controller that made it.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use argon2::Argon2;
use argon2::password_hash::PasswordHasher as _;
use argon2::password_hash::phc::PasswordHash;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ferrogate_base::directory;
use ferrogate_base::secret::Secret;
use ferrogate_store::{Store, StoreError};

use super::basic::{Password, User, verify};
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

/// The note with the hash of the shared administrator's password.
const NOTE: &str = "administrator";

/// Why the shared administrator is not known.
#[derive(Debug, thiserror::Error)]
pub enum SharedError {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] AdminPasswordError),
    /// The database cannot be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The administrator of every controller that shares this database.
pub struct SharedAdmin {
    /// The user, its password hashed.
    pub user: User,
    /// The file with the password, when it was made here.
    pub file: Option<PathBuf>,
}

/// The administrator whose hash the database has, else the one of the data directory, whose
/// hash it then gets. Of controllers that start together over a new database one wins, and
/// the others forget what they made.
///
/// # Errors
/// When the file or the database cannot be used.
pub async fn share(store: &dyn Store, data_dir: &Path) -> Result<SharedAdmin, SharedError> {
    let path = data_dir.join(FILE_NAME);
    if let Some(hash) = store.note(NOTE).await? {
        // An unreadable file is as good as none: the database decides.
        let known = read(&path).is_ok_and(|text| !text.is_empty() && verify(&hash, &text));
        if !known && path.exists() {
            tracing::warn!(
                file = %path.display(),
                "this file's password is not the gateway's: another controller made that one, and has it in \
                 its own data directory"
            );
        }
        return Ok(SharedAdmin { user: hashed(hash), file: known.then_some(path) });
    }
    let own = establish(None, data_dir)?;
    let Password::Hashed(hash) = &own.user.password else { return Err(AdminPasswordError::Hash.into()) };
    let stands = store.put_note(NOTE, None, hash.expose()).await?;
    if hash.matches(&stands) {
        return Ok(SharedAdmin { user: own.user, file: own.file });
    }
    if own.generated
        && let Err(error) = std::fs::remove_file(&path)
    {
        tracing::warn!(%error, file = %path.display(), "a password that is not the gateway's was left behind");
    }
    Ok(SharedAdmin { user: hashed(stands), file: None })
}

fn hashed(hash: String) -> User {
    let password = Password::Hashed(Secret::new(hash));
    User { name: ADMIN_NAME.to_owned(), password, roles: vec![ADMIN.to_owned()] }
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
    Ok(hashed(hash.to_string()))
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    OpenOptions::new().read(true).open(path)?.read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

/// Two processes may start at once over one directory: the one that finds the file taken
/// uses what the other wrote.
fn create(data_dir: &Path, path: &Path) -> io::Result<(String, bool)> {
    DirBuilder::new().recursive(true).mode(0o700).create(data_dir)?;
    let random = [*uuid::Uuid::new_v4().as_bytes(), *uuid::Uuid::new_v4().as_bytes()].concat();
    let text = URL_SAFE_NO_PAD.encode(&random).replace(['-', '_'], "x");
    let text: String = text.chars().take(32).collect();
    let made = directory::create_once(path, format!("{text}\n").as_bytes())?;
    Ok(if made { (text, true) } else { (read(path)?, false) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use ferrogate_base::secret::Secret;

    use ferrogate_model::GatewayId;
    use ferrogate_store::{Options, open};

    use super::{FILE_NAME, Password, establish, share, verify};

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

    #[tokio::test]
    async fn the_first_controller_makes_the_password_of_all() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let url = format!("sqlite://{}", dir.path().join("shared.db").display());
        let store = open(&url, &GatewayId::from("g"), &Options::default()).expect("a URL");
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        // Both at once: one of them wins, and the other forgets what it made.
        let (here, there) = futures::join!(share(store.as_ref(), &one), share(store.as_ref(), &two));
        let files = [here, there].map(|shared| shared.expect("asked").file);
        let made: Vec<_> = files.iter().flatten().collect();
        let [file] = made.as_slice() else { unreachable!("{files:?}") };
        assert_eq!([one.join(FILE_NAME), two.join(FILE_NAME)].iter().filter(|path| path.exists()).count(), 1);
        let password = std::fs::read_to_string(file).expect("kept");
        for directory in [&one, &two] {
            let again = share(store.as_ref(), directory).await.expect("asked");
            let Password::Hashed(hash) = &again.user.password else { unreachable!("hashed") };
            assert!(verify(hash.expose(), password.trim()), "one password for all");
            assert_eq!(again.file.as_ref(), Some(*file).filter(|file| file.starts_with(directory)));
        }
    }

    #[test]
    fn a_configured_password_wins_and_is_not_written() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let admin = establish(Some(&Secret::new("mine")), dir.path()).expect("configured");
        assert!(admin.file.is_none() && !admin.generated);
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 0);
    }
}
