// SPDX-License-Identifier: Apache-2.0
//! `basic-auth`: one user name and password per API or operation (contract 6.2). Reads
//! the `Authorization` the client sent, not what earlier policies made of it. Keeps and
//! compares digests of fixed length only, in constant time: neither the credentials nor
//! their length show in the time it takes. The credentials are in no log and no message.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ferrogate_policy::{
    Answer, Attachment, Auth, CompileError, Definition, Exchange, Hooks, Phases, Policy, PolicyError,
    RequestHead, Services, Verdict,
};
use http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use smallvec::{SmallVec, smallvec};
use subtle::ConstantTimeEq as _;

use crate::header_list;

/// The name artifacts use.
pub const NAME: &str = "basic-auth";

/// Longer credentials cannot be right (see the schema) and are not decoded.
const MAX_ENCODED_BYTES: usize = 12 << 10;

/// Decoded credentials up to this length need no allocation.
const INLINE_BYTES: usize = 256;

const UNAUTHORIZED: &[u8] = br#"{"error":"Unauthorized","message":"Authentication required"}"#;

/// The definition.
pub struct BasicAuth;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Params {
    username: String,
    password: String,
    #[serde(default)]
    allow_unauthenticated: bool,
    realm: Option<String>,
}

struct Instance {
    /// Who a client with the right credentials is, and one without them.
    known: Arc<Auth>,
    unknown: Arc<Auth>,
    /// Of `username:password`: as the user name has no colon, equal pairs and equal texts are one.
    credentials: [u8; 32],
    allow_unauthenticated: bool,
    challenge: HeaderValue,
}

impl Definition for BasicAuth {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> &'static str {
        "v1.0.3"
    }

    fn description(&self) -> &'static str {
        "Asks for a user name and password (HTTP Basic)."
    }

    fn schema(&self) -> &'static str {
        include_str!("schema.json")
    }

    fn is_made_of_parameters(&self) -> bool {
        true
    }

    fn compile(&self, params: &Value, _: &Attachment, _: &Services) -> Result<Policy, CompileError> {
        let params = Params::deserialize(params).map_err(|error| header_list::unreadable(&error))?;
        for (field, value) in [("username", &params.username), ("password", &params.password)] {
            if value.is_empty() {
                return Err(refused(field, format!("{field} must be a non-empty string")));
            }
        }
        if params.username.contains(':') {
            return Err(refused("username", "username must not contain a colon".to_owned()));
        }
        let realm = params.realm.as_deref().unwrap_or("Restricted");
        let quoted = realm.replace('\\', r"\\").replace('"', r#"\""#);
        let challenge = HeaderValue::try_from(format!("Basic realm=\"{quoted}\""))
            .map_err(|_| refused("realm", "realm must not contain control characters".to_owned()))?;
        let credentials = digest(&[params.username.as_bytes(), b":", params.password.as_bytes()].concat());
        Ok(Box::new(Instance {
            known: Arc::new(Auth {
                authenticated: true,
                kind: "basic",
                subject: params.username,
                ..Auth::default()
            }),
            unknown: Arc::new(Auth { kind: "basic", ..Auth::default() }),
            credentials,
            allow_unauthenticated: params.allow_unauthenticated,
            challenge,
        }))
    }
}

fn refused(field: &str, message: String) -> CompileError {
    CompileError { field: field.to_owned(), message }
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

impl Instance {
    fn accepts(&self, authorization: Option<&[u8]>) -> bool {
        let Some(encoded) = authorization.and_then(|value| value.strip_prefix(b"Basic ")) else {
            return false;
        };
        if encoded.len() > MAX_ENCODED_BYTES {
            return false;
        }
        let mut decoded: SmallVec<[u8; INLINE_BYTES]> =
            smallvec![0; base64::decoded_len_estimate(encoded.len())];
        let Ok(length) = STANDARD.decode_slice(encoded, &mut decoded) else { return false };
        decoded.truncate(length);
        digest(&decoded).ct_eq(&self.credentials).into()
    }

    fn challenge(&self) -> Answer {
        Answer {
            status: StatusCode::UNAUTHORIZED,
            headers: vec![
                (WWW_AUTHENTICATE, self.challenge.clone()),
                (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            ],
            body: Bytes::from_static(UNAUTHORIZED),
        }
    }
}

impl Hooks for Instance {
    fn phases(&self) -> Phases {
        Phases { request: true, ..Phases::default() }
    }

    fn on_request(
        &self,
        head: &mut dyn RequestHead,
        exchange: &mut Exchange<'_>,
    ) -> Result<Verdict, PolicyError> {
        if self.accepts(head.only_original(&AUTHORIZATION)) {
            exchange.auth = Some(Arc::clone(&self.known));
            return Ok(Verdict::Continue);
        }
        if !self.allow_unauthenticated {
            return Ok(Verdict::Answer(self.challenge()));
        }
        // Another policy may have found out who the client is; that stays true.
        if !exchange.auth.as_ref().is_some_and(|auth| auth.authenticated) {
            exchange.auth = Some(Arc::clone(&self.unknown));
        }
        Ok(Verdict::Continue)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use ferrogate_policy::harness::{Outcome, Request, Route, exercise};
    use ferrogate_policy::{Definition, Level, ResponseHead as _, Services};
    use serde_json::{Value, json};

    use super::{BasicAuth, MAX_ENCODED_BYTES};

    fn definition() -> Arc<dyn Definition> {
        Arc::new(BasicAuth)
    }

    fn send(params: &Value, authorization: &[u8]) -> Outcome {
        Route::with_policy(&definition(), params, Level::Api, &Services::in_memory())
            .expect("valid parameters")
            .send(Request::new("GET", "/").with("authorization", authorization))
    }

    fn basic(credentials: &[u8]) -> Vec<u8> {
        format!("Basic {}", STANDARD.encode(credentials)).into_bytes()
    }

    #[test]
    fn only_the_right_credentials_pass() {
        let params = json!({"username": "ann", "password": "pa:ss wörd"});
        let right = "ann:pa:ss wörd".as_bytes();
        for (authorization, passes) in [
            (basic(right), true),
            (basic(b"ann:pa"), false),
            (basic(b"ann:"), false),
            (basic(b"ann"), false),
            (basic(b""), false),
            (basic(b":pa:ss"), false),
            (basic(b"ann:pa:ss w\xf6rd"), false),
            (basic(&vec![b'x'; MAX_ENCODED_BYTES]), false),
            (basic(right).to_ascii_lowercase(), false),
            ([b"basic ", &basic(right)[6..]].concat(), false),
            ([b"Basic  ", &basic(right)[6..]].concat(), false),
            (b"Basic".to_vec(), false),
            (b"Basic ????".to_vec(), false),
            (b"Bearer x".to_vec(), false),
        ] {
            let outcome = send(&params, &authorization);
            assert_eq!(outcome.answer.is_none(), passes, "{authorization:?}");
            assert_eq!(outcome.auth.is_some_and(|auth| auth.authenticated), passes);
            // The header goes on to the upstream unchanged.
            assert_eq!(outcome.request.values("authorization").len(), 1);
        }
    }

    #[test]
    fn a_second_line_is_refused_whatever_it_says() {
        let params = json!({"username": "ann", "password": "p"});
        let (right, wrong) = (basic(b"ann:p"), basic(b"root:x"));
        for lines in [[&right, &wrong], [&wrong, &right], [&right, &right], [&right, &Vec::new()]] {
            let request = lines
                .iter()
                .fold(Request::new("GET", "/"), |request, line| request.with("authorization", *line));
            let route = Route::with_policy(&definition(), &params, Level::Api, &Services::in_memory())
                .expect("valid parameters");
            assert_eq!(route.send(request).response.status(), 401, "{lines:?}");
        }
    }

    #[test]
    fn the_rejection_is_the_contract_s() {
        let params = json!({"username": "u", "password": "p", "realm": r#"my "own" \ realm"#});
        let outcome = send(&params, b"");
        assert_eq!(outcome.response.status(), 401);
        assert_eq!(outcome.response.values("www-authenticate"), [r#"Basic realm="my \"own\" \\ realm""#]);
        assert_eq!(outcome.response.values("content-type"), ["application/json"]);
        assert_eq!(
            outcome.response_body.as_ref(),
            br#"{"error":"Unauthorized","message":"Authentication required"}"#
        );
        let outcome = send(&json!({"username": "u", "password": "p"}), b"");
        assert_eq!(outcome.response.values("www-authenticate"), [r#"Basic realm="Restricted""#]);
    }

    #[test]
    fn anonymous_requests_may_be_let_through() {
        let params = json!({"username": "u", "password": "p", "allowUnauthenticated": "true"});
        let auth = |credentials: &[u8]| send(&params, &basic(credentials)).auth.expect("it says who");
        let anonymous = auth(b"u:wrong");
        assert!(!anonymous.authenticated);
        assert_eq!((anonymous.kind, anonymous.subject.as_str()), ("basic", ""));
        let known = auth(b"u:p");
        assert!(known.authenticated);
        assert_eq!(known.subject, "u");
    }

    #[test]
    fn a_header_set_by_an_earlier_policy_does_not_log_anyone_in() {
        use ferrogate_policy::Registry;
        use ferrogate_policy::harness::spec;
        let registry = Registry::new(crate::catalog::all()).expect("the catalogue");
        let header = String::from_utf8(basic(b"u:p")).expect("text");
        let set = json!({"request": {"headers": [{"name": "authorization", "value": header}]}});
        let route = Route::with_policies(
            &registry,
            &[spec("set-headers", set), spec("basic-auth", json!({"username": "u", "password": "p"}))],
            &[],
            &Services::in_memory(),
        )
        .expect("a valid chain");
        assert_eq!(route.send(Request::new("GET", "/")).response.status(), 401);
    }

    #[test]
    fn what_cannot_work_is_refused_without_telling_the_password() {
        for (params, expected) in [
            (json!({"username": "", "password": "hunter2"}), "username must be a non-empty string"),
            (json!({"username": "u", "password": ""}), "password must be a non-empty string"),
            (json!({"username": "a:b", "password": "hunter2"}), "username must not contain a colon"),
            (
                json!({"username": "u", "password": "hunter2", "realm": "a\nb"}),
                "realm must not contain control characters",
            ),
            (json!({"username": "u"}), "password is required"),
            (json!({"username": "u", "password": {"is": "hunter2"}}), "Invalid type"),
        ] {
            let refused = Route::with_policy(&definition(), &params, Level::Api, &Services::in_memory())
                .map(|_| ())
                .expect_err("the parameters make no sense")
                .to_string();
            assert!(refused.contains(expected), "{refused}");
            assert!(!refused.contains("hunter2"), "{refused}");
        }
    }

    #[test]
    fn it_passes_the_trials() {
        exercise(&definition(), &json!({"username": "u", "password": "p"}));
        exercise(&definition(), &json!({"username": "u", "password": "p", "allowUnauthenticated": true}));
    }
}
