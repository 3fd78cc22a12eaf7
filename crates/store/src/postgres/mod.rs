// SPDX-License-Identifier: Apache-2.0
//! The store in PostgreSQL 14 or later: what several controllers share. Every
//! transaction that writes locks the gateway's row first, which serialises the writers
//! of one gateway and makes commit order revision order. Only a primary is read: a
//! standby shows commits late and, among themselves, in another order. The queries of
//! each kind of call are in the modules below.

mod commit;
mod connect;
mod lease;
mod listen;
mod notes;
mod payloads;
mod read;

use async_trait::async_trait;
use ferrogate_model::{GatewayId, Position, ResourceName, Revision};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgPool, Postgres, Transaction};
use uuid::Uuid;

use self::connect::{Server, UNEASE};
use crate::fault::{corrupt, unavailable};
use crate::history::{self, History, Seen, Verdict};
use crate::ready::{Ready, within};
use crate::rows::{self, GatewayRow};
use crate::{
    Batch, Change, Changes, Cluster, CommitError, Committed, ControllerLease, Head, Hints, Options, Payload,
    Rewrite, RuntimeLease, State, Store, StoreError, StoredArtifact, migrate,
};

/// The channel of the notices; the payload is `<gateway>:<revision>`.
const CHANNEL: &str = "ferrogate_changes";

/// What a server in recovery answers for its lineage.
const STANDBY: &str = "standby";

/// A replica that vanished in mid-transaction holds the gateway's row, and keeps every other
/// writer waiting, no longer than this. One that is there never pauses between two statements.
const SILENT_WRITER_MILLIS: &str = "1000";

/// How often a call looks again after beginning a new epoch; once is enough unless the
/// history changes while it is being looked at.
const NEW_EPOCH_ATTEMPTS: u32 = 3;

/// Controllers that start together migrate one after the other under this advisory lock.
/// The number is arbitrary; it spells "ferrogat".
const MIGRATION_LOCK: i64 = 0x6665_7272_6f67_6174;

/// The cluster and its timeline. Another system identifier is a restored dump; another
/// timeline is a promoted standby or a restore to a point in time. Both functions are open
/// to every role; the second one fails on a standby and must not be reached there.
macro_rules! lineage {
    () => {
        "CASE WHEN pg_is_in_recovery() THEN 'standby' ELSE \
            (SELECT system_identifier::text FROM pg_control_system()) || ':' || \
            substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END"
    };
}
use lineage;

/// `$2` is the revision whose batch is the witness.
macro_rules! gateway {
    () => {
        concat!(
            "SELECT g.epoch, g.revision, g.floor, g.lineage, ",
            lineage!(),
            " AS lineage_now, \
              (SELECT c.batch_id FROM changes c WHERE c.gateway_id = g.gateway_id AND c.revision = $2) \
                AS witness, \
              (SELECT c.batch_id FROM changes c WHERE c.gateway_id = g.gateway_id AND c.revision = g.revision) \
                AS head_batch \
            FROM gateways g WHERE g.gateway_id = $1"
        )
    };
}

const GATEWAY: &str = gateway!();

const LOCK_GATEWAY: &str = concat!(gateway!(), " FOR UPDATE OF g");

const CREATE_GATEWAY: &str = concat!(
    "INSERT INTO gateways (gateway_id, epoch, revision, floor, lineage) \
     SELECT $1, GREATEST(extract(epoch FROM clock_timestamp())::bigint, $2), 0, 0, ",
    lineage!(),
    " ON CONFLICT (gateway_id) DO NOTHING"
);

const NEW_EPOCH: &str = "\
    UPDATE gateways SET epoch = GREATEST(extract(epoch FROM clock_timestamp())::bigint, $2), lineage = $3 \
    WHERE gateway_id = $1";

const SET_DEADLINES: &str = "\
    SELECT set_config('statement_timeout', $1, true), set_config('lock_timeout', $1, true)";

/// See the module.
pub(crate) struct PostgresStore {
    pool: PgPool,
    server: Server,
    gateway: GatewayId,
    options: Options,
    ready: Ready,
    history: History,
}

impl PostgresStore {
    pub(crate) fn open(connect: PgConnectOptions, gateway: GatewayId, options: Options) -> PostgresStore {
        let deadline = options.timeout.as_millis().to_string();
        let mut connect = connect.options([
            ("statement_timeout", deadline.as_str()),
            ("lock_timeout", deadline.as_str()),
            ("idle_in_transaction_session_timeout", SILENT_WRITER_MILLIS),
        ]);
        if connect.get_application_name().is_none() {
            connect = connect.application_name("ferrogate");
        }
        let server = Server::new(connect.clone());
        let (idle, given_back) = (server.clone(), server.clone());
        let pool = PgPoolOptions::new()
            .max_connections(options.pool_size)
            .acquire_timeout(options.acquire_timeout)
            // When the server is gone without a word the pool's own test would hang for as long
            // as TCP retransmits, and a few such connections would exhaust the pool.
            .test_before_acquire(false)
            .before_acquire(move |connection, usage| {
                let server = idle.clone();
                Box::pin(async move { server.tested(connection, usage.idle_for).await })
            })
            // A call that gave up leaves its connection to be tested before it is used again.
            .after_release(move |connection, usage| {
                let server = given_back.clone();
                Box::pin(async move { server.tested(connection, usage.idle_for).await })
            })
            .connect_lazy_with(connect);
        PostgresStore { pool, server, gateway, options, ready: Ready::default(), history: History::default() }
    }

    async fn ready(&self) -> Result<(), StoreError> {
        self.ready.ensure(&self.options, || self.server.unless_gone(UNEASE, self.prepare())).await
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let standby: bool = sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(&mut *tx).await?;
        if standby {
            return Err(standby_error());
        }
        self.allow_bulk(&mut tx).await?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(MIGRATION_LOCK).execute(&mut *tx).await?;
        // Asked first, because creating it needs a right that a role which only serves may lack.
        let exists: bool = sqlx::query_scalar("SELECT to_regclass('ferrogate_migrations') IS NOT NULL")
            .fetch_one(&mut *tx)
            .await?;
        if !exists {
            sqlx::query(migrate::TABLE).execute(&mut *tx).await?;
        }
        let applied: Vec<i64> = sqlx::query_scalar(migrate::APPLIED).fetch_all(&mut *tx).await?;
        for step in migrate::missing(migrate::POSTGRES, &applied)? {
            sqlx::raw_sql(step.sql).execute(&mut *tx).await?;
            sqlx::query(migrate::RECORD).bind(step.version).bind(step.name).execute(&mut *tx).await?;
            tracing::info!(version = step.version, name = step.name, "migrated the database");
        }
        sqlx::query(CREATE_GATEWAY)
            .bind(self.gateway.as_str())
            .bind(self.history.first_epoch())
            .execute(&mut *tx)
            .await?;
        Ok(tx.commit().await?)
    }

    /// A transaction that sees one state of the database throughout, and the head in it.
    async fn begin_read(&self) -> Result<(Transaction<'static, Postgres>, Head), StoreError> {
        for _ in 0..NEW_EPOCH_ATTEMPTS {
            let seen = self.history.seen();
            let mut tx = self.begin_snapshot().await?;
            let row = self.gateway_row(GATEWAY, &mut tx, &seen).await?;
            if history::judge_row(&seen, &row)? == Verdict::Same {
                self.history.remember_row(&row)?;
                return Ok((tx, row.head()?));
            }
            tx.rollback().await?;
            self.begin_epoch().await?;
        }
        Err(unavailable("the history of the database keeps changing"))
    }

    /// A transaction that holds the gateway's row, and the row. Whoever held it before has
    /// committed or never will.
    async fn begin_locked(&self) -> Result<(Transaction<'static, Postgres>, GatewayRow), StoreError> {
        for _ in 0..NEW_EPOCH_ATTEMPTS {
            let seen = self.history.seen();
            let mut tx = self.begin().await?;
            let row = self.gateway_row(LOCK_GATEWAY, &mut tx, &seen).await?;
            if history::judge_row(&seen, &row)? == Verdict::Same {
                return Ok((tx, row));
            }
            tx.rollback().await?;
            self.begin_epoch().await?;
        }
        Err(unavailable("the history of the database keeps changing"))
    }

    async fn gateway_row(
        &self,
        query: &'static str,
        tx: &mut Transaction<'static, Postgres>,
        seen: &Seen,
    ) -> Result<GatewayRow, StoreError> {
        let row = sqlx::query_as(query)
            .bind(self.gateway.as_str())
            .bind(seen.witness())
            .fetch_optional(&mut **tx)
            .await?;
        self.known(row)
    }

    fn known(&self, row: Option<GatewayRow>) -> Result<GatewayRow, StoreError> {
        let row: GatewayRow =
            row.ok_or_else(|| corrupt(format!("the database no longer knows the gateway {}", self.gateway)))?;
        if row.lineage_now == STANDBY { Err(standby_error()) } else { Ok(row) }
    }

    /// Gives the history a new epoch, unless another replica has done so meanwhile.
    async fn begin_epoch(&self) -> Result<(), StoreError> {
        let seen = self.history.seen();
        let mut tx = self.begin().await?;
        let row = self.gateway_row(LOCK_GATEWAY, &mut tx, &seen).await?;
        let Verdict::Changed(least) = history::judge_row(&seen, &row)? else { return Ok(()) };
        sqlx::query(NEW_EPOCH)
            .bind(self.gateway.as_str())
            .bind(rows::signed(Revision(least.0)))
            .bind(row.lineage_now.as_str())
            .execute(&mut *tx)
            .await?;
        let head = row.head()?.position;
        self.notify(&mut tx, head.revision).await?;
        tx.commit().await?;
        tracing::warn!(
            gateway = %self.gateway, seen = %seen.position, found = %head,
            lineage = %row.lineage, lineage_now = %row.lineage_now,
            "the database tells another history than before, after a failover or a restore: \
             beginning a new epoch"
        );
        Ok(())
    }

    async fn notify(
        &self,
        tx: &mut Transaction<'static, Postgres>,
        revision: Revision,
    ) -> Result<(), StoreError> {
        sqlx::query("SELECT pg_notify($1, $2)")
            .bind(CHANNEL)
            .bind(format!("{}:{revision}", self.gateway))
            .execute(&mut **tx)
            .await?;
        Ok(())
    }

    /// Lets the statements of this transaction run as long as a bulk call may.
    async fn allow_bulk(&self, tx: &mut Transaction<'static, Postgres>) -> Result<(), StoreError> {
        sqlx::query(SET_DEADLINES)
            .bind(self.options.bulk_timeout.as_millis().to_string())
            .execute(&mut **tx)
            .await?;
        Ok(())
    }

    async fn call<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.ready().await?;
        self.ready.watch(within(self.options.timeout, self.server.unless_gone(UNEASE, call)).await)
    }

    async fn bulk<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.ready().await?;
        self.ready.watch(within(self.options.bulk_timeout, self.server.unless_gone(UNEASE, call)).await)
    }
}

#[async_trait]
impl Store for PostgresStore {
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
        self.call(self.listen()).await
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

fn standby_error() -> StoreError {
    unavailable("the server is a standby: only the primary is read and written")
}
