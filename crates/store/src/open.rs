// SPDX-License-Identifier: Apache-2.0
//! Opening a store from a URL. Opening touches no network and no file, so that a
//! controller starts, and says what it waits for, while its database is still down;
//! the schema is brought up to date on the first call that reaches it.

use std::path::PathBuf;
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
}

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
    if let Some(path) = url.strip_prefix("sqlite://") {
        return Ok(Arc::new(SqliteStore::open(sqlite_path(path)?, gateway.clone(), options.clone())));
    }
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        let connect = PgConnectOptions::from_str(url).map_err(|_| OpenError::Malformed)?;
        return Ok(Arc::new(PostgresStore::open(connect, gateway.clone(), options.clone())));
    }
    Err(OpenError::UnknownScheme)
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
    async fn a_database_that_is_down_can_be_opened() {
        for url in ["postgres://a:b@127.0.0.1:1/x", "sqlite:///nonexistent/directory/x.db"] {
            assert!(open(url, &GatewayId::from("g"), &Options::default()).is_ok(), "{url}");
        }
    }
}
