// SPDX-License-Identifier: Apache-2.0
//! Ferrogate as it is run: a controller with ten thousand APIs, and a runtime with one
//! worker, which is what is measured. Every API has template paths and sets a header on
//! request and response; the heavy one checks a signed token before that, counts against a
//! limit and answers CORS besides.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{Ground, Peer, free_ports};
use crate::process::Pinned;

const PASSWORD: &str = "for-this-measurement-only";
/// Documents in one request: far below the limit of a bundle.
const AT_ONCE: usize = 500;
const LIVE_DEADLINE: Duration = Duration::from_secs(120);
/// Who signs the tokens.
const ISSUER: &str = "bench";

/// What is deployed, and what the runtime runs under.
pub struct Plan<'a> {
    /// How many APIs.
    pub apis: usize,
    /// With the heavier chain.
    pub heavy: bool,
    /// A program that runs the runtime, with its arguments: a profiler.
    pub under: &'a [String],
}

/// Starts both and waits until the last API answers. The runtime is what is measured.
pub async fn start(ground: &Ground<'_>, dir: &Path, plan: &Plan<'_>) -> anyhow::Result<Peer> {
    let [management, stream] = free_ports()?;
    let args = [
        "controller",
        "--data-dir",
        &dir.join("controller").display().to_string(),
        "--database-url",
        &format!("sqlite://{}", dir.join("gateway.db").display()),
        "--listen-management",
        &management.to_string(),
        "--listen-stream",
        &stream.to_string(),
        "--listen-admin",
        "off",
        "--listen-metrics",
        "off",
    ]
    .map(str::to_owned);
    let mut controller = start_role(ground.other_core, ground, &[], &args, &dir.join("controller.log"))?;
    controller.listening(management).await?;
    let [http, https] = free_ports()?;
    let config = dir.join("runtime.toml");
    std::fs::write(
        &config,
        format!(
            "[router.downstream_tls]\ncert_path = {:?}\nkey_path = {:?}\n[router.access_logs]\nenabled = false\n\
             [[policy_configurations.jwtauth_v1.keymanagers]]\nname = {ISSUER:?}\nissuer = {ISSUER:?}\n\
             jwks.local.certificatePath = {:?}\n",
            ground.certificate, ground.key, ground.certificate
        ),
    )?;
    let args = [
        "runtime",
        "--config",
        &config.display().to_string(),
        "--data-dir",
        &dir.join("runtime").display().to_string(),
        "--controller",
        &format!("http://{stream}"),
        "--workers",
        "1",
        "--listen-http",
        &http.to_string(),
        "--listen-https",
        &https.to_string(),
        "--listen-admin",
        "off",
        "--listen-metrics",
        "off",
        "--listen-readiness",
        "off",
    ]
    .map(str::to_owned);
    let mut runtime = start_role(ground.core, ground, plan.under, &args, &dir.join("runtime.log"))?;
    runtime.listening(http).await?;
    deploy(management, ground.backend, plan).await?;
    let token = if plan.heavy { Some(token(ground.key)?) } else { None };
    live(http, plan.apis, token.as_deref()).await?;
    Ok(Peer { http, https, token, measured: vec![runtime], _beside: vec![controller] })
}

/// A token that the runtime's key manager vouches for: the listener's key signs it.
fn token(key: &Path) -> anyhow::Result<String> {
    let key = EncodingKey::from_ec_pem(&std::fs::read(key)?)?;
    let claims = json!({
        "iss": ISSUER, "sub": "client-7", "aud": ["bench"], "scope": "items.read items.write", "tier": "gold",
    });
    Ok(encode(&Header::new(Algorithm::ES256), &claims, &key)?)
}

fn start_role(
    core: usize,
    ground: &Ground<'_>,
    under: &[String],
    args: &[String],
    log: &Path,
) -> anyhow::Result<Pinned> {
    let mut with_password = vec!["FERROGATE_ADMIN_PASSWORD=".to_owned() + PASSWORD];
    with_password.extend(under.iter().cloned());
    with_password.push(ground.ferrogate.display().to_string());
    with_password.extend(args.iter().cloned());
    Pinned::start(core, Path::new("/usr/bin/env"), &with_password, log)
}

async fn deploy(management: SocketAddr, backend: SocketAddr, plan: &Plan<'_>) -> anyhow::Result<()> {
    let client = reqwest::Client::new();
    let all: Vec<usize> = (0..plan.apis).collect();
    for chunk in all.chunks(AT_ONCE) {
        let documents: Vec<Value> = chunk.iter().map(|index| document(*index, backend, plan.heavy)).collect();
        let answer = client
            .post(format!("http://{management}/api/management/v1/apply"))
            .basic_auth("admin", Some(PASSWORD))
            .json(&documents)
            .send()
            .await?;
        let status = answer.status();
        ensure!(status.is_success(), "deploying: {status}: {}", answer.text().await.unwrap_or_default());
    }
    Ok(())
}

fn document(index: usize, backend: SocketAddr, heavy: bool) -> Value {
    let header = |name: &str| json!({ "headers": [{ "name": name, "value": "bench" }] });
    let mut policies = vec![json!({
        "name": "set-headers", "version": "v1",
        "params": { "request": header("x-request-stamp"), "response": header("x-response-stamp") },
    })];
    if heavy {
        policies.insert(
            0,
            json!({
                "name": "jwt-auth", "version": "v1",
                "params": { "audiences": ["bench"], "scopes": { "allOf": ["items.read"] } },
            }),
        );
        policies.push(json!({
            "name": "basic-ratelimit", "version": "v1",
            "params": { "limits": [{ "requests": 1_000_000_000, "duration": "1h" }] },
        }));
        policies.push(json!({
            "name": "cors", "version": "v1", "params": { "allowedOrigins": ["https://app\\.example"] },
        }));
    }
    let operation = |method: &str, path: &str| json!({ "method": method, "path": path });
    json!({
        "apiVersion": "gateway.api-platform.wso2.com/v1",
        "kind": "RestApi",
        "metadata": { "name": format!("bench-{index}") },
        "spec": {
            "displayName": format!("bench-{index}"),
            "version": "v1.0",
            "context": format!("/bench-{index}"),
            "upstream": { "main": { "url": format!("http://{backend}") } },
            "policies": policies,
            "operations": [
                operation("GET", "/items"), operation("POST", "/items"), operation("GET", "/items/{id}"),
                operation("POST", "/items/{id}"), operation("PUT", "/items/{id}"), operation("DELETE", "/items/{id}"),
                operation("GET", "/items/{id}/big"), operation("GET", "/items/{id}/parts/{part}"),
            ],
        },
    })
}

/// Waits until the last API answers.
async fn live(http: SocketAddr, apis: usize, token: Option<&str>) -> anyhow::Result<()> {
    let client = reqwest::Client::new();
    let url = format!("http://{http}/bench-{}/items/1", apis - 1);
    let deadline = Instant::now() + LIVE_DEADLINE;
    loop {
        let mut request = client.get(&url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.context("the runtime does not answer")?;
        if answer.status().is_success() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the last API is not live: {}", answer.status());
        sleep(Duration::from_millis(50)).await;
    }
}
