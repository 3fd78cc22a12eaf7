// SPDX-License-Identifier: Apache-2.0
//! How storage fails, in the terms a caller must act on.

use ferrogate_model::{ResourceName, Revision};
use uuid::Uuid;

/// A read, or a write that certainly did not happen, failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached, is starting, is a standby, or did not answer in time. Retry later.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// The revision asked about is below the floor or above the head.
    #[error("revision {asked} is not readable: the log reaches from {floor} to {head}")]
    OutOfRange {
        /// What was asked.
        asked: Revision,
        /// The lowest readable revision.
        floor: Revision,
        /// The highest.
        head: Revision,
    },
    /// What is stored is sealed under a key that this replica does not have; a person must
    /// give it the key.
    #[error("{what} is sealed under the key '{key}', which does not open it here")]
    Sealed {
        /// What could not be opened.
        what: String,
        /// The key's version, as written beside it.
        key: String,
    },
    /// What is stored is not what this version writes; a person must look.
    #[error("the stored data is not readable by this version: {0}")]
    Corrupt(String),
}

/// Why a batch was not committed, or may not have been.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A guard did not hold; nothing was written.
    #[error("{name} {}", .found.map_or_else(|| "does not exist".to_owned(), |r| format!("is at revision {r}")))]
    Guard {
        /// The artifact whose guard failed.
        name: ResourceName,
        /// The revision it has, `None` when it does not exist.
        found: Option<Revision>,
    },
    /// Another artifact holds a claim; nothing was written.
    #[error("{holder} already holds '{claim}'")]
    Claimed {
        /// The write that wanted it.
        name: ResourceName,
        /// The claim.
        claim: String,
        /// Who has it.
        holder: ResourceName,
    },
    /// An expectation did not hold; nothing was written. Plan the batch anew from what is there now.
    #[error("{name} has changed, or refers to what is about to change, since the batch was planned")]
    Moved {
        /// The artifact that differs from what was expected.
        name: ResourceName,
    },
    /// Nothing was written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The connection was lost while the commit was under way: it is either fully there or
    /// not at all, and [`crate::Store::outcome`] will tell.
    #[error("the outcome of batch {0} is unknown")]
    Unknown(Uuid),
}
