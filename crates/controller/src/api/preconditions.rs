// SPDX-License-Identifier: Apache-2.0
//! `If-Match` and `If-None-Match` (RFC 9110, 13.1): lists of entity tags become the guard that
//! the store holds a write to, or the answer to a read that a client has already. The tags of
//! this API are revisions; any other tag is one that nothing ever has. What is known here may
//! be behind: it chooses between tags and refuses early, and only the store lets a write pass.

use ferrogate_model::{ResourceName, Revision};
use ferrogate_store::Guard;
use http::header::{IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName};
use utoipa::IntoParams;

use super::error::ApiError;
use super::refused::{not_found, title};

/// The preconditions of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preconditions {
    matched: Option<Condition>,
    none_match: Option<Condition>,
}

/// As headers say it to OpenAPI, of a write.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it is only described")]
pub struct WriteHeaders {
    /// `*` or a list of entity tags: write only what is at one of these revisions, else 412. A
    /// weak tag never matches.
    #[param(rename = "If-Match")]
    if_match: Option<String>,
    /// `*` or a list of entity tags: write only what does not exist, or is at none of these
    /// revisions, else 412.
    #[param(rename = "If-None-Match")]
    if_none_match: Option<String>,
    /// A UUID that names the request, so that a repetition is not done twice.
    #[param(rename = "Idempotency-Key")]
    idempotency_key: Option<String>,
}

/// As headers say it to OpenAPI, of a read.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it is only described")]
pub struct ReadHeaders {
    /// `*` or a list of entity tags: one of the answer's own gets 304 instead of it.
    #[param(rename = "If-None-Match")]
    if_none_match: Option<String>,
}

/// What one of the headers asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    /// `*`: anything that exists.
    Anything,
    /// One of these.
    Tags(Vec<Tag>),
}

/// An entity tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tag {
    weak: bool,
    /// `None` of one that this API never made.
    revision: Option<Revision>,
}

impl Preconditions {
    /// Reads the headers.
    ///
    /// # Errors
    /// When one of them is neither `*` nor a list of entity tags.
    pub fn read(headers: &HeaderMap) -> Result<Preconditions, ApiError> {
        Ok(Preconditions {
            matched: condition(headers, &IF_MATCH)?,
            none_match: condition(headers, &IF_NONE_MATCH)?,
        })
    }

    /// The guard of a write that would have `plain` without them, of an artifact whose revision
    /// is `known` here.
    ///
    /// # Errors
    /// 412 when they do not hold of what is known, 404 when there is nothing they could hold of.
    pub fn guard(
        &self,
        plain: Guard,
        name: &ResourceName,
        known: Option<Revision>,
    ) -> Result<Guard, ApiError> {
        let subject = || format!("{} '{}'", title(name.kind), name.handle);
        let mut guard = match &self.matched {
            None => plain,
            Some(Condition::Anything) => Guard::Present,
            Some(Condition::Tags(tags)) => {
                let strong = tags.iter().filter(|tag| !tag.weak).filter_map(|tag| tag.revision);
                let newest = strong.clone().max();
                // A replica that is behind knows none of them: revisions only grow.
                match strong.clone().find(|one| known == Some(*one)).or(newest) {
                    Some(revision) => Guard::AtRevision(revision),
                    None if known.is_none() => return Err(not_found(name)),
                    None => {
                        let message = format!("{} has none of the entity tags of If-Match", subject());
                        return Err(ApiError::PreconditionFailed { message, found: known });
                    }
                }
            }
        };
        let Some(excluded) = &self.none_match else { return Ok(guard) };
        if let Some(found) = known.filter(|found| excluded.names(*found)) {
            let message = format!("{} is at revision {found}, which If-None-Match excludes", subject());
            return Err(ApiError::PreconditionFailed { message, found: Some(found) });
        }
        // What was looked at is what the store must find.
        guard = match (guard, known) {
            (Guard::AtRevision(_), _) => guard,
            (_, Some(found)) => Guard::AtRevision(found),
            (Guard::Any | Guard::Absent, None) => Guard::Absent,
            (Guard::Present, None) => return Err(not_found(name)),
        };
        Ok(guard)
    }

    /// Whether they hold of the gateway as a whole, which is at this revision; of what has none,
    /// `None`, they never do when they name tags.
    ///
    /// # Errors
    /// When they do not.
    pub fn hold_of_gateway(&self, revision: Option<Revision>) -> Result<(), ApiError> {
        let matched = match (&self.matched, revision) {
            (None, _) => true,
            (Some(Condition::Anything), found) => found.is_some(),
            (Some(Condition::Tags(tags)), found) => {
                tags.iter().any(|tag| !tag.weak && found.is_some() && tag.revision == found)
            }
        };
        let excluded =
            self.none_match.as_ref().zip(revision).is_some_and(|(excluded, found)| excluded.names(found));
        if matched && !excluded {
            return Ok(());
        }
        let message = match revision {
            Some(found) => format!("The gateway is at revision {found}; nothing was changed"),
            None => "What is written here has no entity tag of its own; nothing was changed".to_owned(),
        };
        Err(ApiError::PreconditionFailed { message, found: revision })
    }

    /// Whether an artifact must be looked up newly, so that its absence is certain.
    #[must_use]
    pub const fn ask_for_absence(&self) -> bool {
        self.none_match.is_some()
    }

    /// Whether the client of a read has this revision already.
    #[must_use]
    pub fn has(&self, revision: Revision) -> bool {
        self.none_match.as_ref().is_some_and(|known| known.names(revision))
    }
}

impl Condition {
    /// By weak comparison (RFC 9110, 8.8.3.2).
    fn names(&self, revision: Revision) -> bool {
        match self {
            Condition::Anything => true,
            Condition::Tags(tags) => tags.iter().any(|tag| tag.revision == Some(revision)),
        }
    }
}

/// The header's condition; several lines of it are one list (RFC 9110, 5.3).
fn condition(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Condition>, ApiError> {
    let malformed = || {
        let name = if *name == IF_MATCH { "If-Match" } else { "If-None-Match" };
        let message = format!("header '{name}' must be '*' or a list of entity tags such as \"42\"");
        ApiError::BadRequest(message)
    };
    let mut lines = Vec::new();
    for value in headers.get_all(name) {
        lines.push(value.to_str().map_err(|_| malformed())?);
    }
    if lines.is_empty() {
        return Ok(None);
    }
    if let [only] = lines.as_slice()
        && only.trim() == "*"
    {
        return Ok(Some(Condition::Anything));
    }
    let mut tags = Vec::new();
    for line in lines {
        tags.extend(list(line).ok_or_else(malformed)?);
    }
    if tags.is_empty() { Err(malformed()) } else { Ok(Some(Condition::Tags(tags))) }
}

/// `#entity-tag`, empty elements being allowed (RFC 9110, 5.6.1).
fn list(line: &str) -> Option<Vec<Tag>> {
    let mut tags = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        if let Some(next) = rest.strip_prefix(',') {
            rest = next.trim_start();
            continue;
        }
        let (weak, quoted) = rest.strip_prefix("W/").map_or((false, rest), |quoted| (true, quoted));
        let (opaque, next) = quoted.strip_prefix('"')?.split_once('"')?;
        // `+7` and `007` can be read as numbers, and are no tags of ours.
        let revision = opaque.parse().ok().filter(|number: &u64| number.to_string() == opaque).map(Revision);
        tags.push(Tag { weak, revision });
        rest = next.trim_start();
        if !rest.is_empty() && !rest.starts_with(',') {
            return None;
        }
    }
    Some(tags)
}

#[cfg(test)]
mod tests {
    use ferrogate_model::{ResourceName, Revision};
    use ferrogate_store::Guard;
    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::{ApiError, Preconditions};

    fn read(name: &'static str, value: &'static str) -> Result<Preconditions, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        Preconditions::read(&headers)
    }

    /// The guard of a replacement of what is known to be at revision 7: 412 is `Err`.
    fn guarded(name: &'static str, value: &'static str) -> Result<Guard, u16> {
        let artifact: ResourceName = "rest-apis/x".parse().expect("a name");
        let read = read(name, value).map_err(|_| 400_u16)?;
        read.guard(Guard::Present, &artifact, Some(Revision(7))).map_err(|error| match error {
            ApiError::PreconditionFailed { .. } => 412,
            _ => 500,
        })
    }

    #[test]
    fn if_match_compares_strongly() {
        let at = |revision| Ok(Guard::AtRevision(Revision(revision)));
        for (value, guard) in [
            ("*", Ok(Guard::Present)),
            ("\"7\"", at(7)),
            ("\"6\"", at(6)),
            (" \"3\" ,, \"7\",\"5\"", at(7)),
            // This replica may be behind the one that gave the newest of them.
            ("\"8\", \"3\"", at(8)),
            ("W/\"7\"", Err(412)),
            ("W/\"7\", \"6\"", at(6)),
            ("\"x,y\"", Err(412)),
            ("\"+7\"", Err(412)),
            ("7", Err(400)),
            ("\"7", Err(400)),
            ("\"7\" \"8\"", Err(400)),
            ("w/\"7\"", Err(400)),
            ("*, \"7\"", Err(400)),
            ("", Err(400)),
            (",", Err(400)),
        ] {
            assert_eq!(guarded("if-match", value), guard, "{value}");
        }
    }

    #[test]
    fn if_none_match_compares_weakly_and_holds_the_store_to_what_was_seen() {
        for (value, guard) in [
            ("*", Err(412)),
            ("W/\"7\"", Err(412)),
            ("\"7\", \"9\"", Err(412)),
            ("\"9\"", Ok(Guard::AtRevision(Revision(7)))),
        ] {
            assert_eq!(guarded("if-none-match", value), guard, "{value}");
        }
        let artifact: ResourceName = "rest-apis/x".parse().expect("a name");
        let new = read("if-none-match", "*").expect("a star");
        assert!(matches!(new.guard(Guard::Any, &artifact, None), Ok(Guard::Absent)));
        assert!(matches!(new.guard(Guard::Present, &artifact, None), Err(ApiError::NotFound(_))));
        assert!(new.has(Revision(1)) && !read("if-none-match", "\"2\"").expect("a tag").has(Revision(1)));
    }

    #[test]
    fn the_gateway_is_at_its_revision() {
        for (name, value, holds) in [
            ("if-match", "\"7\"", true),
            ("if-match", "\"6\"", false),
            ("if-match", "W/\"7\"", false),
            ("if-match", "*", true),
            ("if-none-match", "*", false),
            ("if-none-match", "\"6\"", true),
        ] {
            let read = read(name, value).expect("well-formed");
            assert_eq!(read.hold_of_gateway(Some(Revision(7))).is_ok(), holds, "{name}: {value}");
        }
        assert!(read("if-match", "\"7\"").expect("a tag").hold_of_gateway(None).is_err());
        assert!(Preconditions::default().hold_of_gateway(None).is_ok());
    }
}
