// SPDX-License-Identifier: Apache-2.0
//! Leases in SQLite. Renewed by the clock of the database, like everywhere, though here
//! it is the clock of this machine.

use super::SqliteStore;
use crate::lease::to_report;
use crate::read::LEASES_KEPT_MICROS;
use crate::rows::{self, LeaseRow};
use crate::{Cluster, ControllerLease, RuntimeLease, StoreError, sql};

/// The clock, in microseconds (to the millisecond, which is what SQLite has).
pub(super) const NOW: &str = "SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER) * 1000";

const RENEW_CONTROLLER: &str = "\
    INSERT INTO controllers (gateway_id, id, report, renewed_at) VALUES ($1, $2, $3, $4) \
    ON CONFLICT (gateway_id, id) DO UPDATE SET report = excluded.report, renewed_at = excluded.renewed_at";

/// A controller that lost a runtime does not overwrite what the one it moved to says.
const RENEW_RUNTIME: &str = "\
    INSERT INTO runtimes (gateway_id, id, controller, connected, report, renewed_at) \
    VALUES ($1, $2, $3, $4, $5, $6) \
    ON CONFLICT (gateway_id, id) DO UPDATE SET controller = excluded.controller, \
        connected = excluded.connected, report = excluded.report, renewed_at = excluded.renewed_at \
    WHERE runtimes.controller = excluded.controller OR excluded.connected";

impl SqliteStore {
    pub(super) async fn renew(
        &self,
        controller: &ControllerLease,
        runtimes: &[RuntimeLease],
    ) -> Result<(), StoreError> {
        let (mut tx, _turn) = self.begin_write().await?;
        let now: i64 = sqlx::query_scalar(NOW).fetch_one(&mut *tx).await?;
        sqlx::query(RENEW_CONTROLLER)
            .bind(self.gateway.as_str())
            .bind(controller.id.as_str())
            .bind(to_report(controller)?)
            .bind(now)
            .execute(&mut *tx)
            .await?;
        for runtime in runtimes {
            sqlx::query(RENEW_RUNTIME)
                .bind(self.gateway.as_str())
                .bind(runtime.id.as_str())
                .bind(controller.id.as_str())
                .bind(runtime.connected)
                .bind(to_report(runtime)?)
                .bind(now)
                .execute(&mut *tx)
                .await?;
        }
        for forget in [sql::FORGET_CONTROLLERS, sql::FORGET_RUNTIMES] {
            sqlx::query(forget)
                .bind(self.gateway.as_str())
                .bind(now.saturating_sub(LEASES_KEPT_MICROS))
                .execute(&mut *tx)
                .await?;
        }
        Ok(tx.commit().await?)
    }

    pub(super) async fn read_cluster(&self) -> Result<Cluster, StoreError> {
        let (mut tx, _) = self.begin_read().await?;
        let controllers: Vec<LeaseRow> =
            sqlx::query_as(sql::CONTROLLERS).bind(self.gateway.as_str()).fetch_all(&mut *tx).await?;
        let runtimes: Vec<LeaseRow> =
            sqlx::query_as(sql::RUNTIMES).bind(self.gateway.as_str()).fetch_all(&mut *tx).await?;
        let now: i64 = sqlx::query_scalar(NOW).fetch_one(&mut *tx).await?;
        Ok(rows::cluster(controllers, runtimes, now))
    }
}
