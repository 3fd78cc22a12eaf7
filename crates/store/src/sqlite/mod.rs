// SPDX-License-Identifier: Apache-2.0
//! The store in one SQLite file: the embedded default, for a gateway with a single
//! controller. Writers of this process take turns, readers run beside them (WAL), and
//! a commit is on disk before it is answered. Another process that shares the file is
//! learnt of by polling only. The queries of each kind of call are in the modules below.

mod commit;
mod lease;
mod notes;
mod payloads;
mod read;

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use ferrogate_model::{GatewayId, Position, ResourceName, Revision};
use futures::stream;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, SqlitePool, Transaction};
use tokio::sync::{Mutex, MutexGuard, broadcast};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::fault::{self, corrupt, unavailable};
use crate::history::{self, History, Seen, Verdict};
use crate::ready::{Ready, within};
use crate::rows::{self, GatewayRow};
use crate::{
    Batch, Change, Changes, Cluster, CommitError, Committed, ControllerLease, Head, Hints, Options, Payload,
    Rewrite, RuntimeLease, State, Store, StoreError, StoredArtifact, migrate,
};

/// Hints kept for a subscriber that is busy; one that lags further gets a single hint for all it missed.
const HINT_BUFFER: usize = 64;

/// Between two tries of what SQLite does not wait for by itself.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// How often a call looks again after beginning a new epoch; once is enough unless the
/// history changes while it is being looked at.
const NEW_EPOCH_ATTEMPTS: u32 = 3;

/// `$2` is the revision whose batch is the witness.
const GATEWAY: &str = "\
    SELECT g.epoch, g.revision, g.floor, g.lineage, g.lineage AS lineage_now, \
        (SELECT c.batch_id FROM changes c WHERE c.gateway_id = g.gateway_id AND c.revision = $2) AS witness, \
        (SELECT c.batch_id FROM changes c WHERE c.gateway_id = g.gateway_id AND c.revision = g.revision) \
            AS head_batch \
    FROM gateways g WHERE g.gateway_id = $1";

const CREATE_GATEWAY: &str = "\
    INSERT INTO gateways (gateway_id, epoch, revision, floor, lineage) \
    VALUES ($1, MAX(unixepoch('now'), $2), 0, 0, $3) ON CONFLICT (gateway_id) DO NOTHING";

const NEW_EPOCH: &str = "\
    UPDATE gateways SET epoch = MAX(unixepoch('now'), $2) WHERE gateway_id = $1";

/// See the module.
pub(crate) struct SqliteStore {
    pool: SqlitePool,
    gateway: GatewayId,
    options: Options,
    ready: Ready,
    history: History,
    /// Held while writing: waiting here is fair and costs nothing, waiting in SQLite is polling.
    writing: Mutex<()>,
    hints: broadcast::Sender<Revision>,
    path: PathBuf,
}

impl SqliteStore {
    pub(crate) fn open(path: PathBuf, gateway: GatewayId, options: Options) -> SqliteStore {
        keep_private(&path);
        let connect = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            // An answered commit survives a power cut, not only a crash of the process.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(options.timeout);
        let pool = SqlitePoolOptions::new()
            .max_connections(options.pool_size)
            .acquire_timeout(options.acquire_timeout)
            .connect_lazy_with(connect);
        let (hints, _) = broadcast::channel(HINT_BUFFER);
        SqliteStore {
            pool,
            gateway,
            options,
            ready: Ready::default(),
            history: History::default(),
            writing: Mutex::new(()),
            hints,
            path,
        }
    }

    async fn ready(&self) -> Result<(), StoreError> {
        self.ready.ensure(&self.options, || self.prepare()).await
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        check_directory(&self.path)?;
        self.write_ahead().await?;
        let (mut tx, _turn) = self.begin_write().await?;
        sqlx::query(migrate::TABLE).execute(&mut *tx).await?;
        let applied: Vec<i64> = sqlx::query_scalar(migrate::APPLIED).fetch_all(&mut *tx).await?;
        for step in migrate::missing(migrate::SQLITE, &applied)? {
            sqlx::raw_sql(step.sql).execute(&mut *tx).await?;
            sqlx::query(migrate::RECORD).bind(step.version).bind(step.name).execute(&mut *tx).await?;
            tracing::info!(version = step.version, name = step.name, "migrated the database");
        }
        sqlx::query(CREATE_GATEWAY)
            .bind(self.gateway.as_str())
            .bind(self.history.first_epoch())
            // SQLite has nothing that tells a copy of a file from the file; the nonce is
            // there so that a person can.
            .bind(Uuid::new_v4().to_string())
            .execute(&mut *tx)
            .await?;
        Ok(tx.commit().await?)
    }

    /// Switches the file to a write-ahead log, which it keeps. Several that begin on a new file
    /// at once are in each other's way, and SQLite does not wait here whatever its busy timeout.
    async fn write_ahead(&self) -> Result<(), StoreError> {
        let deadline = Instant::now() + self.options.timeout;
        loop {
            match sqlx::query("PRAGMA journal_mode = WAL").execute(&self.pool).await {
                Err(error) if fault::is_busy(&error) && Instant::now() < deadline => sleep(BUSY_PAUSE).await,
                done => return Ok(done.map(drop)?),
            }
        }
    }

    /// A write transaction that holds SQLite's write lock from its first statement on, so
    /// that it can neither deadlock nor be asked to start over.
    async fn begin_write(&self) -> Result<(Transaction<'static, Sqlite>, MutexGuard<'_, ()>), StoreError> {
        let turn = self.writing.lock().await;
        let tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        Ok((tx, turn))
    }

    /// A transaction that sees one state of the database throughout, and the head in it.
    async fn begin_read(&self) -> Result<(Transaction<'static, Sqlite>, Head), StoreError> {
        for _ in 0..NEW_EPOCH_ATTEMPTS {
            let seen = self.history.seen();
            let mut tx = self.pool.begin().await?;
            let row = self.gateway_row(&mut tx, &seen).await?;
            if history::judge_row(&seen, &row)? == Verdict::Same {
                self.history.remember_row(&row)?;
                return Ok((tx, row.head()?));
            }
            tx.rollback().await?;
            self.begin_epoch().await?;
        }
        Err(unavailable("the history of the database keeps changing"))
    }

    /// The write lock, with the history found to be the one we know.
    async fn begin_locked(
        &self,
    ) -> Result<(Transaction<'static, Sqlite>, MutexGuard<'_, ()>, GatewayRow), StoreError> {
        for _ in 0..NEW_EPOCH_ATTEMPTS {
            let seen = self.history.seen();
            let (mut tx, turn) = self.begin_write().await?;
            let row = self.gateway_row(&mut tx, &seen).await?;
            if history::judge_row(&seen, &row)? == Verdict::Same {
                return Ok((tx, turn, row));
            }
            tx.rollback().await?;
            drop(turn);
            self.begin_epoch().await?;
        }
        Err(unavailable("the history of the database keeps changing"))
    }

    async fn gateway_row(
        &self,
        tx: &mut Transaction<'static, Sqlite>,
        seen: &Seen,
    ) -> Result<GatewayRow, StoreError> {
        let row = sqlx::query_as(GATEWAY)
            .bind(self.gateway.as_str())
            .bind(seen.witness())
            .fetch_optional(&mut **tx)
            .await?;
        row.ok_or_else(|| corrupt(format!("the database no longer knows the gateway {}", self.gateway)))
    }

    /// Gives the history a new epoch, unless another call has done so meanwhile.
    async fn begin_epoch(&self) -> Result<(), StoreError> {
        let seen = self.history.seen();
        let (mut tx, _turn) = self.begin_write().await?;
        let row = self.gateway_row(&mut tx, &seen).await?;
        let Verdict::Changed(least) = history::judge_row(&seen, &row)? else { return Ok(()) };
        sqlx::query(NEW_EPOCH)
            .bind(self.gateway.as_str())
            .bind(rows::signed(Revision(least.0)))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        tracing::warn!(
            gateway = %self.gateway, seen = %seen.position, found = %row.head()?.position,
            "the database has lost changes that were seen before: beginning a new epoch"
        );
        Ok(())
    }

    async fn call<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.ready().await?;
        self.ready.watch(within(self.options.timeout, call).await)
    }

    async fn bulk<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.ready().await?;
        self.ready.watch(within(self.options.bulk_timeout, call).await)
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn head(&self) -> Result<Head, StoreError> {
        self.call(async { Ok(self.begin_read().await?.1) }).await
    }

    async fn load(&self) -> Result<State, StoreError> {
        self.bulk(self.read_state()).await
    }

    async fn changes_since(&self, after: Position, limit: usize) -> Result<Changes, StoreError> {
        self.call(self.read_changes(after, limit)).await
    }

    async fn subscribe(&self) -> Result<Hints, StoreError> {
        let receiver = self.hints.subscribe();
        Ok(Box::pin(stream::unfold(receiver, |mut receiver| async {
            match receiver.recv().await {
                Ok(revision) => Some((Some(revision), receiver)),
                Err(broadcast::error::RecvError::Lagged(_)) => Some((None, receiver)),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        })))
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        self.write_batch(batch).await
    }

    async fn outcome(&self, batch_id: Uuid) -> Result<Option<Committed>, StoreError> {
        self.call(self.read_outcome(batch_id)).await
    }

    async fn revisions(
        &self,
        name: &ResourceName,
        before: Option<Revision>,
        limit: usize,
    ) -> Result<Vec<Change>, StoreError> {
        self.call(self.read_revisions(name, before, limit)).await
    }

    async fn artifact_at(
        &self,
        name: &ResourceName,
        at: Revision,
    ) -> Result<Option<StoredArtifact>, StoreError> {
        self.call(self.read_artifact_at(name, at)).await
    }

    async fn state_at(&self, at: Revision) -> Result<State, StoreError> {
        self.bulk(self.read_state_at(at)).await
    }

    async fn referrers(&self, name: &ResourceName) -> Result<Vec<ResourceName>, StoreError> {
        self.call(self.read_referrers(name)).await
    }

    async fn note(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.call(self.read_note(name)).await
    }

    async fn put_note(&self, name: &str, expected: Option<&str>, text: &str) -> Result<String, StoreError> {
        self.call(self.write_note(name, expected, text)).await
    }

    async fn payloads(
        &self,
        after: Revision,
        limit: usize,
        except: &str,
    ) -> Result<Vec<Payload>, StoreError> {
        self.bulk(self.read_payloads(after, limit, except)).await
    }

    async fn rewrite(&self, rewrites: &[Rewrite]) -> Result<u64, StoreError> {
        self.bulk(self.rewrite_payloads(rewrites)).await
    }

    async fn prune(&self, floor: Revision) -> Result<u64, StoreError> {
        self.bulk(self.drop_below(floor)).await
    }

    async fn report(
        &self,
        controller: &ControllerLease,
        runtimes: &[RuntimeLease],
    ) -> Result<(), StoreError> {
        self.call(self.renew(controller, runtimes)).await
    }

    async fn cluster(&self) -> Result<Cluster, StoreError> {
        self.call(self.read_cluster()).await
    }
}

/// SQLite says "unable to open database file" of a directory that is not there; say which.
fn check_directory(path: &Path) -> Result<(), StoreError> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() && !parent.is_dir() => {
            Err(unavailable(format!("the directory {} does not exist", parent.display())))
        }
        _ => Ok(()),
    }
}

/// Creates the file readable by its owner alone before SQLite would create it readable by
/// all: documents may carry credentials. SQLite gives its companion files the same mode. A
/// file that cannot be created is reported by the first use, like one that cannot be opened.
fn keep_private(path: &Path) {
    let created = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
    if let Err(error) = created {
        tracing::debug!(%error, path = %path.display(), "the database file was not created anew");
    }
}
