// SPDX-License-Identifier: Apache-2.0
//! Where a case runs: an empty database, and as many stores on it as the case opens,
//! each one standing for a controller.

use std::future::Future;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use ferrogate_model::{GatewayId, Handle, Kind, ResourceName, Revision};
use ferrogate_store::{Batch, Commit, Committed, Guard, Options, Store, Write, open};
use sqlx::{AssertSqlSafe, Connection, Executor, SqliteConnection};
use tempfile::TempDir;
use uuid::Uuid;

use crate::postgres::PostgresServer;

/// The server that the cases running at the moment share.
static SHARED: Mutex<Weak<PostgresServer>> = Mutex::new(Weak::new());

pub enum World {
    Sqlite(TempDir),
    Postgres(Arc<PostgresServer>, String),
}

impl World {
    pub fn sqlite() -> World {
        World::Sqlite(TempDir::new().unwrap())
    }

    pub fn postgres() -> World {
        let mut shared = SHARED.lock().unwrap();
        let server = shared.upgrade().unwrap_or_else(|| Arc::new(PostgresServer::start().unwrap()));
        *shared = Arc::downgrade(&server);
        drop(shared);
        World::on(server)
    }

    pub fn on(server: Arc<PostgresServer>) -> World {
        let database = server.create_database().unwrap();
        World::Postgres(server, database)
    }

    pub fn url(&self) -> String {
        match self {
            World::Sqlite(directory) => format!("sqlite://{}", directory.path().join("gateway.db").display()),
            World::Postgres(server, database) => server.url(database),
        }
    }

    /// Another controller's store of the gateway `g`.
    pub fn store(&self) -> Arc<dyn Store> {
        self.store_of("g")
    }

    pub fn store_of(&self, gateway: &str) -> Arc<dyn Store> {
        open(&self.url(), &GatewayId::from(gateway), &options()).unwrap()
    }

    /// Makes the database as the first version made it.
    pub async fn make_first_schema(&self) {
        let schema = match self {
            World::Sqlite(directory) => {
                std::fs::File::create_new(directory.path().join("gateway.db")).unwrap();
                include_str!("../../migrations/sqlite/0001_initial.sql")
            }
            World::Postgres(..) => include_str!("../../migrations/postgres/0001_initial.sql"),
        };
        self.execute(schema).await;
        self.execute(
            "CREATE TABLE ferrogate_migrations (version BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL); \
             INSERT INTO ferrogate_migrations (version, name) VALUES (1, 'initial')",
        )
        .await;
    }

    /// Does to the database what only an operator, or a disaster, does.
    pub async fn execute(&self, sql: &str) {
        match self {
            World::Sqlite(_) => {
                let mut connection = SqliteConnection::connect(&self.url()).await.unwrap();
                connection.execute(AssertSqlSafe(sql)).await.unwrap();
                connection.close().await.unwrap();
            }
            World::Postgres(server, database) => {
                server.psql(database, sql).unwrap();
            }
        }
    }
}

pub fn options() -> Options {
    // Small pools, since many stores share one server; patience for a loaded machine.
    let patience = Duration::from_secs(20);
    Options { pool_size: 4, acquire_timeout: patience, timeout: patience, ..Options::default() }
}

pub fn name(handle: &str) -> ResourceName {
    ResourceName::new(Kind::RestApi, Handle::try_new(handle).unwrap())
}

pub fn put(handle: &str, content: &str) -> Commit {
    put_with(handle, content, Guard::Any, &[])
}

pub fn put_with(handle: &str, content: &str, guard: Guard, claims: &[&str]) -> Commit {
    let write = Write::Put {
        source: content.to_owned(),
        payload: Some(format!("payload of {content}")),
        uuid: Uuid::new_v4(),
        claims: claims.iter().map(|claim| (*claim).to_owned()).collect(),
        references: Vec::new(),
    };
    Commit { name: name(handle), guard, write }
}

pub fn delete(handle: &str) -> Commit {
    Commit { name: name(handle), guard: Guard::Any, write: Write::Delete }
}

pub fn batch(writes: Vec<Commit>) -> Batch {
    Batch { id: Uuid::new_v4(), author: "tester".to_owned(), at: 1_000, writes, expects: Vec::new() }
}

/// Commits and expects success.
pub async fn commit(store: &Arc<dyn Store>, writes: Vec<Commit>) -> Committed {
    store.commit(batch(writes)).await.unwrap()
}

/// Commits `count` changes of one artifact each.
pub async fn commit_many(store: &Arc<dyn Store>, count: u64) -> Revision {
    let mut last = Revision::ZERO;
    for number in 0..count {
        last = commit(store, vec![put(&format!("a{}", number % 5), &number.to_string())]).await.last;
    }
    last
}

/// Tries until there is an answer, for half a minute.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, attempt: impl Fn() -> F) -> T {
    let tries = async {
        loop {
            if let Some(found) = attempt().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(Duration::from_secs(30), tries).await {
        Ok(found) => found,
        Err(_) => panic!("waited half a minute for: {what}"),
    }
}
