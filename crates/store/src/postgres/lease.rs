// SPDX-License-Identifier: Apache-2.0
//! Leases in PostgreSQL, renewed by the clock of the database, so that replicas whose
//! clocks differ agree on who is late. All runtimes of a controller are one statement.

use super::PostgresStore;
use crate::lease::to_report;
use crate::read::LEASES_KEPT_MICROS;
use crate::rows::{self, LeaseRow};
use crate::{Cluster, ControllerLease, RuntimeLease, StoreError, sql};

/// The clock, in microseconds.
pub(super) const NOW: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

const RENEW_CONTROLLER: &str = "\
    INSERT INTO controllers (gateway_id, id, report, renewed_at) VALUES ($1, $2, $3, $4) \
    ON CONFLICT (gateway_id, id) DO UPDATE SET report = excluded.report, renewed_at = excluded.renewed_at";

/// A controller that lost a runtime does not overwrite what the one it moved to says.
const RENEW_RUNTIMES: &str = "\
    INSERT INTO runtimes (gateway_id, id, controller, connected, report, renewed_at) \
    SELECT $1, r.id, $4, r.connected, r.report, $6 \
    FROM unnest($2::text[], $3::boolean[], $5::text[]) AS r (id, connected, report) \
    ON CONFLICT (gateway_id, id) DO UPDATE SET controller = excluded.controller, \
        connected = excluded.connected, report = excluded.report, renewed_at = excluded.renewed_at \
    WHERE runtimes.controller = excluded.controller OR excluded.connected";

impl PostgresStore {
    pub(super) async fn renew(
        &self,
        controller: &ControllerLease,
        runtimes: &[RuntimeLease],
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        // A lease lost in a crash is renewed a second later: it is not worth waiting for the disk.
        sqlx::query("SET LOCAL synchronous_commit = off").execute(&mut *tx).await?;
        let now: i64 = sqlx::query_scalar(NOW).fetch_one(&mut *tx).await?;
        sqlx::query(RENEW_CONTROLLER)
            .bind(self.gateway.as_str())
            .bind(controller.id.as_str())
            .bind(to_report(controller)?)
            .bind(now)
            .execute(&mut *tx)
            .await?;
        let reports = runtimes.iter().map(to_report).collect::<Result<Vec<_>, _>>()?;
        sqlx::query(RENEW_RUNTIMES)
            .bind(self.gateway.as_str())
            .bind(runtimes.iter().map(|runtime| runtime.id.as_str()).collect::<Vec<_>>())
            .bind(runtimes.iter().map(|runtime| runtime.connected).collect::<Vec<_>>())
            .bind(controller.id.as_str())
            .bind(reports)
            .bind(now)
            .execute(&mut *tx)
            .await?;
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
