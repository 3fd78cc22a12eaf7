// SPDX-License-Identifier: Apache-2.0
//! A batch into SQLite: one transaction that takes the next revisions, checks guards
//! and claims, and writes state and change rows together. The hint goes out after it.

use ferrogate_model::Position;
use sqlx::{Sqlite, Transaction};
use tokio::sync::MutexGuard;

use super::SqliteStore;
use crate::plan::{self, Plan};
use crate::ready::within;
use crate::rows::{self, BeforeCommitRow, ClaimRow, CurrentRow, NameRow};
use crate::{Batch, Change, CommitError, Committed, StoreError, sql};

const TAKE: &str = "UPDATE gateways SET revision = $2 WHERE gateway_id = $1";

const CURRENT: &str = "\
    SELECT kind, handle, uuid, revision, created_at FROM artifacts \
    WHERE gateway_id = $1 AND kind = $2 AND handle = $3";

const RELEASE: &str = "DELETE FROM claims WHERE gateway_id = $1 AND kind = $2 AND handle = $3";

const FORGET: &str = "DELETE FROM artifact_refs WHERE gateway_id = $1 AND kind = $2 AND handle = $3";

const REFER: &str = "\
    INSERT INTO artifact_refs (gateway_id, kind, handle, target_kind, target_handle) \
    VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";

const HELD: &str = "SELECT claim, kind, handle FROM claims WHERE gateway_id = $1 AND claim = $2";

const CLAIM: &str = "INSERT INTO claims (gateway_id, claim, kind, handle) VALUES ($1, $2, $3, $4)";

const PUT: &str = "\
    INSERT INTO artifacts (gateway_id, kind, handle, uuid, revision, source, payload, created_at, updated_at) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
    ON CONFLICT (gateway_id, kind, handle) DO UPDATE SET \
        revision = excluded.revision, source = excluded.source, payload = excluded.payload, \
        updated_at = excluded.updated_at";

const DELETE: &str = "DELETE FROM artifacts WHERE gateway_id = $1 AND kind = $2 AND handle = $3";

const CHANGE: &str = "\
    INSERT INTO changes (gateway_id, revision, batch_end, batch_id, kind, handle, action, uuid, source, \
        payload, created_at, author, at) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";

const BATCH: &str = "\
    INSERT INTO batches (gateway_id, batch_id, first_revision, last_revision, committed_at) \
    VALUES ($1, $2, $3, $4, $5)";

/// A batch written but not committed, or one that had been committed before.
enum Written<'a> {
    Now(Transaction<'static, Sqlite>, MutexGuard<'a, ()>, Committed),
    Before(Committed),
}

impl SqliteStore {
    pub(super) async fn write_batch(&self, batch: Batch) -> Result<Committed, CommitError> {
        let size = plan::size(&batch);
        self.ready().await?;
        let written = async { Ok(self.write(&batch, size).await) };
        let written = match within(self.options.timeout, written).await? {
            Err(CommitError::Store(error)) => self.ready.watch(Err(error))?,
            other => other?,
        };
        // The turn is held to the end: whoever is next would meet SQLite's lock while this is written.
        let (tx, _turn, committed) = match written {
            Written::Before(committed) => return Ok(committed),
            Written::Now(tx, turn, committed) => (tx, turn, committed),
        };
        let finish = async { Ok(tx.commit().await?) };
        if let Err(error) = within(self.options.timeout, finish).await {
            tracing::warn!(batch = %batch.id, %error, "the outcome of a commit is unknown");
            return Err(CommitError::Unknown(batch.id));
        }
        self.history.remember(Position::new(committed.epoch, committed.last), Some(batch.id));
        // No subscriber is no error: the next one reads first.
        self.hints.send(committed.last).ok();
        Ok(committed)
    }

    async fn write(&self, batch: &Batch, size: i64) -> Result<Written<'_>, CommitError> {
        let (mut tx, turn, row) = self.begin_locked().await?;
        let head = row.head()?;
        let before: BeforeCommitRow = sqlx::query_as(sql::BEFORE_COMMIT)
            .bind(self.gateway.as_str())
            .bind(batch.id.to_string())
            .fetch_one(&mut *tx)
            .await?;
        if let Some(committed) = before.repeated(head.position.epoch)? {
            return Ok(Written::Before(committed));
        }
        before.check_line(head)?;
        sqlx::query(TAKE)
            .bind(self.gateway.as_str())
            .bind(row.revision.saturating_add(size))
            .execute(&mut *tx)
            .await?;
        let mut current = Vec::with_capacity(batch.writes.len());
        for name in plan::known(batch) {
            let row: Option<CurrentRow> = sqlx::query_as(CURRENT)
                .bind(self.gateway.as_str())
                .bind(name.kind.path_name())
                .bind(name.handle.as_str())
                .fetch_optional(&mut *tx)
                .await?;
            current.extend(row);
        }
        let plan = plan::plan(batch, head.position.epoch, head.position.revision, &plan::current(current)?)?;
        self.check_referrers(&mut tx, batch).await?;
        self.write_claims(&mut tx, &plan).await?;
        self.write_references(&mut tx, batch).await?;
        for change in &plan.changes {
            self.write_change(&mut tx, batch, change).await?;
        }
        sqlx::query(BATCH)
            .bind(self.gateway.as_str())
            .bind(batch.id.to_string())
            .bind(rows::signed(plan.committed.first))
            .bind(rows::signed(plan.committed.last))
            .bind(sqlx::query_scalar::<_, i64>(super::lease::NOW).fetch_one(&mut *tx).await?)
            .execute(&mut *tx)
            .await?;
        Ok(Written::Now(tx, turn, plan.committed))
    }

    async fn check_referrers(
        &self,
        tx: &mut Transaction<'static, Sqlite>,
        batch: &Batch,
    ) -> Result<(), CommitError> {
        for name in plan::referred(batch) {
            let rows: Vec<NameRow> = sqlx::query_as(sql::REFERRERS)
                .bind(self.gateway.as_str())
                .bind(name.kind.path_name())
                .bind(name.handle.as_str())
                .fetch_all(&mut **tx)
                .await?;
            plan::check_referrers(batch, rows::names(rows)?)?;
        }
        Ok(())
    }

    /// What the batch's artifacts refer to now; what they did was released with their claims.
    async fn write_references(
        &self,
        tx: &mut Transaction<'static, Sqlite>,
        batch: &Batch,
    ) -> Result<(), StoreError> {
        for [kind, handle, target_kind, target_handle] in plan::references(batch) {
            sqlx::query(REFER)
                .bind(self.gateway.as_str())
                .bind(kind)
                .bind(handle)
                .bind(target_kind)
                .bind(target_handle)
                .execute(&mut **tx)
                .await?;
        }
        Ok(())
    }

    /// Releases what the batch's artifacts held before it takes anything, so that a batch
    /// may move a claim from one artifact to another.
    async fn write_claims(
        &self,
        tx: &mut Transaction<'static, Sqlite>,
        plan: &Plan,
    ) -> Result<(), CommitError> {
        for change in &plan.changes {
            let name = &change.name;
            for release in [RELEASE, FORGET] {
                sqlx::query(release)
                    .bind(self.gateway.as_str())
                    .bind(name.kind.path_name())
                    .bind(name.handle.as_str())
                    .execute(&mut **tx)
                    .await?;
            }
        }
        for (claim, name) in &plan.claims {
            let held: Vec<ClaimRow> = sqlx::query_as(HELD)
                .bind(self.gateway.as_str())
                .bind(claim.as_str())
                .fetch_all(&mut **tx)
                .await?;
            plan.check_claims(held)?;
            sqlx::query(CLAIM)
                .bind(self.gateway.as_str())
                .bind(claim.as_str())
                .bind(name.kind.path_name())
                .bind(name.handle.as_str())
                .execute(&mut **tx)
                .await?;
        }
        Ok(())
    }

    async fn write_change(
        &self,
        tx: &mut Transaction<'static, Sqlite>,
        batch: &Batch,
        change: &Change,
    ) -> Result<(), StoreError> {
        let (kind, handle) = (change.name.kind.path_name(), change.name.handle.as_str());
        let artifact = change.artifact.as_ref();
        if let Some(artifact) = artifact {
            sqlx::query(PUT)
                .bind(self.gateway.as_str())
                .bind(kind)
                .bind(handle)
                .bind(artifact.uuid.to_string())
                .bind(rows::signed(artifact.revision))
                .bind(artifact.source.as_str())
                .bind(artifact.payload.as_deref())
                .bind(artifact.created_at)
                .bind(artifact.updated_at)
                .execute(&mut **tx)
                .await?;
        } else {
            sqlx::query(DELETE)
                .bind(self.gateway.as_str())
                .bind(kind)
                .bind(handle)
                .execute(&mut **tx)
                .await?;
        }
        sqlx::query(CHANGE)
            .bind(self.gateway.as_str())
            .bind(rows::signed(change.revision))
            .bind(rows::signed(change.batch_end))
            .bind(batch.id.to_string())
            .bind(kind)
            .bind(handle)
            .bind(if artifact.is_some() { "put" } else { "delete" })
            .bind(artifact.map(|artifact| artifact.uuid.to_string()))
            .bind(artifact.map(|artifact| artifact.source.as_str()))
            .bind(artifact.and_then(|artifact| artifact.payload.as_deref()))
            .bind(artifact.map(|artifact| artifact.created_at))
            .bind(change.author.as_str())
            .bind(change.at)
            .execute(&mut **tx)
            .await?;
        Ok(())
    }
}
