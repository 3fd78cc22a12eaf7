// SPDX-License-Identifier: Apache-2.0
//! Payloads in PostgreSQL as they are stored, for whoever seals them anew. Nothing here moves
//! the change line.

use ferrogate_model::Revision;
use sqlx::{Postgres, Transaction};

use super::PostgresStore;
use crate::rows::{self, PayloadRow};
use crate::{Payload, Rewrite, StoreError, sql};

const CHANGES: &str = "\
    UPDATE changes SET payload = n.after \
    FROM unnest($2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[]) \
        AS n (revision, kind, handle, before, after) \
    WHERE changes.gateway_id = $1 AND changes.revision = n.revision AND changes.payload = n.before";

const ARTIFACTS: &str = "\
    UPDATE artifacts SET payload = n.after \
    FROM unnest($2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[]) \
        AS n (revision, kind, handle, before, after) \
    WHERE artifacts.gateway_id = $1 AND artifacts.kind = n.kind AND artifacts.handle = n.handle \
        AND artifacts.revision = n.revision AND artifacts.payload = n.before";

impl PostgresStore {
    pub(super) async fn read_payloads(
        &self,
        after: Revision,
        limit: usize,
        except: &str,
    ) -> Result<Vec<Payload>, StoreError> {
        let (mut tx, _) = self.begin_read().await?;
        let rows: Vec<PayloadRow> = sqlx::query_as(sql::PAYLOADS)
            .bind(self.gateway.as_str())
            .bind(rows::signed(after))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .bind(except)
            .fetch_all(&mut *tx)
            .await?;
        rows.into_iter().map(PayloadRow::into_payload).collect()
    }

    pub(super) async fn rewrite_payloads(&self, rewrites: &[Rewrite]) -> Result<u64, StoreError> {
        // The gateway's row first, as every writer: the order in which rows are locked then
        // matters to nobody.
        let (mut tx, _row) = self.begin_locked().await?;
        self.replace_texts(ARTIFACTS, &mut tx, rewrites).await?;
        let written = self.replace_texts(CHANGES, &mut tx, rewrites).await?;
        tx.commit().await?;
        Ok(written)
    }

    async fn replace_texts(
        &self,
        query: &'static str,
        tx: &mut Transaction<'static, Postgres>,
        rewrites: &[Rewrite],
    ) -> Result<u64, StoreError> {
        let done = sqlx::query(query)
            .bind(self.gateway.as_str())
            .bind(rewrites.iter().map(|one| rows::signed(one.revision)).collect::<Vec<_>>())
            .bind(rewrites.iter().map(|one| one.name.kind.path_name()).collect::<Vec<_>>())
            .bind(rewrites.iter().map(|one| one.name.handle.as_str()).collect::<Vec<_>>())
            .bind(rewrites.iter().map(|one| one.from.as_str()).collect::<Vec<_>>())
            .bind(rewrites.iter().map(|one| one.to.as_str()).collect::<Vec<_>>())
            .execute(&mut **tx)
            .await?;
        Ok(done.rows_affected())
    }
}
