// SPDX-License-Identifier: Apache-2.0
//! Getting a connection soon, or hearing soon that there is none. The pool takes a
//! refused connection for a server about to start and goes on trying until its
//! deadline; a writer whose database is gone must be told at once. So a call that is
//! kept waiting asks the server's address itself, once, and gives up when that is
//! refused. Every transaction of this store begins here.

use std::future::pending;
use std::io;
use std::path::Path;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Postgres, Transaction};
use tokio::net::{TcpStream, UnixStream};

use super::PostgresStore;
use crate::StoreError;
use crate::fault::unavailable;

/// A connection that is there is handed out well within this.
const PATIENCE: Duration = Duration::from_millis(50);

/// What sees one state of the database throughout.
const READ: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

impl PostgresStore {
    /// Begins a transaction that may write.
    pub(super) async fn begin(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        self.unless_refused(self.pool.begin()).await
    }

    /// Begins a transaction that reads.
    pub(super) async fn begin_snapshot(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        self.unless_refused(self.pool.begin_with(READ)).await
    }

    async fn unless_refused<T>(
        &self,
        begun: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, StoreError> {
        tokio::select! {
            // Either may be dropped: a connection on its way goes back to the pool, and the
            // other only looks. The pool's own deadline bounds both.
            begun = begun => Ok(begun?),
            refusal = refusal(&self.connect) => Err(unavailable(refusal)),
        }
    }
}

/// Ends when the server cannot be connected to, and only then.
async fn refusal(server: &PgConnectOptions) -> String {
    tokio::time::sleep(PATIENCE).await;
    match reach(server).await {
        Err(error) => format!("the server cannot be connected to: {error}"),
        Ok(()) => pending().await,
    }
}

/// Connects and closes again; PostgreSQL takes no note of a connection that says nothing.
async fn reach(server: &PgConnectOptions) -> io::Result<()> {
    let (host, port) = (server.get_host(), server.get_port());
    let by_host = host.starts_with('/').then(|| Path::new(host));
    match server.get_socket().map(std::path::PathBuf::as_path).or(by_host) {
        Some(directory) => UnixStream::connect(directory.join(format!(".s.PGSQL.{port}"))).await.map(drop),
        None => TcpStream::connect((host, port)).await.map(drop),
    }
}
