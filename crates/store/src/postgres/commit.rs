// SPDX-License-Identifier: Apache-2.0
//! A batch into PostgreSQL: one transaction that takes the next revisions (which locks
//! the gateway's row), checks guards and claims, writes state and change rows, and
//! sends one notice. Each step is one statement however many artifacts the batch has.

use ferrogate_model::Position;
use sqlx::{Postgres, Transaction};
use uuid::Uuid;

use super::connect::UNEASE;
use super::{NEW_EPOCH_ATTEMPTS, PostgresStore, lineage};
use crate::fault::{certainly_rolled_back, unavailable};
use crate::history::{self, Verdict};
use crate::plan::{self, Plan};
use crate::ready::within;
use crate::rows::{self, BeforeCommitRow, ClaimRow, CurrentRow, GatewayRow, NameRow};
use crate::{Batch, Change, CommitError, Committed, StoreError, sql};

/// `$2` is the number of revisions, `$3` the one whose batch is the witness. Answers the
/// row as it was before. The head's batch is not asked for: this statement began before it
/// had the lock and may not see it.
const TAKE: &str = concat!(
    "UPDATE gateways AS g SET revision = g.revision + $2 WHERE g.gateway_id = $1 \
     RETURNING g.epoch, g.revision - $2 AS revision, g.floor, g.lineage, ",
    lineage!(),
    " AS lineage_now, \
      (SELECT c.batch_id FROM changes c WHERE c.gateway_id = g.gateway_id AND c.revision = $3) AS witness, \
      NULL::text AS head_batch"
);

const CURRENT: &str = "\
    SELECT kind, handle, uuid, revision, created_at FROM artifacts \
    WHERE gateway_id = $1 AND (kind, handle) IN (SELECT * FROM unnest($2::text[], $3::text[]))";

/// References go with the claims: the batch's artifacts get theirs anew.
const RELEASE: &str = "\
    WITH forgotten AS (DELETE FROM artifact_refs \
        WHERE gateway_id = $1 AND (kind, handle) IN (SELECT * FROM unnest($2::text[], $3::text[]))) \
    DELETE FROM claims \
    WHERE gateway_id = $1 AND (kind, handle) IN (SELECT * FROM unnest($2::text[], $3::text[]))";

const HELD: &str = "SELECT claim, kind, handle FROM claims WHERE gateway_id = $1 AND claim = ANY($2::text[])";

const CLAIM: &str = "\
    INSERT INTO claims (gateway_id, claim, kind, handle) \
    SELECT $1, * FROM unnest($2::text[], $3::text[], $4::text[])";

const REFER: &str = "\
    INSERT INTO artifact_refs (gateway_id, kind, handle, target_kind, target_handle) \
    SELECT $1, * FROM unnest($2::text[], $3::text[], $4::text[], $5::text[]) ON CONFLICT DO NOTHING";

const PUT: &str = "\
    INSERT INTO artifacts (gateway_id, kind, handle, uuid, revision, source, payload, created_at, updated_at) \
    SELECT $1, * FROM unnest($2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[], \
        $8::bigint[], $9::bigint[]) \
    ON CONFLICT (gateway_id, kind, handle) DO UPDATE SET \
        revision = excluded.revision, source = excluded.source, payload = excluded.payload, \
        updated_at = excluded.updated_at";

const DELETE: &str = "\
    DELETE FROM artifacts \
    WHERE gateway_id = $1 AND (kind, handle) IN (SELECT * FROM unnest($2::text[], $3::text[]))";

/// The columns that all changes of a batch share come once.
const CHANGES: &str = "\
    INSERT INTO changes (gateway_id, batch_id, batch_end, author, at, revision, kind, handle, action, uuid, \
        source, payload, created_at) \
    SELECT $1, $2, $3, $4, $5, * FROM unnest($6::bigint[], $7::text[], $8::text[], $9::text[], $10::text[], \
        $11::text[], $12::text[], $13::bigint[])";

const BATCH: &str = "\
    INSERT INTO batches (gateway_id, batch_id, first_revision, last_revision, committed_at) \
    VALUES ($1, $2, $3, $4, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)";

/// A batch written but not committed, or one that had been committed before.
enum Written {
    Now(Transaction<'static, Postgres>, Committed),
    Before(Committed),
}

impl PostgresStore {
    pub(super) async fn write_batch(&self, batch: Batch) -> Result<Committed, CommitError> {
        let size = plan::size(&batch);
        self.ready().await?;
        // Up to COMMIT every failure, the deadline included, leaves nothing behind.
        let written = async { Ok(self.write(&batch, size).await) };
        let written = self.server.unless_gone(UNEASE, written);
        let written = match within(self.options.timeout, written).await? {
            Err(CommitError::Store(error)) => self.ready.watch(Err(error))?,
            other => other?,
        };
        let (tx, committed) = match written {
            Written::Before(committed) => return Ok(committed),
            Written::Now(tx, committed) => (tx, committed),
        };
        let done = self.server.unless_gone(UNEASE, async { Ok(tx.commit().await) });
        match within(self.options.timeout, done).await {
            Ok(Ok(())) => {
                self.history.remember(Position::new(committed.epoch, committed.last), Some(batch.id));
                Ok(committed)
            }
            Ok(Err(error)) if certainly_rolled_back(&error) => Err(error.into()),
            Ok(Err(error)) => Err(unknown(batch.id, &error)),
            // Too late, or nobody at the other end.
            Err(error) => Err(unknown(batch.id, &error)),
        }
    }

    async fn write(&self, batch: &Batch, size: i64) -> Result<Written, CommitError> {
        let (mut tx, row) = self.take(size).await?;
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
        let names = plan::known(batch);
        let current: Vec<CurrentRow> = sqlx::query_as(CURRENT)
            .bind(self.gateway.as_str())
            .bind(names.clone().map(|name| name.kind.path_name()).collect::<Vec<_>>())
            .bind(names.map(|name| name.handle.as_str()).collect::<Vec<_>>())
            .fetch_all(&mut *tx)
            .await?;
        let plan = plan::plan(batch, head.position.epoch, head.position.revision, &plan::current(current)?)?;
        self.check_referrers(&mut tx, batch).await?;
        self.write_claims(&mut tx, &plan).await?;
        self.write_references(&mut tx, batch).await?;
        self.write_state(&mut tx, &plan).await?;
        self.write_changes(&mut tx, batch, &plan).await?;
        sqlx::query(BATCH)
            .bind(self.gateway.as_str())
            .bind(batch.id.to_string())
            .bind(rows::signed(plan.committed.first))
            .bind(rows::signed(plan.committed.last))
            .execute(&mut *tx)
            .await?;
        self.notify(&mut tx, plan.committed.last).await?;
        Ok(Written::Now(tx, plan.committed))
    }

    /// Takes the revisions, with the history found to be the one we know.
    async fn take(&self, size: i64) -> Result<(Transaction<'static, Postgres>, GatewayRow), StoreError> {
        for _ in 0..NEW_EPOCH_ATTEMPTS {
            let seen = self.history.seen();
            let mut tx = self.begin().await?;
            let row = sqlx::query_as(TAKE)
                .bind(self.gateway.as_str())
                .bind(size)
                .bind(seen.witness())
                .fetch_optional(&mut *tx)
                .await?;
            let row = self.known(row)?;
            if history::judge_row(&seen, &row)? == Verdict::Same {
                return Ok((tx, row));
            }
            tx.rollback().await?;
            self.begin_epoch().await?;
        }
        Err(unavailable("the history of the database keeps changing"))
    }

    async fn check_referrers(
        &self,
        tx: &mut Transaction<'static, Postgres>,
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
        tx: &mut Transaction<'static, Postgres>,
        batch: &Batch,
    ) -> Result<(), StoreError> {
        let references = plan::references(batch);
        if references.is_empty() {
            return Ok(());
        }
        let columns = [(); 4].map(|()| Vec::with_capacity(references.len()));
        let [mut kinds, mut handles, mut target_kinds, mut target_handles] = columns;
        for [kind, handle, target_kind, target_handle] in references {
            kinds.push(kind);
            handles.push(handle);
            target_kinds.push(target_kind);
            target_handles.push(target_handle);
        }
        sqlx::query(REFER)
            .bind(self.gateway.as_str())
            .bind(kinds)
            .bind(handles)
            .bind(target_kinds)
            .bind(target_handles)
            .execute(&mut **tx)
            .await?;
        Ok(())
    }

    /// Releases what the batch's artifacts held before it takes anything, so that a batch
    /// may move a claim from one artifact to another.
    async fn write_claims(
        &self,
        tx: &mut Transaction<'static, Postgres>,
        plan: &Plan,
    ) -> Result<(), CommitError> {
        let (kinds, handles) = names(plan.changes.iter());
        sqlx::query(RELEASE).bind(self.gateway.as_str()).bind(kinds).bind(handles).execute(&mut **tx).await?;
        if plan.claims.is_empty() {
            return Ok(());
        }
        let wanted: Vec<&str> = plan.claims.keys().map(String::as_str).collect();
        let held: Vec<ClaimRow> = sqlx::query_as(HELD)
            .bind(self.gateway.as_str())
            .bind(wanted.as_slice())
            .fetch_all(&mut **tx)
            .await?;
        plan.check_claims(held)?;
        sqlx::query(CLAIM)
            .bind(self.gateway.as_str())
            .bind(wanted.as_slice())
            .bind(plan.claims.values().map(|name| name.kind.path_name()).collect::<Vec<_>>())
            .bind(plan.claims.values().map(|name| name.handle.as_str()).collect::<Vec<_>>())
            .execute(&mut **tx)
            .await?;
        Ok(())
    }

    async fn write_state(
        &self,
        tx: &mut Transaction<'static, Postgres>,
        plan: &Plan,
    ) -> Result<(), StoreError> {
        let (kinds, handles) = names(plan.changes.iter().filter(|change| change.artifact.is_none()));
        if !kinds.is_empty() {
            sqlx::query(DELETE)
                .bind(self.gateway.as_str())
                .bind(kinds)
                .bind(handles)
                .execute(&mut **tx)
                .await?;
        }
        let (kinds, handles) = names(plan.changes.iter().filter(|change| change.artifact.is_some()));
        if kinds.is_empty() {
            return Ok(());
        }
        let puts = plan.changes.iter().filter_map(|change| change.artifact.as_ref());
        sqlx::query(PUT)
            .bind(self.gateway.as_str())
            .bind(kinds)
            .bind(handles)
            .bind(puts.clone().map(|put| put.uuid.to_string()).collect::<Vec<_>>())
            .bind(puts.clone().map(|put| rows::signed(put.revision)).collect::<Vec<_>>())
            .bind(puts.clone().map(|put| put.source.as_str()).collect::<Vec<_>>())
            .bind(puts.clone().map(|put| put.payload.as_deref()).collect::<Vec<_>>())
            .bind(puts.clone().map(|put| put.created_at).collect::<Vec<_>>())
            .bind(puts.map(|put| put.updated_at).collect::<Vec<_>>())
            .execute(&mut **tx)
            .await?;
        Ok(())
    }

    async fn write_changes(
        &self,
        tx: &mut Transaction<'static, Postgres>,
        batch: &Batch,
        plan: &Plan,
    ) -> Result<(), StoreError> {
        let (kinds, handles) = names(plan.changes.iter());
        let artifacts = plan.changes.iter().map(|change| change.artifact.as_ref());
        let actions = artifacts.clone().map(|artifact| if artifact.is_some() { "put" } else { "delete" });
        let uuids = artifacts.clone().map(|artifact| artifact.map(|artifact| artifact.uuid.to_string()));
        let sources = artifacts.clone().map(|artifact| artifact.map(|artifact| artifact.source.as_str()));
        let payloads =
            artifacts.clone().map(|artifact| artifact.and_then(|artifact| artifact.payload.as_deref()));
        sqlx::query(CHANGES)
            .bind(self.gateway.as_str())
            .bind(batch.id.to_string())
            .bind(rows::signed(plan.committed.last))
            .bind(batch.author.as_str())
            .bind(batch.at)
            .bind(plan.changes.iter().map(|change| rows::signed(change.revision)).collect::<Vec<_>>())
            .bind(kinds)
            .bind(handles)
            .bind(actions.collect::<Vec<_>>())
            .bind(uuids.collect::<Vec<_>>())
            .bind(sources.collect::<Vec<_>>())
            .bind(payloads.collect::<Vec<_>>())
            .bind(artifacts.map(|artifact| artifact.map(|artifact| artifact.created_at)).collect::<Vec<_>>())
            .execute(&mut **tx)
            .await?;
        Ok(())
    }
}

/// The two columns that name artifacts.
fn names<'a>(changes: impl Iterator<Item = &'a Change>) -> (Vec<&'static str>, Vec<&'a str>) {
    changes.map(|change| (change.name.kind.path_name(), change.name.handle.as_str())).unzip()
}

fn unknown(batch: Uuid, error: &dyn std::fmt::Display) -> CommitError {
    tracing::warn!(%batch, %error, "the outcome of a commit is unknown");
    CommitError::Unknown(batch)
}
