// SPDX-License-Identifier: Apache-2.0
//! What a request says beside its document: query parameters and the idempotency key;
//! [`super::preconditions`] reads the rest of its headers. Everything is parsed here, once, so
//! that handlers work with values that cannot be wrong. Bodies are read in [`super::body`].

use std::ops::RangeInclusive;
use std::time::Duration;

use axum::extract::{FromRequestParts, Path, Query};
use ferrogate_model::duration;
use http::HeaderMap;
use http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::IntoParams;
use utoipa::openapi::path::Parameter;
use uuid::Uuid;

use super::error::ApiError;
use super::preconditions::Preconditions;
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

impl<S: Send + Sync, T: DeserializeOwned + IntoParams> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Params<T>, ApiError> {
        let all = Query::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let Query(all) = all.map_err(|error| bad(error.body_text()))?;
        distinct(&all, &T::into_params(|| None))?;
        let read = Query::from_request_parts(parts, state).await;
        read.map(|Query(query)| Params(query)).map_err(|error| bad(error.body_text()))
    }
}

/// Refuses a parameter that stands twice, and one that is a known one but for its case: it would
/// be ignored as a stranger, and `?dryrun=true` would store.
fn distinct(all: &[(String, String)], known: &[Parameter]) -> Result<(), ApiError> {
    for (index, (name, _)) in all.iter().enumerate() {
        let Some(meant) = known.iter().find(|known| known.name.eq_ignore_ascii_case(name)) else { continue };
        if meant.name != *name {
            return Err(bad(format!("unknown query parameter '{name}': write '{}'", meant.name)));
        }
        if all.iter().take(index).any(|(earlier, _)| earlier == name) {
            return Err(bad(format!("query parameter '{name}' stands twice: give it once")));
        }
    }
    Ok(())
}

/// A parameter that is a whole number, within a range; none when it is not there.
///
/// # Errors
/// When it is anything else.
pub fn whole(name: &str, text: Option<&str>, range: RangeInclusive<u64>) -> Result<Option<u64>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.map(Some).ok_or_else(|| {
        let to = if *range.end() == u64::MAX { String::new() } else { format!(" to {}", range.end()) };
        bad(format!("query parameter '{name}' must be a whole number from {}{to}", range.start()))
    })
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
    /// `true`, or no value: validate and compile, store nothing.
    pub dry_run: Option<String>,
    /// `live`, or no value: answer when every connected runtime in scope serves the revision.
    pub wait: Option<String>,
    /// How long to wait, as a duration such as `5s`; at most `60s`.
    pub timeout: Option<String>,
    /// `all` or `zone:<name>`.
    pub scope: Option<String>,
    /// `true`, or no value: refuse what is only warned about otherwise: unknown fields, and certificates that
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
    /// `If-Match` and `If-None-Match`.
    pub preconditions: Preconditions,
}

/// How to wait until live.
#[derive(Clone, Debug)]
pub struct Wait {
    /// For how long.
    pub timeout: Duration,
    /// For whom.
    pub scope: Scope,
}

impl WriteOptions {
    /// Reads query and headers.
    ///
    /// # Errors
    /// When one of them is malformed.
    pub fn read(query: &WriteQuery, headers: &HeaderMap) -> Result<WriteOptions, ApiError> {
        let wait = match query.wait.as_deref() {
            None => None,
            // Whoever names it without a value means the only one that there is.
            Some("live" | "") => Some(Wait { timeout: timeout(query)?, scope: scope(query)? }),
            Some(_) => return Err(bad("query parameter 'wait' can only be 'live'")),
        };
        Ok(WriteOptions {
            dry_run: flag("dryRun", query.dry_run.as_deref())?,
            wait,
            strict: flag("strict", query.strict.as_deref())?,
            batch: batch(headers)?,
            keyed: headers.contains_key(IDEMPOTENCY_KEY),
            preconditions: Preconditions::read(headers)?,
        })
    }
}

/// A flag that is named without a value is meant: `?dryRun` must not store.
fn flag(name: &str, text: Option<&str>) -> Result<bool, ApiError> {
    match text {
        None | Some("false") => Ok(false),
        Some("true" | "") => Ok(true),
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

fn bad(message: impl Into<String>) -> ApiError {
    ApiError::BadRequest(message.into())
}

#[cfg(test)]
mod tests {
    use axum::extract::FromRequestParts as _;
    use http::{HeaderMap, HeaderValue, Request};

    use super::{ApiError, Params, WriteOptions, WriteQuery, whole};

    async fn query(query: &str) -> Result<WriteOptions, String> {
        let request = Request::get(format!("/x{query}")).body(()).expect("a request");
        let (mut parts, ()) = request.into_parts();
        let read = Params::<WriteQuery>::from_request_parts(&mut parts, &()).await;
        read.and_then(|Params(query)| WriteOptions::read(&query, &HeaderMap::new())).map_err(|error| {
            match error {
                ApiError::BadRequest(message) => message,
                other => format!("{other:?}"),
            }
        })
    }

    #[tokio::test]
    async fn a_flag_without_a_value_is_meant() {
        for (text, (dry, strict, waits)) in [
            ("", (false, false, false)),
            ("?dryRun", (true, false, false)),
            ("?dryRun=", (true, false, false)),
            ("?dryRun=true&strict", (true, true, false)),
            ("?dryRun=false&strict=&wait", (false, true, true)),
            ("?wait=live&other=1&other=2&Other", (false, false, true)),
        ] {
            let options = query(text).await.expect(text);
            assert_eq!(
                (options.dry_run, options.strict, options.wait.is_some()),
                (dry, strict, waits),
                "{text}"
            );
        }
    }

    #[tokio::test]
    async fn what_cannot_be_meant_is_named() {
        for (text, said) in [
            ("?dryrun=true", "unknown query parameter 'dryrun': write 'dryRun'"),
            ("?DryRun", "unknown query parameter 'DryRun': write 'dryRun'"),
            ("?Wait=live", "unknown query parameter 'Wait': write 'wait'"),
            ("?dryRun&dryRun=false", "query parameter 'dryRun' stands twice: give it once"),
            ("?dryRun=1", "query parameter 'dryRun' must be 'true' or 'false'"),
            ("?wait=forever", "query parameter 'wait' can only be 'live'"),
            ("?wait&timeout=soon", "query parameter 'timeout' must be a duration such as '5s' or '500ms'"),
            ("?wait&scope=region:a", "query parameter 'scope' must be 'all' or 'zone:<name>'"),
        ] {
            assert_eq!(query(text).await.err().as_deref(), Some(said), "{text}");
        }
        let long = query("?wait&timeout=10h").await.expect("shortened");
        assert_eq!(long.wait.expect("waits").timeout, super::MAX_WAIT);
        for text in ["", "-1", "0", "11", "abc", "1.5"] {
            assert!(whole("limit", Some(text), 1..=10).is_err(), "{text:?}");
        }
        assert_eq!(whole("limit", Some("10"), 1..=10).expect("in range"), Some(10));
    }

    #[test]
    fn an_idempotency_key_is_a_uuid() {
        for (value, fits) in [("not-a-uuid", false), ("6f2b0a5e-38a5-4c3e-9d9b-0a54b6b3a001", true)] {
            let mut headers = HeaderMap::new();
            headers.insert("idempotency-key", HeaderValue::from_static(value));
            assert_eq!(WriteOptions::read(&WriteQuery::default(), &headers).is_ok(), fits, "{value}");
        }
    }
}
