// SPDX-License-Identifier: Apache-2.0
//! Opening a store from a URL. Opening touches no network and only looks at a file, so that
//! a controller starts, and says what it waits for, while its database is still down; what
//! will never be a database is refused. The schema is brought up to date on the first
//! call that gets through.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_model::GatewayId;
use sqlx::postgres::PgConnectOptions;

use crate::Store;
use crate::postgres::PostgresStore;
use crate::sqlite::SqliteStore;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// The most connections held at once; further calls wait for one within their deadline.
    /// PostgreSQL has one more per subscription.
    pub pool_size: u32,
    /// How long a call waits for a connection. An unreachable server is usually known much
    /// sooner; this bounds a silent one, and a pool whose connections are all in use.
    pub acquire_timeout: Duration,
    /// The deadline of a call, waiting for a connection included, and the time after which
    /// the database gives up a statement, a lock or a silent transaction of ours.
    pub timeout: Duration,
    /// The deadline of calls that read or drop everything: `load`, `state_at`, `prune` and
    /// the migrations of the first call.
    pub bulk_timeout: Duration,
}

/// Why a URL cannot be opened. The URL itself is never repeated: it may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Neither `postgres://` nor `sqlite://`.
    #[error("the database URL must begin with postgres:// or sqlite://")]
    UnknownScheme,
    /// It does not parse.
    #[error("the database URL is not valid: check its host, port, parameters and percent-encoding")]
    Malformed,
    /// A SQLite URL without a file: a gateway's state does not live in memory.
    #[error("a sqlite:// URL must name a file")]
    NoFile,
    /// Waiting will not make one of it.
    #[error("{} is no SQLite database", .0.display())]
    NotADatabase(PathBuf),
}

/// What every SQLite database begins with.
const SQLITE_MAGIC: &[u8] = b"SQLite format 3\0";

impl Default for Options {
    fn default() -> Options {
        Options {
            pool_size: 10,
            acquire_timeout: Duration::from_secs(2),
            timeout: Duration::from_secs(5),
            bulk_timeout: Duration::from_secs(60),
        }
    }
}

/// Opens the store of one gateway: `postgres://user:password@host/database?sslmode=verify-full`
/// with the parameters libpq knows (`sslrootcert` for a private authority), or `sqlite://path`.
///
/// # Errors
/// When the URL is not one of these; never because the database is down. Must be called
/// within a tokio runtime.
pub fn open(url: &str, gateway: &GatewayId, options: &Options) -> Result<Arc<dyn Store>, OpenError> {
    match Place::parse(url)? {
        Place::Sqlite(path) if is_foreign(&path) => Err(OpenError::NotADatabase(path)),
        Place::Sqlite(path) => Ok(Arc::new(SqliteStore::open(path, gateway.clone(), options.clone()))),
        Place::Postgres(connect) => {
            Ok(Arc::new(PostgresStore::open(*connect, gateway.clone(), options.clone())))
        }
    }
}

/// Whether [`open`] could use this URL, as far as the URL itself tells.
///
/// # Errors
/// As [`open`], but for what only a look at the file can tell.
pub fn check(url: &str) -> Result<(), OpenError> {
    Place::parse(url).map(drop)
}

/// Where a database is.
enum Place {
    Sqlite(PathBuf),
    Postgres(Box<PgConnectOptions>),
}

impl Place {
    fn parse(url: &str) -> Result<Place, OpenError> {
        if let Some(path) = url.strip_prefix("sqlite://") {
            return Ok(Place::Sqlite(sqlite_path(path)?));
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            let connect = PgConnectOptions::from_str(url).map_err(|_| OpenError::Malformed)?;
            return Ok(Place::Postgres(Box::new(connect)));
        }
        Err(OpenError::UnknownScheme)
    }
}

/// Whether something else is there. What cannot be read yet, or is empty, may become a database.
fn is_foreign(path: &Path) -> bool {
    let mut begin = Vec::new();
    let read = File::open(path).and_then(|file| file.take(SQLITE_MAGIC.len() as u64).read_to_end(&mut begin));
    path.is_dir() || read.is_ok() && !begin.is_empty() && begin != SQLITE_MAGIC
}

fn sqlite_path(path: &str) -> Result<PathBuf, OpenError> {
    if path.is_empty() || path == ":memory:" {
        return Err(OpenError::NoFile);
    }
    if path.contains('?') {
        return Err(OpenError::Malformed);
    }
    Ok(PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::{OpenError, Options, open};
    use ferrogate_model::GatewayId;

    #[tokio::test]
    async fn a_url_that_cannot_be_opened_is_refused_without_repeating_it() {
        for (url, expected) in [
            ("mysql://root:geheim@localhost/x", OpenError::UnknownScheme.to_string()),
            ("postgres://root:geheim@localhost:port/x", OpenError::Malformed.to_string()),
            ("sqlite://", OpenError::NoFile.to_string()),
            ("sqlite://:memory:", OpenError::NoFile.to_string()),
            ("sqlite://a.db?mode=ro", OpenError::Malformed.to_string()),
        ] {
            let error = open(url, &GatewayId::from("g"), &Options::default()).err().expect("refused");
            assert_eq!(error.to_string(), expected, "{url}");
            assert!(!format!("{error:?}").contains("geheim"));
        }
    }

    #[tokio::test]
    async fn a_file_that_is_something_else_is_refused_at_once() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("x.db");
        let opened =
            || open(&format!("sqlite://{}", path.display()), &GatewayId::from("g"), &Options::default());
        for (content, usable) in [("", true), ("notes", false), ("this is a longer text", false)] {
            std::fs::write(&path, content).expect("written");
            assert_eq!(opened().is_ok(), usable, "{content}");
        }
        assert!(matches!(opened().err(), Some(OpenError::NotADatabase(told)) if told == path));
        std::fs::remove_file(&path).expect("removed");
        opened().expect("a URL").head().await.expect("made anew");
        assert!(opened().is_ok(), "a database is one");
        let directory = format!("sqlite://{}", dir.path().display());
        assert!(open(&directory, &GatewayId::from("g"), &Options::default()).is_err());
    }

    #[tokio::test]
    async fn a_database_that_is_down_can_be_opened() {
        for url in ["postgres://a:b@127.0.0.1:1/x", "sqlite:///nonexistent/directory/x.db"] {
            assert!(open(url, &GatewayId::from("g"), &Options::default()).is_ok(), "{url}");
        }
    }
}
