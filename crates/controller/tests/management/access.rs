// SPDX-License-Identifier: Apache-2.0
//! Who may do what (contract 1.3): the rows of its tables, JWT against a real key set,
//! and that guessing gets slow.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ferrogate_store::Store;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::fault::{Faulty, Mode};
use crate::harness::{Answer, BASE, Gateway, Setup, eventually, send};

fn users() -> String {
    let hash = bcrypt::hash("d", 4).expect("hashable");
    let user = |name: &str, password: &str, hashed: bool, role: &str| {
        format!(
            "[[controller.auth.basic.users]]\nusername = \"{name}\"\npassword = \"{password}\"\n\
             password_hashed = {hashed}\nroles = [\"{role}\"]\n"
        )
    };
    [
        user("Ops", "a", false, "admin"),
        user("dev", &hash, true, "developer"),
        user("guest", "g", false, "consumer"),
    ]
    .concat()
}

fn code(answer: &Answer) -> (u16, String) {
    let code = answer.json().get("code").and_then(Value::as_str).unwrap_or_default().to_owned();
    (answer.status.as_u16(), code)
}

async fn gateway(toml: &str) -> Gateway {
    Gateway::with(Setup { toml: toml.to_owned(), ..Setup::default() }).await
}

fn list(gateway: &Gateway) -> RequestBuilder {
    gateway.http.get(gateway.url(&format!("{BASE}/rest-apis")))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rows_of_the_authentication_table() {
    let gateway = gateway(&users()).await;
    let missing = (401, "skip_authz".to_owned());
    assert_eq!(code(&send(list(&gateway)).await), missing);
    for header in ["Bearer abc", "basic T3BzOmE=", "Digest x"] {
        assert_eq!(code(&send(list(&gateway).header("authorization", header)).await), missing, "{header}");
    }
    let refused = send(list(&gateway).basic_auth("Ops", Some("wrong"))).await;
    assert_eq!(code(&refused), (401, "authentication_failed".to_owned()));
    assert_eq!(refused.json(), json!({"code": "authentication_failed", "message": "authentication failed"}));
    assert_eq!(refused.header("www-authenticate"), None);
    assert_eq!(send(list(&gateway).basic_auth("ops", Some("a"))).await.status, 200, "names ignore case");
    let forbidden = send(list(&gateway).basic_auth("guest", Some("g"))).await;
    assert_eq!(code(&forbidden), (403, "forbidden".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_decide_per_endpoint() {
    let gateway = gateway(&users()).await;
    for (method, path, ops, dev, guest) in [
        (Method::GET, "/rest-apis", 200, 200, 403),
        (Method::GET, "/policies", 200, 200, 403),
        (Method::GET, "/cluster", 200, 200, 403),
        (Method::POST, "/rollback", 400, 403, 403),
        (Method::POST, "/apply", 400, 400, 403),
    ] {
        for (user, password, expected) in [("ops", "a", ops), ("dev", "d", dev), ("guest", "g", guest)] {
            let request = gateway.http.request(method.clone(), gateway.url(&format!("{BASE}{path}")));
            let answer = send(request.basic_auth(user, Some(password))).await;
            assert_eq!(answer.status.as_u16(), expected, "{user} {method} {path}");
        }
    }
    let open = send(gateway.http.get(gateway.url(&format!("{BASE}/openapi.json")))).await;
    assert_eq!((open.status.as_u16(), &open.json()["openapi"]), (200, &json!("3.1.0")));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_authenticator_everybody_is_let_in() {
    let gateway = gateway("[controller.auth.basic]\nenabled = false\n").await;
    let created = gateway.http.post(gateway.url("/rest-apis")).body(crate::harness::api("x", "/x"));
    assert_eq!(send(created).await.status, 201);
    let history = send(gateway.http.get(gateway.url("/revisions"))).await.json();
    assert_eq!(history["revisions"][0]["author"], "sys_noauth_user");
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_gets_slow_and_the_rightful_user_does_not_notice() {
    let gateway = gateway(&users()).await;
    assert_eq!(send(list(&gateway).basic_auth("ops", Some("a"))).await.status, 200);
    let guess = || send(list(&gateway).basic_auth("ops", Some("wrong")));
    for _ in 0..5 {
        assert_eq!(guess().await.status, 401);
    }
    let started = std::time::Instant::now();
    let (guessed, rightful) = tokio::join!(guess(), async {
        let answer = send(list(&gateway).basic_auth("ops", Some("a"))).await;
        (answer.status, started.elapsed())
    });
    assert!(started.elapsed() >= Duration::from_millis(300), "{guessed:?} after {:?}", started.elapsed());
    assert_eq!(rightful.0, 200);
    assert!(rightful.1 < started.elapsed(), "known credentials do not queue");
}

/// A key, the set with its public half, and tokens signed with it.
struct Provider {
    key: EncodingKey,
    set: String,
}

impl Provider {
    fn new() -> Provider {
        let pair = rcgen::KeyPair::generate().expect("a key");
        let key = EncodingKey::from_ec_der(&pair.serialize_der());
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).expect("a public half");
        jwk.common.key_id = Some("k1".to_owned());
        let set = serde_json::to_string(&JwkSet { keys: vec![jwk] }).expect("serialisable");
        Provider { key, set }
    }

    /// Serves the key set; answers its URL.
    async fn serve(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let set = self.set.clone();
        let router = axum::Router::new().route("/keys", axum::routing::get(move || async move { set }));
        let tasks = ferrogate_base::tasks::Tasks::new();
        tasks.spawn("identity provider", async move {
            axum::serve(listener, router).await.expect("served until the test ends");
        });
        format!("http://{address}/keys")
    }

    fn token(&self, change: impl FnOnce(&mut Value)) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let mut claims = json!({"iss": "https://idp", "aud": "gateway", "sub": "jane", "exp": now + 300, "groups": "ops other"});
        change(&mut claims);
        let header = Header { kid: Some("k1".to_owned()), ..Header::new(Algorithm::ES256) };
        encode(&header, &claims, &self.key).expect("a token")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_checked_in_every_part() {
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let (provider, stranger) = (Provider::new(), Provider::new());
    let url = provider.serve().await;
    let gateway = gateway(&format!(
        "[controller.auth.idp]\nenabled = true\njwks_url = \"{url}\"\nissuer = \"https://idp\"\n\
         audience = [\"gateway\"]\nroles_claim = \"groups\"\n\
         [controller.auth.idp.role_mapping]\ndeveloper = [\"ops\"]\nadmin = [\"root\"]\n"
    ))
    .await;
    let ask = |token: String| send(list(&gateway).bearer_auth(token));
    eventually("the key set is there", || async { ask(provider.token(|_| {})).await.status == 200 }).await;
    let failed = (401, "authentication_failed".to_owned());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    for (what, token) in [
        ("issuer", provider.token(|claims| claims["iss"] = json!("https://other"))),
        ("audience", provider.token(|claims| claims["aud"] = json!(["other"]))),
        ("expired", provider.token(|claims| claims["exp"] = json!(now - 120))),
    ] {
        assert_eq!(code(&ask(token).await), failed, "{what}");
    }
    for (what, token, status) in [
        ("within the leeway", provider.token(|claims| claims["exp"] = json!(now - 20)), 200),
        ("no role", provider.token(|claims| claims["groups"] = json!("other")), 403),
        ("roles as a list", provider.token(|claims| claims["groups"] = json!(["root"])), 200),
        ("another key", stranger.token(|_| {}), 401),
    ] {
        assert_eq!(ask(token).await.status.as_u16(), status, "{what}");
    }
    // With a provider and no user, Basic has nobody to let in.
    let basic = send(list(&gateway).basic_auth("admin", Some("correct horse"))).await;
    assert_eq!(basic.status, 200, "a configured administrator's password still counts");
}

#[tokio::test(flavor = "multi_thread")]
async fn controllers_of_one_database_have_one_administrator() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Faulty::over(dir.path());
    let start = || {
        // The URL says that the database may be shared; the store is handed in.
        let toml = "controller.database_url = \"postgres://unused/gateway\"".to_owned();
        let store: Arc<dyn Store> = Arc::clone(&store) as Arc<dyn Store>;
        Gateway::with(Setup { toml, store: Some(store), no_password: true, not_ready: true })
    };
    let first = start().await;
    let file = first.controller.password_file.clone().expect("made here");
    let password = std::fs::read_to_string(file).expect("kept").trim().to_owned();
    let list = |gateway: &Gateway, password: &str| {
        let url = gateway.url("/api/management/v1/rest-apis");
        send(gateway.http.get(url).basic_auth("admin", Some(password)))
    };
    eventually("ready", || async { first.controller.readiness.is_ready() }).await;
    assert_eq!(list(&first, &password).await.status, 200);
    store.set(Mode::Down);
    let second = start().await;
    assert_eq!(second.controller.password_file, None);
    let early = list(&second, &password).await;
    assert_eq!((early.status.as_u16(), &early.json()["code"]), (503, &json!("not_ready")));
    store.set(Mode::Sound);
    eventually("the second lets the first one's administrator in", || async {
        list(&second, &password).await.status == 200
    })
    .await;
    assert_eq!(list(&second, "another").await.status, 401);
    assert!(!second.dir.path().join("admin-password").exists(), "nothing is generated twice");
}
