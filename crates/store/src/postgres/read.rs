// SPDX-License-Identifier: Apache-2.0
//! What is read from PostgreSQL: state, changes and history, each in one transaction that
//! sees one state of the database; and pruning, which decides what can still be read.

use ferrogate_model::{Position, ResourceName, Revision};
use uuid::Uuid;

use super::PostgresStore;
use crate::read::{Reading, readable, resync_needed};
use crate::rows::{self, ArtifactRow, BeforeCommitRow, ChangeRow, NameRow};
use crate::{Change, Changes, Committed, State, StoreError, StoredArtifact, sql};

impl PostgresStore {
    pub(super) async fn read_state(&self) -> Result<State, StoreError> {
        let (mut tx, head) = self.begin_read().await?;
        self.allow_bulk(&mut tx).await?;
        let rows: Vec<ArtifactRow> =
            sqlx::query_as(sql::ARTIFACTS).bind(self.gateway.as_str()).fetch_all(&mut *tx).await?;
        let artifacts = rows.into_iter().map(ArtifactRow::into_artifact).collect::<Result<_, _>>()?;
        Ok(State { position: head.position, artifacts: rows::sorted(artifacts) })
    }

    pub(super) async fn read_changes(&self, after: Position, limit: usize) -> Result<Changes, StoreError> {
        self.history.remember(after, None);
        let (mut tx, head) = self.begin_read().await?;
        if resync_needed(after, head) {
            return Ok(Changes::Resync(head));
        }
        let reading = Reading::new(after, limit, head);
        let rows: Vec<ChangeRow> = sqlx::query_as(sql::CHANGES_AFTER)
            .bind(self.gateway.as_str())
            .bind(reading.after)
            .bind(reading.until)
            .fetch_all(&mut *tx)
            .await?;
        reading.finish(rows, &self.history)
    }

    pub(super) async fn read_outcome(&self, batch_id: Uuid) -> Result<Option<Committed>, StoreError> {
        // An unknown outcome means that COMMIT was sent by a transaction that held the
        // gateway's row. While its server process lives and may still commit, it holds the
        // row and we wait here; once we have the row it has committed, and the statement
        // below (which sees what was committed before *it* began) finds the batch, or it
        // has rolled back and there is nobody left to commit it. After a failover the row
        // here is that of the new primary, which has the batch or never will.
        let (mut tx, row) = self.begin_locked().await?;
        let before: BeforeCommitRow = sqlx::query_as(sql::BEFORE_COMMIT)
            .bind(self.gateway.as_str())
            .bind(batch_id.to_string())
            .fetch_one(&mut *tx)
            .await?;
        before.repeated(row.head()?.position.epoch)
    }

    pub(super) async fn read_revisions(
        &self,
        name: &ResourceName,
        before: Option<Revision>,
        limit: usize,
    ) -> Result<Vec<Change>, StoreError> {
        let (mut tx, _) = self.begin_read().await?;
        let rows: Vec<ChangeRow> = sqlx::query_as(sql::REVISIONS)
            .bind(self.gateway.as_str())
            .bind(name.kind.path_name())
            .bind(name.handle.as_str())
            .bind(before.map_or(i64::MAX, rows::signed))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *tx)
            .await?;
        rows.into_iter().map(ChangeRow::into_change).collect()
    }

    pub(super) async fn read_referrers(&self, name: &ResourceName) -> Result<Vec<ResourceName>, StoreError> {
        let (mut tx, _) = self.begin_read().await?;
        let rows: Vec<NameRow> = sqlx::query_as(sql::REFERRERS)
            .bind(self.gateway.as_str())
            .bind(name.kind.path_name())
            .bind(name.handle.as_str())
            .fetch_all(&mut *tx)
            .await?;
        rows::names(rows)
    }

    pub(super) async fn read_artifact_at(
        &self,
        name: &ResourceName,
        at: Revision,
    ) -> Result<Option<StoredArtifact>, StoreError> {
        let (mut tx, head) = self.begin_read().await?;
        let row: Option<ChangeRow> = sqlx::query_as(sql::CHANGE_AT)
            .bind(self.gateway.as_str())
            .bind(name.kind.path_name())
            .bind(name.handle.as_str())
            .bind(rows::signed(at))
            .fetch_optional(&mut *tx)
            .await?;
        let change = row.map(ChangeRow::into_change).transpose()?;
        readable(at, head, change.as_ref())?;
        Ok(change.and_then(|change| change.artifact))
    }

    pub(super) async fn read_state_at(&self, at: Revision) -> Result<State, StoreError> {
        let (mut tx, head) = self.begin_read().await?;
        self.allow_bulk(&mut tx).await?;
        readable(at, head, None)?;
        let rows: Vec<ChangeRow> = sqlx::query_as(sql::STATE_AT)
            .bind(self.gateway.as_str())
            .bind(rows::signed(at))
            .fetch_all(&mut *tx)
            .await?;
        crate::read::state_at(Position::new(head.position.epoch, at), rows)
    }

    pub(super) async fn drop_below(&self, floor: Revision) -> Result<u64, StoreError> {
        let (mut tx, row) = self.begin_locked().await?;
        self.allow_bulk(&mut tx).await?;
        let head = row.head()?;
        readable(floor, head, None)?;
        let batch_end: Option<i64> = sqlx::query_scalar(sql::BATCH_END_BELOW)
            .bind(self.gateway.as_str())
            .bind(rows::signed(floor))
            .fetch_one(&mut *tx)
            .await?;
        let Some(floor) = batch_end.filter(|end| *end > rows::signed(head.floor)) else { return Ok(0) };
        let dropped = sqlx::query(sql::PRUNE)
            .bind(self.gateway.as_str())
            .bind(floor)
            .execute(&mut *tx)
            .await?
            .rows_affected();
        sqlx::query(sql::SET_FLOOR).bind(self.gateway.as_str()).bind(floor).execute(&mut *tx).await?;
        let now: i64 = sqlx::query_scalar(super::lease::NOW).fetch_one(&mut *tx).await?;
        sqlx::query(sql::FORGET_BATCHES)
            .bind(self.gateway.as_str())
            .bind(now.saturating_sub(crate::read::BATCHES_KEPT_MICROS))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(dropped)
    }
}
