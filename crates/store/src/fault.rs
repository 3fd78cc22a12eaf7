// SPDX-License-Identifier: Apache-2.0
//! From a driver's error to the few cases a caller can act on. Nothing else in this
//! crate looks into an `sqlx::Error`, and no message made here can carry a password:
//! the driver's errors name hosts, roles and databases, never connection URLs.

use std::fmt::Display;

use sqlx::error::DatabaseError;

use crate::{CommitError, StoreError};

/// Primary result codes of SQLite that mean "not now": the file is busy or locked, the
/// disk is full or failing, the file cannot be opened or written.
const SQLITE_TRANSIENT: [i64; 8] = [5, 6, 7, 8, 10, 13, 14, 15];

const SQLITE_BUSY: i64 = 5;

/// What is stored contradicts what this version writes.
pub(crate) fn corrupt(what: impl Display) -> StoreError {
    StoreError::Corrupt(what.to_string())
}

/// The database cannot serve at present.
pub(crate) fn unavailable(what: impl Display) -> StoreError {
    StoreError::Unavailable(what.to_string())
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> StoreError {
        match &error {
            sqlx::Error::Database(database) if !transient(database.as_ref()) => corrupt(error),
            sqlx::Error::Decode(_)
            | sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::ColumnIndexOutOfBounds { .. }
            | sqlx::Error::TypeNotFound { .. }
            | sqlx::Error::RowNotFound => corrupt(error),
            _ => unavailable(error),
        }
    }
}

impl From<sqlx::Error> for CommitError {
    fn from(error: sqlx::Error) -> CommitError {
        CommitError::Store(error.into())
    }
}

/// Whether waiting may cure it. PostgreSQL: a missing table or column (42P, 42703), data
/// that does not fit (22) and a broken constraint (23) will not go away; anything else,
/// from a refused login to a full disk, an operator cures while we retry.
fn transient(error: &dyn DatabaseError) -> bool {
    let Some(code) = error.code() else { return true };
    if is_sqlstate(&code) {
        return !(code.starts_with("22")
            || code.starts_with("23")
            || code.starts_with("42P")
            || code == "42703");
    }
    code.parse::<i64>().is_ok_and(|code| SQLITE_TRANSIENT.contains(&(code & 0xff)))
}

/// Whether SQLite says that another connection is in the way.
pub(crate) fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    code.and_then(|code| code.parse::<i64>().ok()).is_some_and(|code| code & 0xff == SQLITE_BUSY)
}

/// Whether an error answered to COMMIT itself says that the transaction was rolled back:
/// a failed deferred check (23) or a serialization failure (40). After any other error,
/// a shutdown or a lost connection above all, the commit may or may not have happened.
pub(crate) fn certainly_rolled_back(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(DatabaseError::code)
        .is_some_and(|code| is_sqlstate(&code) && (code.starts_with("23") || code.starts_with("40")))
}

/// SQLSTATE codes have five characters; those of SQLite are decimal numbers of at most four.
fn is_sqlstate(code: &str) -> bool {
    code.len() == 5
}
