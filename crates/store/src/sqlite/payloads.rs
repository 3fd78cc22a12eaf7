// SPDX-License-Identifier: Apache-2.0
//! Payloads in SQLite as they are stored, for whoever seals them anew. Nothing here moves
//! the change line.

use ferrogate_model::Revision;
use sqlx::{Sqlite, Transaction};

use super::SqliteStore;
use crate::rows::{self, PayloadRow};
use crate::{Payload, Rewrite, StoreError, sql};

const CHANGE: &str = "\
    UPDATE changes SET payload = $6 \
    WHERE gateway_id = $1 AND revision = $2 AND kind = $3 AND handle = $4 AND payload = $5";

const ARTIFACT: &str = "\
    UPDATE artifacts SET payload = $6 \
    WHERE gateway_id = $1 AND revision = $2 AND kind = $3 AND handle = $4 AND payload = $5";

impl SqliteStore {
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
        let (mut tx, _turn, _row) = self.begin_locked().await?;
        let mut written = 0;
        for one in rewrites {
            self.replace_text(ARTIFACT, &mut tx, one).await?;
            written += self.replace_text(CHANGE, &mut tx, one).await?;
        }
        tx.commit().await?;
        Ok(written)
    }

    async fn replace_text(
        &self,
        query: &'static str,
        tx: &mut Transaction<'static, Sqlite>,
        one: &Rewrite,
    ) -> Result<u64, StoreError> {
        let done = sqlx::query(query)
            .bind(self.gateway.as_str())
            .bind(rows::signed(one.revision))
            .bind(one.name.kind.path_name())
            .bind(one.name.handle.as_str())
            .bind(one.from.as_str())
            .bind(one.to.as_str())
            .execute(&mut **tx)
            .await?;
        Ok(done.rows_affected())
    }
}
