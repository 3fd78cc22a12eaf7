// SPDX-License-Identifier: Apache-2.0
//! What a request says beside its document: query parameters, preconditions, the
//! idempotency key. Everything is parsed here, once, so that handlers work with values
//! that cannot be wrong. Bodies are read in [`super::body`].

use std::time::Duration;

use axum::extract::{FromRequestParts, Path, Query};
use ferrogate_model::{Revision, duration};
use ferrogate_store::Guard;
use http::HeaderMap;
use http::header::IF_MATCH;
use http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::IntoParams;
use uuid::Uuid;

use super::error::ApiError;
use crate::status::live::Scope;

const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// How long `wait=live` waits when the client names no timeout.
const DEFAULT_WAIT: Duration = Duration::from_secs(5);
/// The longest wait; a longer one is shortened, for a connection is held open meanwhile.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Query parameters. As axum's own, but a refusal has the shape of every other error.
pub struct Params<T>(pub T);

/// Parts of the path, likewise.
pub struct Segments<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Params<T>, ApiError> {
        let read = Query::from_request_parts(parts, state).await;
        read.map(|Query(query)| Params(query)).map_err(|error| bad(error.body_text()))
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Segments<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Segments<T>, ApiError> {
        let read = Path::from_request_parts(parts, state).await;
        read.map(|Path(segments)| Segments(segments)).map_err(|error| bad(error.body_text()))
    }
}

/// Query parameters of every write.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub struct WriteQuery {
    /// `true`: validate and compile, store nothing.
    pub dry_run: Option<String>,
    /// `live`: answer when every connected runtime in scope serves the revision.
    pub wait: Option<String>,
    /// How long to wait, as a duration such as `5s`; at most `60s`.
    pub timeout: Option<String>,
    /// `all` or `zone:<name>`.
    pub scope: Option<String>,
    /// `true`: refuse what is only warned about otherwise: unknown fields, and certificates that
    /// are named and do not exist.
    pub strict: Option<String>,
}

/// How a write is to be done.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// Store nothing.
    pub dry_run: bool,
    /// Wait until live.
    pub wait: Option<Wait>,
    /// Refuse what is only warned about otherwise.
    pub strict: bool,
    /// The batch id: the client's key, or a fresh one.
    pub batch: Uuid,
    /// The client gave the key, so the request may be a repetition.
    pub keyed: bool,
    /// `If-Match`.
    pub if_match: Option<IfMatch>,
}

/// How to wait until live.
#[derive(Clone, Debug)]
pub struct Wait {
    /// For how long.
    pub timeout: Duration,
    /// For whom.
    pub scope: Scope,
}

/// An `If-Match` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfMatch {
    /// `*`.
    Any,
    /// One revision.
    Revision(Revision),
}

impl WriteOptions {
    /// Reads query and headers.
    ///
    /// # Errors
    /// When one of them is malformed.
    pub fn read(query: &WriteQuery, headers: &HeaderMap) -> Result<WriteOptions, ApiError> {
        let wait = match query.wait.as_deref().filter(|text| !text.is_empty()) {
            None => None,
            Some("live") => Some(Wait { timeout: timeout(query)?, scope: scope(query)? }),
            Some(_) => return Err(bad("query parameter 'wait' can only be 'live'")),
        };
        Ok(WriteOptions {
            dry_run: flag("dryRun", query.dry_run.as_deref())?,
            wait,
            strict: flag("strict", query.strict.as_deref())?,
            batch: batch(headers)?,
            keyed: headers.contains_key(IDEMPOTENCY_KEY),
            if_match: if_match(headers)?,
        })
    }

    /// The guard of a write to an artifact that must exist.
    #[must_use]
    pub const fn guard_present(&self) -> Guard {
        match self.if_match {
            None | Some(IfMatch::Any) => Guard::Present,
            Some(IfMatch::Revision(revision)) => Guard::AtRevision(revision),
        }
    }
}

fn flag(name: &str, text: Option<&str>) -> Result<bool, ApiError> {
    match text {
        None | Some("" | "false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(bad(format!("query parameter '{name}' must be 'true' or 'false'"))),
    }
}

fn timeout(query: &WriteQuery) -> Result<Duration, ApiError> {
    let Some(text) = query.timeout.as_deref().filter(|text| !text.is_empty()) else {
        return Ok(DEFAULT_WAIT);
    };
    let parsed = duration::parse_go(text);
    parsed
        .map(|wanted| wanted.min(MAX_WAIT))
        .ok_or_else(|| bad("query parameter 'timeout' must be a duration such as '5s' or '500ms'"))
}

fn scope(query: &WriteQuery) -> Result<Scope, ApiError> {
    Scope::parse(query.scope.as_deref().unwrap_or_default())
        .ok_or_else(|| bad("query parameter 'scope' must be 'all' or 'zone:<name>'"))
}

fn batch(headers: &HeaderMap) -> Result<Uuid, ApiError> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else { return Ok(Uuid::new_v4()) };
    let parsed = key.to_str().ok().and_then(|text| Uuid::parse_str(text.trim().trim_matches('"')).ok());
    parsed.ok_or_else(|| bad("header 'Idempotency-Key' must be a UUID"))
}

fn if_match(headers: &HeaderMap) -> Result<Option<IfMatch>, ApiError> {
    let Some(header) = headers.get(IF_MATCH) else { return Ok(None) };
    let text = header.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(Some(IfMatch::Any));
    }
    let number = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).and_then(|n| n.parse().ok());
    number
        .map(|number| Some(IfMatch::Revision(Revision(number))))
        .ok_or_else(|| bad("header 'If-Match' must be '*' or one entity tag of this API, such as \"42\""))
}

fn bad(message: impl Into<String>) -> ApiError {
    ApiError::BadRequest(message.into())
}

#[cfg(test)]
mod tests {
    use ferrogate_model::Revision;
    use ferrogate_store::Guard;
    use http::{HeaderMap, HeaderValue};

    use super::{ApiError, WriteOptions, WriteQuery};

    fn read(name: &'static str, value: &'static str) -> Result<WriteOptions, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        WriteOptions::read(&WriteQuery::default(), &headers)
    }

    #[test]
    fn preconditions_become_guards() {
        for (value, guard) in [
            ("*", Some(Guard::Present)),
            ("\"7\"", Some(Guard::AtRevision(Revision(7)))),
            ("7", None),
            ("W/\"7\"", None),
        ] {
            assert_eq!(read("if-match", value).ok().map(|options| options.guard_present()), guard, "{value}");
        }
        assert!(read("idempotency-key", "not-a-uuid").is_err());
        assert!(read("idempotency-key", "6f2b0a5e-38a5-4c3e-9d9b-0a54b6b3a001").is_ok());
    }

    #[test]
    fn parameters_out_of_range_are_refused() {
        let with = |change: fn(&mut WriteQuery)| {
            let mut query = WriteQuery { wait: Some("live".to_owned()), ..WriteQuery::default() };
            change(&mut query);
            WriteOptions::read(&query, &HeaderMap::new())
        };
        assert!(with(|_| {}).expect("plain").wait.is_some());
        let long = with(|query| query.timeout = Some("10h".to_owned())).expect("shortened");
        assert_eq!(long.wait.expect("waits").timeout, super::MAX_WAIT);
        assert!(with(|query| query.timeout = Some("soon".to_owned())).is_err());
        assert!(with(|query| query.scope = Some("region:a".to_owned())).is_err());
        assert!(with(|query| query.wait = Some("forever".to_owned())).is_err());
        assert!(with(|query| query.dry_run = Some("1".to_owned())).is_err());
    }
}
