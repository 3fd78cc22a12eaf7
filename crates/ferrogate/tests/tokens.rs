// SPDX-License-Identifier: Apache-2.0
//! `jwt-auth` on the real binary: a key server that is asked when the first token comes, and
//! once; requests over one kept connection, so that the hot path waits and goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ferrogate_testkit::backend::Backend;
use ferrogate_testkit::process::{Process, Spec};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const PASSWORD: &str = "of-this-test-only";
const ISSUER: &str = "https://login.example";

/// Serves one document to everybody and counts how often.
struct KeyServer {
    uri: String,
    asked: Arc<AtomicUsize>,
}

impl KeyServer {
    async fn start(document: String) -> anyhow::Result<KeyServer> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let uri = format!("http://{}/keys", listener.local_addr()?);
        let asked = Arc::<AtomicUsize>::default();
        let count = asked.clone();
        let mut served = tokio::task::JoinSet::new();
        served.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                if stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                    count.fetch_add(1, Ordering::SeqCst);
                    let length = document.len();
                    let head =
                        format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
                    stream.write_all((head + &document).as_bytes()).await.ok();
                }
            }
        });
        // It serves as long as the test's executor.
        served.detach_all();
        Ok(KeyServer { uri, asked })
    }
}

fn key_set(pair: &KeyPair) -> String {
    // An uncompressed point: 4, x, y.
    let (x, y) = pair.der_bytes()[1..].split_at(32);
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "k", "x": part(x), "y": part(y)}]}).to_string()
}

fn token(pair: &KeyPair, subject: &str) -> anyhow::Result<String> {
    let header = Header { kid: Some("k".to_owned()), ..Header::new(Algorithm::ES256) };
    let key = EncodingKey::from_ec_der(&pair.serialize_der());
    Ok(encode(&header, &json!({"iss": ISSUER, "sub": subject}), &key)?)
}

async fn gateway(root: &std::path::Path, keys: &KeyServer) -> anyhow::Result<Process> {
    let config = root.join("gateway.toml");
    std::fs::write(
        &config,
        format!(
            "[[policy_configurations.jwtauth_v1.keymanagers]]\nname = \"staff\"\nissuer = \"{ISSUER}\"\n\
             jwks.remote.uri = \"{}\"\n",
            keys.uri
        ),
    )?;
    let path = config.to_str().context("a path in UTF-8")?;
    let mut spec = Spec::standalone(env!("CARGO_BIN_EXE_ferrogate"), root, &["--config", path]);
    spec.env.push(("FERROGATE_ADMIN_PASSWORD".to_owned(), PASSWORD.to_owned()));
    spec.start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_checked_with_keys_that_are_fetched_once() -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let root = tempfile::tempdir()?;
    let (pair, stranger) = (KeyPair::generate()?, KeyPair::generate()?);
    let keys = KeyServer::start(key_set(&pair)).await?;
    let backend = Backend::start().await?;
    let process = gateway(root.path(), &keys).await?;
    let document = json!({
        "apiVersion": "gateway.api-platform.wso2.com/v1", "kind": "RestApi",
        "metadata": {"name": "members"},
        "spec": {
            "displayName": "Members", "version": "v1.0", "context": "/members",
            "upstream": {"main": {"url": backend.url()}},
            "policies": [{"name": "jwt-auth", "version": "v1", "params": {"claimMappings": {"sub": "x-member"}}}],
            "operations": [{"method": "GET", "path": "/echo"}],
        },
    });
    let client = reqwest::Client::new();
    let apply = format!("{}/api/management/v1/rest-apis?wait=live", process.url("management"));
    let answer = client.post(&apply).basic_auth("admin", Some(PASSWORD)).json(&document).send().await?;
    ensure!(answer.status().is_success(), "{}: {}", answer.status(), answer.text().await?);
    let url = format!("{}/members/echo", process.url("http"));
    assert_eq!(keys.asked.load(Ordering::SeqCst), 0, "nobody needed keys yet");

    for (presented, status) in [
        (Some(token(&pair, "ann")?), 200),
        (Some(token(&stranger, "ann")?), 401),
        (None, 401),
        (Some(token(&pair, "bob")?), 200),
    ] {
        let request = client.get(&url).timeout(Duration::from_secs(10));
        let answer = match &presented {
            Some(token) => request.bearer_auth(token).send().await?,
            None => request.send().await?,
        };
        assert_eq!(answer.status().as_u16(), status);
        if status == 200 {
            let seen: Value = answer.json().await?;
            let seen = seen.to_string();
            let sent = presented.unwrap_or_default();
            ensure!(seen.contains("x-member") && seen.contains(&format!("Bearer {sent}")), "{seen}");
            ensure!(seen.contains("x-forwarded-authorization"), "{seen}");
        }
    }
    assert_eq!(keys.asked.load(Ordering::SeqCst), 1);
    Ok(())
}
