// SPDX-License-Identifier: Apache-2.0
//! The migrations, embedded, and the decision which of them a database lacks. The
//! two drivers run them: in one transaction, under a lock that a second controller
//! starting at the same time waits for. A migration only ever adds, because replicas
//! of the version before it keep serving from the same database while it runs; and a
//! binary refuses a database that a later version has migrated.

use std::collections::BTreeSet;

use crate::StoreError;

/// One step of the schema, never edited once released.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Migration {
    /// Its number; steps run in this order.
    pub(crate) version: i64,
    /// Its name, for people who look into the table.
    pub(crate) name: &'static str,
    /// Its statements.
    pub(crate) sql: &'static str,
}

/// Everything PostgreSQL needs.
pub(crate) const POSTGRES: &[Migration] = &[
    Migration { version: 1, name: "initial", sql: include_str!("../migrations/postgres/0001_initial.sql") },
    Migration {
        version: 2,
        name: "references",
        sql: include_str!("../migrations/postgres/0002_references.sql"),
    },
];

/// Everything SQLite needs.
pub(crate) const SQLITE: &[Migration] = &[
    Migration { version: 1, name: "initial", sql: include_str!("../migrations/sqlite/0001_initial.sql") },
    Migration {
        version: 2,
        name: "references",
        sql: include_str!("../migrations/sqlite/0002_references.sql"),
    },
];

/// Where the versions applied are kept.
pub(crate) const TABLE: &str = "CREATE TABLE IF NOT EXISTS ferrogate_migrations (\
     version BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL)";

/// Reads the versions applied.
pub(crate) const APPLIED: &str = "SELECT version FROM ferrogate_migrations ORDER BY version";

/// Records a version as applied.
pub(crate) const RECORD: &str = "INSERT INTO ferrogate_migrations (version, name) VALUES ($1, $2)";

/// The steps still to run.
///
/// # Errors
/// When the database has a step this binary does not know.
pub(crate) fn missing<'a>(known: &'a [Migration], applied: &[i64]) -> Result<Vec<&'a Migration>, StoreError> {
    let applied: BTreeSet<i64> = applied.iter().copied().collect();
    let newest = known.iter().map(|migration| migration.version).max().unwrap_or(0);
    if let Some(foreign) =
        applied.iter().find(|version| !known.iter().any(|migration| migration.version == **version))
    {
        return Err(StoreError::Corrupt(format!(
            "a newer ferrogate has migrated the database to schema {foreign}, and this one knows {newest} \
             at most: start the newer version instead"
        )));
    }
    Ok(known.iter().filter(|migration| !applied.contains(&migration.version)).collect())
}

#[cfg(test)]
mod tests {
    use super::{Migration, POSTGRES, SQLITE, missing};

    const STEPS: &[Migration] =
        &[Migration { version: 1, name: "one", sql: "" }, Migration { version: 2, name: "two", sql: "" }];

    #[test]
    fn only_what_is_missing_runs() {
        for (applied, expected) in [(vec![], vec![1, 2]), (vec![1], vec![2]), (vec![1, 2], vec![])] {
            let versions: Vec<i64> =
                missing(STEPS, &applied).expect("known steps").iter().map(|step| step.version).collect();
            assert_eq!(versions, expected, "{applied:?}");
        }
    }

    #[test]
    fn a_database_of_a_newer_version_is_refused() {
        let error = missing(STEPS, &[1, 2, 3]).expect_err("an unknown step").to_string();
        assert!(error.contains("newer ferrogate"), "{error}");
    }

    #[test]
    fn a_step_only_adds_to_what_replicas_of_the_version_before_it_use() {
        for step in POSTGRES.iter().chain(SQLITE).filter(|step| step.version > 1) {
            let lines = step.sql.lines().filter(|line| !line.trim_start().starts_with("--"));
            let sql = lines.collect::<Vec<_>>().join(" ").to_uppercase();
            for forbidden in ["DROP ", "RENAME ", "ALTER COLUMN", "SET NOT NULL", "UPDATE ", "DELETE "] {
                assert!(!sql.contains(forbidden), "step {}: {forbidden}", step.version);
            }
            for column in sql.split("ADD COLUMN").skip(1) {
                let column = column.split(';').next().unwrap_or_default();
                let writable = !column.contains("NOT NULL") || column.contains("DEFAULT");
                assert!(writable, "step {}: an older replica cannot write{column}", step.version);
            }
        }
    }

    #[test]
    fn steps_are_numbered_from_one_without_gaps_in_both_dialects() {
        for steps in [POSTGRES, SQLITE] {
            let numbers: Vec<i64> = steps.iter().map(|step| step.version).collect();
            assert_eq!(numbers, (1..=numbers.len() as i64).collect::<Vec<_>>());
        }
    }
}
