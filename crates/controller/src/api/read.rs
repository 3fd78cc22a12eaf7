// SPDX-License-Identifier: Apache-2.0
//! Reads from memory: every one says which revision it is of, and whether the store has
//! stopped answering, so that a client can tell old from wrong.

use std::sync::Arc;

use axum::response::Response;
use http::header::WARNING;
use http::{HeaderName, HeaderValue};

use super::App;
use super::error::ApiError;
use crate::replicate::StoreState;
use crate::snapshot::Snapshot;

/// The revision a read is of.
pub const READ_REVISION: HeaderName = HeaderName::from_static("x-ferrogate-revision");
/// The epoch that revision belongs to.
pub const READ_EPOCH: HeaderName = HeaderName::from_static("x-ferrogate-epoch");
/// `true` when the store does not answer, so that the read may be behind.
pub const STALE: HeaderName = HeaderName::from_static("x-ferrogate-stale");

/// One read.
pub struct Reading {
    /// What is read.
    pub snapshot: Arc<Snapshot>,
    stale: bool,
}

impl Reading {
    /// A read of the newest snapshot.
    ///
    /// # Errors
    /// When there is none yet.
    pub fn of(app: &App) -> Result<Reading, ApiError> {
        let snapshot = app.replica.current().ok_or_else(|| {
            ApiError::Unavailable("Nothing has been read from the store yet. Try again later".to_owned())
        })?;
        Ok(Reading { snapshot, stale: is_stale(app) })
    }

    /// The answer, marked.
    #[must_use]
    pub fn mark(&self, mut response: Response) -> Response {
        let position = self.snapshot.position();
        let headers = response.headers_mut();
        headers.insert(READ_REVISION, HeaderValue::from(position.revision.0));
        headers.insert(READ_EPOCH, HeaderValue::from(position.epoch.0));
        if self.stale {
            mark_stale(&mut response);
        }
        response
    }
}

/// Whether the store has stopped answering.
pub fn is_stale(app: &App) -> bool {
    matches!(app.replica.store_state(), StoreState::Unavailable { .. } | StoreState::Sealed { .. })
}

/// Says that the answer may be behind (RFC 9111 section 5.5 has had the code 110 for it).
pub fn mark_stale(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(STALE, HeaderValue::from_static("true"));
    headers.append(
        WARNING,
        HeaderValue::from_static("110 - \"The store is unavailable; answered from memory\""),
    );
}
