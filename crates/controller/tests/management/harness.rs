// SPDX-License-Identifier: Apache-2.0
//! A controller to test against, and the few words tests are written in.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_base::config::{Reader, Sources};
use ferrogate_controller::config::{Config, SECTIONS};
use ferrogate_controller::run::{Controller, Parts, RunningController};
use ferrogate_policy::{MemoryCounters, Registry, Services};
use ferrogate_store::Store;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;
use tempfile::TempDir;

pub const BASE: &str = "/api/management/v1";
const PASSWORD: &str = "correct horse";
/// For conditions that hold within milliseconds unless something is broken.
pub const SOON: Duration = Duration::from_secs(20);

/// A controller, its directory and a client with its administrator's credentials.
pub struct Gateway {
    pub controller: RunningController,
    pub http: reqwest::Client,
    pub dir: TempDir,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

/// How a controller is to differ from the usual one.
#[derive(Default)]
pub struct Setup {
    pub toml: String,
    pub store: Option<Arc<dyn Store>>,
    pub not_ready: bool,
    /// Leave the administrator's password to the controller.
    pub no_password: bool,
}

impl Gateway {
    /// The usual one, ready.
    pub async fn start() -> Gateway {
        Gateway::with(Setup::default()).await
    }

    pub async fn with(setup: Setup) -> Gateway {
        // Several tests share the process; the first one installs the provider.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = if setup.no_password {
            config_with(dir.path(), &setup.toml, BTreeMap::new())
        } else {
            config(dir.path(), &setup.toml)
        };
        let not_ready = setup.not_ready;
        let controller = Controller::start(config, parts(setup.store)).await.expect("a free machine");
        let gateway = Gateway { controller, http: reqwest::Client::new(), dir };
        if !not_ready {
            eventually("ready", || async { gateway.controller.readiness.is_ready() }).await;
        }
        gateway
    }

    pub fn url(&self, path: &str) -> String {
        let address = self.controller.addresses.management.expect("listens");
        format!("http://{address}{path}")
    }

    pub fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.controller.addresses.admin.expect("listens"))
    }

    /// A request by the administrator; `path` is below the current base path.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, self.url(&format!("{BASE}{path}"))).basic_auth("admin", Some(PASSWORD))
    }

    pub async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        send(self.request(Method::POST, path).body(body)).await
    }

    pub async fn put(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        send(self.request(Method::PUT, path).body(body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        send(self.request(Method::DELETE, path)).await
    }

    /// Creates an API that must be accepted; answers its revision.
    pub async fn create(&self, name: &str, context: &str) -> u64 {
        let answer = self.post("/rest-apis", api(name, context)).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        answer.revision()
    }
}

impl Answer {
    pub fn json(&self) -> Value {
        let read = serde_json::from_str(&self.text);
        assert!(read.is_ok(), "no JSON: {self:?}");
        read.expect("asserted")
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn revision(&self) -> u64 {
        let revision = self.header("x-revision").and_then(|text| text.parse().ok());
        assert!(revision.is_some(), "no revision: {self:?}");
        revision.expect("asserted")
    }

    /// The status and, of an error, its message.
    pub fn told(&self) -> (u16, String) {
        let message = serde_json::from_str::<Value>(&self.text).ok();
        let message = message.and_then(|body| body.get("message")?.as_str().map(str::to_owned));
        (self.status.as_u16(), message.unwrap_or_default())
    }
}

pub fn config(dir: &Path, toml: &str) -> Config {
    let env = BTreeMap::from([("FERROGATE_CONTROLLER_ADMIN_PASSWORD".to_owned(), PASSWORD.to_owned())]);
    config_with(dir, toml, env)
}

fn config_with(dir: &Path, toml: &str, env: BTreeMap<String, String>) -> Config {
    let mut sources = Sources::new(env);
    for listener in ["management", "admin", "metrics", "stream"] {
        sources.preset(&format!("controller.listen.{listener}"), "127.0.0.1:0");
    }
    sources.preset("controller.data_dir", dir.display().to_string());
    sources.read_text(Path::new("test.toml"), toml);
    let mut reader = Reader::new(&sources);
    let config = Config::read(&mut reader);
    let problems = reader.finish(&SECTIONS, &["router"]).problems;
    assert!(problems.is_empty(), "{problems:?}");
    config
}

pub fn parts(store: Option<Arc<dyn Store>>) -> Parts {
    let registry = Registry::new(ferrogate_policies::catalog::all()).expect("the catalogue is consistent");
    let services = Services { counters: Arc::new(MemoryCounters::new(16)), ..Services::in_memory() };
    Parts { registry: Arc::new(registry), services, store }
}

pub async fn send(request: RequestBuilder) -> Answer {
    let response = request.timeout(SOON).send().await.expect("an answer");
    let (status, headers) = (response.status(), response.headers().clone());
    Answer { status, headers, text: response.text().await.expect("a text") }
}

/// An API with one operation.
pub fn api(name: &str, context: &str) -> String {
    api_with(name, context, "")
}

/// An API with one operation and further lines below `spec`.
pub fn api_with(name: &str, context: &str, more: &str) -> String {
    format!(
        "apiVersion: gateway.api-platform.wso2.com/v1\nkind: RestApi\nmetadata:\n  name: {name}\nspec:\n  \
         displayName: {name}\n  version: v1.0\n  context: {context}\n  upstream:\n    main:\n      \
         url: http://127.0.0.1:8089\n  operations:\n    - method: GET\n      path: /books\n{more}"
    )
}

/// Polls a condition until it holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + SOON;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
