// SPDX-License-Identifier: Apache-2.0
//! Claims: what an artifact takes that no other artifact of its gateway may have.
//! Two artifacts with an equal claim cannot both be stored, so that no request ever
//! depends on which of two was written last. A refusal quotes the claim, so it reads
//! as a sentence fragment; the store compares it as bytes.

use std::collections::HashSet;
use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use super::{PathPattern, Route, Segment, Tail, expand};
use crate::kinds::RestApi;
use crate::kinds::rest_api::{HeaderMatch, HeaderValueMatch};

/// The longest claim, in bytes. The tail of a longer one is replaced by its digest.
pub const MAX_CLAIM_BYTES: usize = 1024;

const CLAIM_DIGEST_BYTES: usize = 16;
const HEADERS_DIGEST_BYTES: usize = 8;

/// Everything the API claims: its name and version, and, while deployed, method, host and path
/// of each route. Neither the class `Exact` nor a slash at the end nor header conditions make a
/// claim another one: such a route would be tried first and take requests from the artifact that
/// has the path, and past its authentication. A path that is narrower in its kind, as text is than
/// a placeholder and both are than `/*`, is a claim of its own. Within an artifact all of these
/// choose between its own routes.
#[must_use]
pub fn claims(api: &RestApi) -> Vec<String> {
    let mut claims = vec![name_claim(api)];
    let mut seen = HashSet::new();
    for route in expand(api) {
        let claim = capped(route_claim(&route));
        if seen.insert(claim.clone()) {
            claims.push(claim);
        }
    }
    claims
}

/// The claim on display name and version; the first of [`claims`].
#[must_use]
pub fn name_claim(api: &RestApi) -> String {
    capped(format!("name '{}' version '{}'", api.display_name, api.version))
}

/// The first 16 hexadecimal digits of the digest of sorted header conditions.
pub(super) fn headers_digest(headers: &[HeaderMatch]) -> String {
    hex(headers_text(headers).as_bytes(), HEADERS_DIGEST_BYTES)
}

fn route_claim(route: &Route) -> String {
    format!("route {} {} {}", route.method.as_str(), route.host, claimed(&route.path))
}

/// The shape that is claimed. Of plain paths it says nothing of a slash at the end: the simple
/// form has both, so that whoever takes `/a/` takes requests of whoever has `/a`. With
/// placeholders there is no such tolerance, and the two are different paths.
fn claimed(path: &PathPattern) -> PathPattern {
    let is_empty = |segment: &Segment| matches!(segment, Segment::Literal(text) if text.is_empty());
    let mut path = path.clone();
    // `/a//*` takes no normalised path but `/a/`, and would be tried before `/a`.
    if path.tail == Tail::Wildcard && !path.segments.last().is_some_and(is_empty) {
        return path;
    }
    path.tail = Tail::End;
    if path.segments.iter().all(|segment| matches!(segment, Segment::Literal(_))) {
        while path.segments.pop_if(|segment| is_empty(segment)).is_some() {}
    }
    path
}

/// Quoted with escapes, so that no value can imitate another set of conditions.
fn headers_text(headers: &[HeaderMatch]) -> String {
    let mut text = String::new();
    for header in headers {
        let separator = if text.is_empty() { "" } else { ", " };
        let (sign, value) = match &header.value {
            HeaderValueMatch::Exact(value) => ("=", value),
            HeaderValueMatch::Regex(value) => ("~", value),
        };
        // Writing to a String cannot fail.
        let _infallible = write!(text, "{separator}{}{sign}{value:?}", header.name);
    }
    text
}

fn capped(claim: String) -> String {
    if claim.len() <= MAX_CLAIM_BYTES {
        return claim;
    }
    let digest = hex(claim.as_bytes(), CLAIM_DIGEST_BYTES);
    let mut kept = MAX_CLAIM_BYTES - digest.len() - "… #".len();
    while !claim.is_char_boundary(kept) {
        kept -= 1;
    }
    format!("{}… #{digest}", claim.get(..kept).unwrap_or_default())
}

fn hex(bytes: &[u8], digest_bytes: usize) -> String {
    let hash: [u8; 32] = Sha256::digest(bytes).into();
    let mut text = String::with_capacity(digest_bytes * 2);
    for byte in hash.iter().take(digest_bytes) {
        // Writing to a String cannot fail.
        let _infallible = write!(text, "{byte:02x}");
    }
    text
}
