// SPDX-License-Identifier: Apache-2.0
//! `jwt-auth` against tokens signed here and key sets that a test serves and changes.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use ferrogate_policy::fetch::{Done, Order, Source};
use ferrogate_policy::harness::{self, Outcome, Request, Route, exercise_with, spec};
use ferrogate_policy::{Auth, Definition, Fetch, Level, Registry, ResponseHead as _, Services, Shared};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::{Value, json};

use super::{JwtAuth, NAME, SECTION};

const ISSUER: &str = "https://login.example";
const HOUR_MS: u64 = 3_600_000;

/// Signs tokens and tells its public key.
struct Signer {
    pair: KeyPair,
    kid: &'static str,
}

impl Signer {
    fn new(kid: &'static str) -> Signer {
        Signer { pair: KeyPair::generate().expect("a P-256 key"), kid }
    }

    fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.kid.to_owned()), ..Header::new(Algorithm::ES256) };
        self.sign_with(&header, claims)
    }

    fn sign_with(&self, header: &Header, claims: &Value) -> String {
        let key = EncodingKey::from_ec_der(&self.pair.serialize_der());
        encode(header, claims, &key).expect("a token")
    }

    fn jwk(&self) -> Value {
        use base64::Engine as _;
        use base64::engine::general_purpose::URL_SAFE_NO_PAD;
        // An uncompressed point: 4, x, y.
        let (x, y) = self.pair.der_bytes()[1..].split_at(32);
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "kid": self.kid, "x": part(x), "y": part(y)})
    }
}

/// A source of documents that a test fills, and that can keep whoever asks waiting.
#[derive(Default)]
struct Documents {
    answer: Mutex<Option<Result<Bytes, String>>>,
    orders: Mutex<Vec<Order>>,
    waiting: Mutex<Vec<Done>>,
}

impl Documents {
    fn of(keys: &[Value]) -> Arc<Documents> {
        let documents = Arc::<Documents>::default();
        documents.serve(keys);
        documents
    }

    fn serve(&self, keys: &[Value]) {
        *self.answer.lock().expect("unpoisoned") = Some(Ok(json!({"keys": keys}).to_string().into()));
    }

    fn fail(&self) {
        *self.answer.lock().expect("unpoisoned") = Some(Err("nobody there".to_owned()));
    }

    fn asked(&self) -> usize {
        self.orders.lock().expect("unpoisoned").len()
    }
}

impl Fetch for Documents {
    fn start(&self, order: Order, done: Done) {
        self.orders.lock().expect("unpoisoned").push(order);
        let answer = self.answer.lock().expect("unpoisoned").clone();
        match answer {
            Some(answer) => done(answer),
            None => self.waiting.lock().expect("unpoisoned").push(done),
        }
    }
}

/// What one remote key manager's operator writes, and more.
fn section(more: &Value) -> Value {
    let mut section = json!({"keyManagers": [
        {"name": "staff", "issuer": ISSUER, "jwks": {"remote": {"uri": "https://login.example/keys"}}}
    ]});
    for (key, value) in more.as_object().into_iter().flatten() {
        section[key] = value.clone();
    }
    section
}

/// A gateway whose operator configured this section.
struct World {
    registry: Registry,
    services: Services,
}

impl World {
    fn new(documents: &Arc<Documents>, more: &Value) -> World {
        let mut registry = Registry::new(crate::catalog::all()).expect("the catalogue");
        registry.configure(SECTION, &section(more)).expect("a good section");
        let fetch: Arc<dyn Fetch> = documents.clone();
        let services = crate::catalog::services(&registry, fetch);
        World { registry, services }
    }

    fn route(&self, params: &Value) -> Route {
        let specs = [spec(NAME, params.clone())];
        Route::with_policies(&self.registry, &specs, &[], &self.services).expect("good parameters")
    }

    fn send(&self, params: &Value, token: &str) -> Outcome {
        self.route(params).send(bearer(token))
    }
}

fn bearer(token: &str) -> Request {
    Request::new("GET", "/").with("authorization", format!("Bearer {token}"))
}

fn claims(more: &Value) -> Value {
    let mut claims = json!({"iss": ISSUER, "sub": "ann"});
    for (key, value) in more.as_object().into_iter().flatten() {
        claims[key] = value.clone();
    }
    claims
}

fn passes(outcome: &Outcome) -> bool {
    assert_eq!(outcome.failure, None);
    outcome.answer.is_none()
}

#[test]
fn a_good_token_passes_and_says_who_the_client_is() {
    let signer = Signer::new("one");
    let documents = Documents::of(&[signer.jwk()]);
    let world = World::new(&documents, &json!({}));
    let token = signer.sign(&claims(&json!({
        "aud": ["books", "films"], "scope": "read write", "jti": "t-1", "team": "blue", "level": 3,
    })));
    let outcome = world.send(&json!({}), &token);
    assert!(passes(&outcome));
    let auth = outcome.auth.expect("it says who");
    let expected = Auth {
        authenticated: true,
        kind: "jwt",
        subject: "ann".to_owned(),
        issuer: ISSUER.to_owned(),
        audience: vec!["books".to_owned(), "films".to_owned()],
        scopes: vec!["read".to_owned(), "write".to_owned()],
        token_id: "t-1".to_owned(),
        properties: [("level", "3"), ("team", "blue")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
    };
    assert_eq!(*auth, expected);
    // Moved, as the contract has it.
    assert!(outcome.request.values("authorization").is_empty());
    assert_eq!(outcome.request.values("x-forwarded-authorization"), [format!("Bearer {token}")]);
    let order = documents.orders.lock().expect("unpoisoned").pop().expect("the keys were fetched");
    assert!(matches!(order.source, Source::Http { uri, .. } if uri == "https://login.example/keys"));
}

#[test]
fn whatever_is_wrong_the_answer_is_the_same() {
    let (signer, stranger) = (Signer::new("one"), Signer::new("one"));
    let world = World::new(&Documents::of(&[signer.jwk()]), &json!({}));
    let now = harness::NOW_MS / 1000;
    let good = signer.sign(&claims(&json!({})));
    let (head, signature) = good.rsplit_once('.').expect("three parts");
    let hmac = {
        let header = Header { kid: Some("one".to_owned()), ..Header::new(Algorithm::HS256) };
        encode(&header, &claims(&json!({})), &EncodingKey::from_secret(b"public")).expect("a token")
    };
    let critical = {
        let crit = Some(vec!["b64".to_owned()]);
        let header = Header { kid: Some("one".to_owned()), crit, ..Header::new(Algorithm::ES256) };
        signer.sign_with(&header, &claims(&json!({})))
    };
    let none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4ifQ.";
    let signed = |more: Value| format!("Bearer {}", signer.sign(&claims(&more)));
    for (value, good) in [
        (format!("Bearer {good}"), true),
        (format!("bEARER  {good}"), true),
        (good.clone(), false),
        (format!("Bearer {good} more"), false),
        (format!("Basic {good}"), false),
        ("Bearer".to_owned(), false),
        ("Bearer a.b.c".to_owned(), false),
        (format!("Bearer {head}.{}", signature.chars().rev().collect::<String>()), false),
        (format!("Bearer {head}."), false),
        (format!("Bearer {}", stranger.sign(&claims(&json!({})))), false),
        (format!("Bearer {hmac}"), false),
        (format!("Bearer {critical}"), false),
        (format!("Bearer {none}"), false),
        (signed(json!({"exp": now - 29})), true),
        (signed(json!({"exp": now - 31})), false),
        (signed(json!({"exp": "soon"})), false),
        (signed(json!({"nbf": now + 29})), true),
        (signed(json!({"nbf": now + 31})), false),
        (signed(json!({"iss": "https://elsewhere.example"})), false),
    ] {
        // Twice: the second time from the cache.
        for _ in 0..2 {
            let request = Request::new("GET", "/").with("authorization", value.as_str());
            let outcome = world.route(&json!({})).send(request);
            assert_eq!(passes(&outcome), good, "{value}");
            if !good {
                assert_eq!(outcome.response.status(), 401);
                assert_eq!(outcome.response.values("content-type"), ["application/json"]);
                assert!(outcome.response.values("www-authenticate").is_empty());
                let body = br#"{"error":"Unauthorized","message":"Authentication failed"}"#;
                assert_eq!(outcome.response_body.as_ref(), body);
                assert_eq!(outcome.auth, None);
            }
        }
    }
    let outcome = world.route(&json!({})).send(Request::new("GET", "/"));
    assert!(!passes(&outcome), "no token at all");
    let good = format!("Bearer {}", signer.sign(&claims(&json!({}))));
    for other in [good.as_str(), "Bearer x", ""] {
        let two = Request::new("GET", "/").with("authorization", good.as_str()).with("authorization", other);
        assert!(!passes(&world.route(&json!({})).send(two)), "a second line: {other:?}");
    }
}

#[test]
fn what_a_route_asks_of_a_token() {
    let signer = Signer::new("one");
    let world = World::new(&Documents::of(&[signer.jwk()]), &json!({}));
    let token = signer.sign(&claims(&json!({
        "aud": "books", "scope": "read write", "scp": ["admin"], "tier": "gold", "level": 3, "groups": ["a", "b"],
    })));
    for (params, good) in [
        (json!({"audiences": ["films", "books"]}), true),
        (json!({"audiences": ["films"]}), false),
        (json!({"requiredScopes": ["none", "admin"]}), true),
        (json!({"requiredScopes": ["none"]}), false),
        (json!({"scopes": {"allOf": ["read", "admin"]}}), true),
        (json!({"scopes": {"allOf": ["read", "none"]}}), false),
        (json!({"scopes": {"allOf": ["read"], "anyOf": ["none"]}}), false),
        (json!({"scopes": {"anyOf": ["none", "write"]}, "requiredScopes": ["none"]}), true),
        (json!({"requiredClaims": {"tier": "gold", "level": "3"}}), true),
        (json!({"requiredClaims": {"tier": "silver"}}), false),
        (json!({"requiredClaims": {"absent": ""}}), false),
        (json!({"claims": {"allOf": [{"claim": "groups", "values": ["b", "c"]}]}}), true),
        (json!({"claims": {"allOf": [{"claim": "groups", "values": ["c"]}]}}), false),
        (
            json!({"claims": {"anyOf": [{"claim": "absent", "values": ["x"]}, {"claim": "tier", "values": ["gold"]}]}}),
            true,
        ),
        (json!({"issuers": [ISSUER]}), true),
        (json!({"issuers": ["staff"]}), true),
        (json!({"issuers": ["others"]}), false),
    ] {
        assert_eq!(passes(&world.send(&params, &token)), good, "{params}");
    }
    let outcome = world.send(&json!({"userIdClaim": "tier"}), &token);
    assert_eq!(outcome.auth.expect("it says who").subject, "gold");
}

#[test]
fn what_the_upstream_is_told() {
    let signer = Signer::new("one");
    let world = World::new(&Documents::of(&[signer.jwk()]), &json!({}));
    let token = signer.sign(&claims(&json!({"email": "ann@example", "level": 3, "odd": "a\nb"})));
    let send = |params: Value| {
        let forged = ["x-email", "x-level", "x-odd", "x-none", "x-forwarded-authorization"];
        let request = forged.iter().fold(bearer(&token), |request, name| request.with(name, "forged"));
        world.route(&params).send(request).request
    };
    let mappings = json!({"email": "x-email", "level": "X-Level", "odd": "x-odd", "none": "x-none"});
    let told = send(json!({"claimMappings": mappings}));
    assert_eq!(
        (told.values("x-email"), told.values("x-level")),
        (vec!["ann@example".to_owned()], vec!["3".to_owned()])
    );
    assert!(
        told.values("x-odd").is_empty() && told.values("x-none").is_empty(),
        "what the token does not say"
    );
    // Of several claims for one header, an absent one leaves what another says.
    let told = send(json!({"claimMappings": {"absent": "x-email", "email": "x-email", "none": "x-email"}}));
    assert_eq!(told.values("x-email"), ["ann@example"]);
    let whole = format!("Bearer {token}");
    for (params, incoming, forwarded) in [
        (json!({}), None, Some(whole.as_str())),
        (json!({"forwardToken": false}), None, None),
        (json!({"forwardToken": false, "forwardedTokenHeader": "x-token"}), None, Some("forged")),
        (
            json!({"forwardToken": false, "claimMappings": {"email": "X-Forwarded-Authorization"}}),
            None,
            Some("ann@example"),
        ),
        (json!({"forwardTokenStripScheme": true}), None, Some(token.as_str())),
        (json!({"forwardedTokenHeader": "Authorization"}), Some(whole.as_str()), Some("forged")),
        (
            json!({"forwardedTokenHeader": "Authorization", "forwardTokenStripScheme": true}),
            Some(token.as_str()),
            Some("forged"),
        ),
    ] {
        let told = send(params.clone());
        let first = |name: &str| told.values(name).first().cloned();
        assert_eq!(first("authorization").as_deref(), incoming, "{params}");
        assert_eq!(first("x-forwarded-authorization").as_deref(), forwarded, "{params}");
    }
}

#[test]
fn the_token_may_come_in_another_header_and_without_a_word_before_it() {
    let signer = Signer::new("one");
    let world = World::new(&Documents::of(&[signer.jwk()]), &json!({}));
    let token = signer.sign(&claims(&json!({})));
    let params = json!({"headerName": "X-Token", "authHeaderPrefix": ""});
    let send = |value: &str| world.route(&params).send(Request::new("GET", "/").with("x-token", value));
    assert!(passes(&send(&token)));
    assert!(!passes(&send(&format!("Bearer {token}"))));
    // What one route found good carries no weight where another word is asked for.
    assert!(passes(&world.send(&json!({}), &token)));
    let other = json!({"authHeaderPrefix": "Token"});
    assert!(!passes(&world.send(&other, &token)));
}

#[test]
fn the_operator_says_how_a_refusal_looks() {
    let documents = Documents::of(&[Signer::new("one").jwk()]);
    for (format, kind, body) in [
        ("json", "application/json", r#"{"error":"Unauthorized","message":"Go \"away\""}"#),
        ("plain", "text/plain", r#"Go "away""#),
        ("minimal", "text/plain", "Unauthorized"),
    ] {
        let more = json!({
            "errorMessageFormat": format, "errorMessage": "Go \"away\"", "onFailureStatusCode": 403,
            "headerName": "x-jwt", "authHeaderScheme": "Token",
        });
        let outcome = World::new(&documents, &more).send(&json!({}), "nothing");
        assert_eq!(outcome.response.status(), 403);
        assert_eq!(outcome.response.values("content-type"), [kind]);
        assert_eq!(outcome.response_body.as_ref(), body.as_bytes());
    }
}

#[test]
fn keys_may_rotate_and_their_source_may_fail() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let documents = Documents::of(&[old.jwk()]);
    let world = World::new(&documents, &json!({}));
    let at = |ms: u64, token: &str| {
        let mut route = world.route(&json!({}));
        route.now_ms = harness::NOW_MS + ms;
        passes(&route.send(bearer(token)))
    };
    let (by_old, by_new) = (old.sign(&claims(&json!({}))), new.sign(&claims(&json!({}))));
    assert!(at(0, &by_old));
    assert!(!at(1_000, &by_new) && documents.asked() == 1, "too early to ask again");
    documents.serve(&[new.jwk()]);
    assert!(at(11_000, &by_new), "an unknown key is asked for");
    assert_eq!(documents.asked(), 2);
    assert!(!at(12_000, &by_old), "what a withdrawn key signed is not remembered");
    documents.fail();
    assert!(at(HOUR_MS, &by_new), "the keys outlive their source");
    assert_eq!(documents.asked(), 2 + 1 + 3, "one try and three more");
}

#[test]
fn a_request_waits_for_the_first_keys_and_no_longer_than_one_try() {
    let signer = Signer::new("one");
    let documents = Arc::<Documents>::default();
    let world = World::new(&documents, &json!({}));
    let token = signer.sign(&claims(&json!({})));
    // Nobody answers yet: the harness takes a wait for a client that has left.
    let outcome = world.send(&json!({}), &token);
    assert!(outcome.answer.is_none() && outcome.auth.is_none(), "it waits");
    assert_eq!(documents.asked(), 1);
    let waiting = || documents.waiting.lock().expect("unpoisoned").pop().expect("a try is under way");
    waiting()(Err("refused".to_owned()));
    assert_eq!(documents.asked(), 2);
    assert!(!passes(&world.send(&json!({}), &token)), "the pause and a second try would be too long");
    let again = waiting();
    documents.fail();
    again(Err("refused".to_owned()));
    assert!(!passes(&world.send(&json!({}), &token)), "the tries have failed");
    documents.serve(&[signer.jwk()]);
    let mut route = world.route(&json!({}));
    route.now_ms += 3_000;
    assert!(passes(&route.send(bearer(&token))), "it is tried anew");
}

#[test]
fn keys_in_pem_check_rsa_signatures() {
    let inline = include_str!("fixtures/certificate.pem");
    let managers =
        json!({"keyManagers": [{"name": "pem", "issuer": "pem", "jwks": {"local": {"inline": inline}}}]});
    let world = World::new(&Arc::default(), &managers);
    for (token, subject) in
        [(include_str!("fixtures/rs256.jwt"), "RS256"), (include_str!("fixtures/ps256.jwt"), "PS256")]
    {
        let outcome = world.send(&json!({}), token);
        assert!(passes(&outcome));
        assert_eq!(outcome.auth.expect("it says who").subject, subject);
    }
}

#[test]
fn who_vouches_for_a_token() {
    let (staff, any) = (Signer::new("one"), Signer::new("one"));
    let manager = |name: &str, issuer: &str, signer: &Signer| json!({"name": name, "issuer": issuer, "jwks": {"local": {"inline": json!({"keys": [signer.jwk()]}).to_string()}}});
    let managers = json!([manager("staff", ISSUER, &staff), manager("any", "", &any)]);
    let strict = World::new(&Arc::default(), &json!({"keyManagers": managers}));
    let lax = World::new(&Arc::default(), &json!({"keyManagers": managers, "validateIssuer": false}));
    let token = |signer: &Signer, issuer: Option<&str>| {
        signer.sign(&issuer.map_or(json!({"sub": "ann"}), |iss| json!({"iss": iss, "sub": "ann"})))
    };
    for (world, params, token, good) in [
        (&strict, json!({}), token(&staff, Some(ISSUER)), true),
        (&strict, json!({}), token(&any, Some(ISSUER)), false),
        (&strict, json!({}), token(&any, Some("elsewhere")), true),
        (&strict, json!({}), token(&staff, Some("elsewhere")), false),
        (&lax, json!({}), token(&staff, Some("elsewhere")), true),
        (&strict, json!({}), token(&staff, None), true),
        (&strict, json!({}), token(&any, None), true),
        (&strict, json!({"issuers": ["any"]}), token(&any, Some("elsewhere")), true),
        (&strict, json!({"issuers": ["any"]}), token(&staff, Some(ISSUER)), false),
        (&strict, json!({"issuers": ["staff"]}), token(&any, Some("elsewhere")), false),
        (&strict, json!({"issuers": ["staff"]}), token(&staff, None), false),
        (&strict, json!({"issuers": ["any", "staff"]}), token(&staff, Some(ISSUER)), true),
    ] {
        for _ in 0..2 {
            assert_eq!(passes(&world.send(&params, &token)), good, "{params} {token}");
        }
    }
}

#[test]
fn without_a_key_manager_nothing_passes() {
    let definition: Arc<dyn Definition> = Arc::new(JwtAuth);
    let empty = World::new(&Arc::default(), &json!({"keyManagers": []}));
    for services in [empty.services, Services::in_memory()] {
        let route =
            Route::with_policy(&definition, &json!({}), Level::Api, &services).expect("good parameters");
        assert!(route.send(bearer("a.b.c")).failure.is_some());
    }
}

#[test]
fn a_section_that_cannot_work_is_refused() {
    let mut registry = Registry::new(crate::catalog::all()).expect("the catalogue");
    let manager = |jwks: Value| json!([{"name": "a", "jwks": jwks}]);
    let remote = json!({"remote": {"uri": "https://a"}});
    for (more, expected) in [
        (json!({"keyManagers": manager(json!({}))}), "needs one of"),
        (json!({"keyManagers": manager(json!({"remote": {"uri": "ftp://x"}}))}), "http or https"),
        (
            json!({"keyManagers": manager(json!({"local": {"inline": "{\"keys\":[]}"}}))}),
            "no RSA or P-256 key",
        ),
        (
            json!({"keyManagers": [{"name": "a", "jwks": remote}, {"name": "a", "jwks": remote}]}),
            "a name of its own",
        ),
        (json!({"jwksFetchTimeout": "0s"}), "longer than zero"),
        (json!({"leeway": "9000h"}), "at most 8760h"),
        (json!({"nothing": 1}), "nothing"),
    ] {
        let faults = registry.configure(SECTION, &section(&more)).expect_err("it makes no sense");
        let told =
            faults.iter().map(|fault| format!("{}: {}", fault.field, fault.message)).collect::<String>();
        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn parameters_that_cannot_work_are_refused() {
    let definition: Arc<dyn Definition> = Arc::new(JwtAuth);
    for params in [
        json!({"claimMappings": {"a": "content-length"}}),
        json!({"forwardedTokenHeader": "Host"}),
        json!({"headerName": "not a name"}),
        json!({"claims": {"allOf": [{"claim": "a"}]}}),
        json!({"authHeaderPrefix": "two words"}),
        json!({"keymanagers": []}),
        json!({"onfailurestatuscode": 200}),
    ] {
        let refused = Route::with_policy(&definition, &params, Level::Api, &Services::in_memory());
        assert!(refused.is_err(), "{params}");
    }
}

#[test]
fn it_passes_the_trials() {
    let definition: Arc<dyn Definition> = Arc::new(JwtAuth);
    let params = json!({"audiences": ["a"], "claimMappings": {"a": "x-a"}, "forwardToken": true, "scopes": {"allOf": ["a"]}});
    let services = || {
        let documents = Documents::of(&[Signer::new("one").jwk()]);
        let world = World::new(&documents, &json!({}));
        Services { shared: Shared::clone(&world.services.shared), ..Services::in_memory() }
    };
    exercise_with(&definition, &params, &services);
}
