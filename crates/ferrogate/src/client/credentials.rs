// SPDX-License-Identifier: Apache-2.0
//! Where the client's controllers and credentials come from: flags, then environment,
//! then the data directory of a controller that the same user runs. It is the client's
//! part of the configuration, and the only one that reads the environment.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ferrogate_base::secret::Secret;

use super::ClientError;
use crate::cli::Connection;
use crate::roles::{LISTENERS_FILE, data_root, reachable};

const DEFAULT_CONTROLLER: &str = "http://127.0.0.1:9090";
const DEFAULT_USERNAME: &str = "admin";
/// The file in a controller's data directory that holds the generated password.
const PASSWORD_FILE: &str = "admin-password";

/// What to sign in with.
pub enum Credentials {
    /// User name and password.
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A token of an identity provider.
    Bearer(Secret),
}

/// Controllers and credentials.
pub(super) struct Found {
    pub controllers: Vec<String>,
    pub credentials: Credentials,
}

/// Finds both.
pub(super) fn find(connection: &Connection) -> Result<Found, ClientError> {
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, value)| name.starts_with("FERROGATE_") && !value.is_empty())
        .collect();
    find_in(connection, &environment, &data_dirs(connection, &environment))
}

/// The data directories to look in: the one named, or the defaults of the roles.
fn data_dirs(connection: &Connection, environment: &BTreeMap<String, String>) -> Vec<PathBuf> {
    let named =
        connection.data_dir.clone().or_else(|| environment.get("FERROGATE_DATA_DIR").map(PathBuf::from));
    match named {
        Some(dir) => vec![dir],
        None => {
            let root = data_root();
            vec![root.join("standalone"), root.join("controller")]
        }
    }
}

fn find_in(
    connection: &Connection,
    environment: &BTreeMap<String, String>,
    dirs: &[PathBuf],
) -> Result<Found, ClientError> {
    let setting = |flag: &Option<String>, name: &str| flag.clone().or_else(|| environment.get(name).cloned());
    let mut controllers = connection.controller.clone();
    if controllers.is_empty()
        && let Some(list) = environment.get("FERROGATE_CONTROLLER")
    {
        controllers = list.split(',').map(|address| address.trim().to_owned()).collect();
    }
    if controllers.is_empty() {
        let running = dirs.iter().find_map(|dir| running_controller(dir));
        controllers = vec![running.unwrap_or_else(|| DEFAULT_CONTROLLER.to_owned())];
    }
    if let Some(token) = setting(&connection.token, "FERROGATE_TOKEN") {
        return Ok(Found { controllers, credentials: Credentials::Bearer(Secret::new(token)) });
    }
    let username = setting(&connection.username, "FERROGATE_USERNAME");
    let username = username.unwrap_or_else(|| DEFAULT_USERNAME.to_owned());
    let password = match setting(&connection.password, "FERROGATE_ADMIN_PASSWORD") {
        Some(password) => Secret::new(password),
        None => stored_password(dirs)?,
    };
    Ok(Found { controllers, credentials: Credentials::Basic { username, password } })
}

fn stored_password(dirs: &[PathBuf]) -> Result<Secret, ClientError> {
    let mut tried = Vec::new();
    for dir in dirs {
        let path = dir.join(PASSWORD_FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => return Ok(Secret::new(text.trim())),
            Err(error) => tried.push(format!("{} ({error})", path.display())),
        }
    }
    Err(ClientError::NoCredentials(format!(
        "give --username and --password, set FERROGATE_ADMIN_PASSWORD, or name a controller's --data-dir; looked in {}",
        tried.join(" and ")
    )))
}

/// The management address of the controller that was last started over this directory.
fn running_controller(dir: &Path) -> Option<String> {
    let text = std::fs::read(dir.join(LISTENERS_FILE)).ok()?;
    let listeners: BTreeMap<String, SocketAddr> = serde_json::from_slice(&text).ok()?;
    Some(format!("http://{}", reachable(*listeners.get("management")?)))
}

#[cfg(test)]
mod tests {
    use super::{Credentials, find_in};
    use crate::cli::Connection;
    use std::collections::BTreeMap;

    fn connection() -> Connection {
        Connection {
            controller: Vec::new(),
            data_dir: None,
            username: None,
            password: None,
            token: None,
            output: None,
        }
    }

    fn shown(credentials: &Credentials) -> String {
        match credentials {
            Credentials::Basic { username, password } => format!("{username}:{}", password.expose()),
            Credentials::Bearer(token) => token.expose().to_owned(),
        }
    }

    #[test]
    fn flags_win_over_environment_over_the_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("admin-password"), "stored\n").unwrap();
        std::fs::write(dir.path().join("listeners.json"), r#"{"management":"0.0.0.0:19090"}"#).unwrap();
        let dirs = [dir.path().to_owned()];
        let mut environment = BTreeMap::new();
        let found = find_in(&connection(), &environment, &dirs).ok().unwrap();
        assert_eq!(found.controllers, ["http://127.0.0.1:19090"]);
        assert_eq!(shown(&found.credentials), "admin:stored");

        environment.insert("FERROGATE_ADMIN_PASSWORD".to_owned(), "env".to_owned());
        environment.insert("FERROGATE_CONTROLLER".to_owned(), "http://a, http://b".to_owned());
        let found = find_in(&connection(), &environment, &dirs).ok().unwrap();
        assert_eq!(found.controllers, ["http://a", "http://b"]);
        assert_eq!(shown(&found.credentials), "admin:env");

        let flags = Connection {
            controller: vec!["http://c".to_owned()],
            username: Some("ann".to_owned()),
            password: Some("flag".to_owned()),
            ..connection()
        };
        let found = find_in(&flags, &environment, &dirs).ok().unwrap();
        assert_eq!(found.controllers, ["http://c"]);
        assert_eq!(shown(&found.credentials), "ann:flag");
    }

    #[test]
    fn without_a_password_the_error_says_where_it_looked() {
        let dir = tempfile::tempdir().unwrap();
        let found = find_in(&connection(), &BTreeMap::new(), &[dir.path().to_owned()]);
        let error = found.err().unwrap().to_string();
        assert!(error.contains("FERROGATE_ADMIN_PASSWORD"), "{error}");
        assert!(error.contains(&dir.path().display().to_string()), "{error}");
    }
}
