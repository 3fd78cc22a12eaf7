// SPDX-License-Identifier: Apache-2.0
//! Notes in PostgreSQL: texts that controllers share outside the change line.

use super::PostgresStore;
use crate::fault::corrupt;
use crate::{StoreError, sql};

impl PostgresStore {
    pub(super) async fn read_note(&self, name: &str) -> Result<Option<String>, StoreError> {
        let (mut tx, _) = self.begin_read().await?;
        let text = sqlx::query_scalar(sql::NOTE)
            .bind(self.gateway.as_str())
            .bind(name)
            .fetch_optional(&mut *tx)
            .await?;
        Ok(text)
    }

    pub(super) async fn write_note(
        &self,
        name: &str,
        expected: Option<&str>,
        text: &str,
    ) -> Result<String, StoreError> {
        let mut tx = self.begin().await?;
        let write = match expected {
            None => sqlx::query(sql::FIRST_NOTE).bind(self.gateway.as_str()).bind(name).bind(text),
            Some(expected) => {
                sqlx::query(sql::NEXT_NOTE).bind(self.gateway.as_str()).bind(name).bind(text).bind(expected)
            }
        };
        write.execute(&mut *tx).await?;
        let stands: Option<String> = sqlx::query_scalar(sql::NOTE)
            .bind(self.gateway.as_str())
            .bind(name)
            .fetch_optional(&mut *tx)
            .await?;
        tx.commit().await?;
        stands.ok_or_else(|| corrupt(format!("the note '{name}' is gone")))
    }
}
