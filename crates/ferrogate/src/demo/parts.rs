// SPDX-License-Identifier: Apache-2.0
//! The gateway that is demonstrated: PostgreSQL, two controllers in zones a and b, three
//! runtimes (two in a, one in b), the sample backend. All on loopback, all on free ports.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use ferrogate_base::secret::Secret;
use ferrogate_base::tasks::Tasks;
use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::http::{Http, until};
use super::postgres::{PostgresServer, StopMode};
use super::process::Process;
use crate::sample_backend;

const READY_DEADLINE: Duration = Duration::from_secs(30);
const CONTROLLERS: [(&str, &str); 2] = [("controller-1", "a"), ("controller-2", "b")];
const RUNTIMES: [(&str, &str); 3] = [("runtime-1", "a"), ("runtime-2", "a"), ("runtime-3", "b")];

/// Everything that runs.
pub struct Gateway {
    /// In the order of their names.
    pub controllers: Vec<Process>,
    /// In the order of their names.
    pub runtimes: Vec<Process>,
    /// What the APIs point at.
    pub backend: String,
    /// Sends requests.
    pub http: Http,
    postgres: Option<Arc<PostgresServer>>,
    folder: Option<TempDir>,
    password: Secret,
}

impl Gateway {
    /// Starts everything and waits until every runtime is ready.
    pub async fn start(database: Option<&str>, tasks: &Tasks) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("ferrogate-demo-").tempdir()?;
        let root = folder.path();
        let (postgres, url) = match database {
            Some(url) => (None, url.to_owned()),
            None => {
                let (server, url) = tokio::task::spawn_blocking(throw_away_postgres).await??;
                (Some(server), url)
            }
        };
        let password = Secret::new(uuid::Uuid::new_v4().to_string());
        let token = root.join("join-token");
        std::fs::write(&token, uuid::Uuid::new_v4().to_string())?;
        let token = token.display().to_string();
        // Both controllers seal with it what the database keeps.
        let key = root.join("sealing.key");
        let bytes = [*uuid::Uuid::new_v4().as_bytes(), *uuid::Uuid::new_v4().as_bytes()].concat();
        std::fs::write(&key, bytes)?;
        let key = key.display().to_string();
        // Of its own, so that a database that is lent keeps what it has.
        let gateway = format!("demo-{}", uuid::Uuid::new_v4());
        let backend = sample_backend::start(tasks, (Ipv4Addr::LOCALHOST, 0).into()).await?;
        let mut controllers = Vec::new();
        for (name, zone) in CONTROLLERS {
            let mut arguments =
                words(&["controller", "--gateway-id", &gateway, "--replica-id", name, "--zone", zone]);
            arguments.extend(words(&["--join-token-file", &token, "--encryption-key-file", &key]));
            let environment = vec![
                // Not a flag: other users could read it there, password included.
                ("FERROGATE_DATABASE_URL".to_owned(), url.clone()),
                ("FERROGATE_ADMIN_PASSWORD".to_owned(), password.expose().to_owned()),
            ];
            let listeners = ["management", "admin", "metrics", "stream"];
            controllers.push(Process::start(root, name, arguments, &listeners, environment).await?);
        }
        let mut runtimes = Vec::new();
        for (name, zone) in RUNTIMES {
            let mut arguments = words(&["runtime", "--runtime-id", name, "--zone", zone, "--workers", "1"]);
            arguments.extend(words(&["--join-token-file", &token, "--listen-https", "off"]));
            for (controller, (_, zone)) in controllers.iter().zip(CONTROLLERS) {
                arguments.extend(words(&["--controller", &format!("{zone}={}", controller.url("stream")?)]));
            }
            let listeners = ["http", "admin", "metrics", "readiness"];
            let environment = vec![("FERROGATE_GATEWAY_ID".to_owned(), gateway.clone())];
            runtimes.push(Process::start(root, name, arguments, &listeners, environment).await?);
        }
        let http = Http::new(password.clone())?;
        let started = Self {
            controllers,
            runtimes,
            backend: format!("http://{backend}"),
            http,
            postgres,
            folder: Some(folder),
            password,
        };
        for index in 0..started.runtimes.len() {
            started.wait_ready(index).await?;
        }
        Ok(started)
    }

    /// Waits until a runtime says that it wants traffic.
    pub async fn wait_ready(&self, runtime: usize) -> anyhow::Result<()> {
        let url = format!("{}/ready", self.runtime(runtime)?.url("readiness")?);
        until(READY_DEADLINE, "a runtime is not ready", async || {
            Ok((self.http.get(&url).await?.status == 200).then_some(()))
        })
        .await
    }

    /// A request to a controller's management API.
    pub async fn manage(
        &self,
        controller: usize,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<super::http::Answer> {
        let base = self.controllers.get(controller).context("no such controller")?.url("management")?;
        self.http.manage(&base, method, path, body).await
    }

    /// A runtime.
    pub fn runtime(&self, index: usize) -> anyhow::Result<&Process> {
        self.runtimes.get(index).context("no such runtime")
    }

    /// Where a path of a deployed API is called, on every runtime.
    pub fn everywhere(&self, path: &str) -> anyhow::Result<Vec<String>> {
        self.runtimes.iter().map(|runtime| Ok(format!("{}{path}", runtime.url("http")?))).collect()
    }

    /// A document of an API that answers below `/{name}`, with one response header.
    pub fn api(&self, name: &str, stamp: &str) -> Value {
        let header = json!({ "headers": [{ "name": "x-demo", "value": stamp }] });
        json!({
            "apiVersion": "gateway.api-platform.wso2.com/v1",
            "kind": "RestApi",
            "metadata": { "name": name },
            "spec": {
                "displayName": name,
                "version": "v1.0",
                "context": format!("/{name}"),
                "upstream": { "main": { "url": self.backend } },
                "policies": [{ "name": "set-headers", "version": "v1", "params": { "response": header } }],
                "operations": [{ "method": "GET", "path": "/echo" }, { "method": "GET", "path": "/books" }],
            },
        })
    }

    /// Whether the database server is ours to stop.
    pub fn owns_postgres(&self) -> bool {
        self.postgres.is_some()
    }

    /// Stops the database server at once, as a crash would.
    pub async fn stop_postgres(&self) -> anyhow::Result<()> {
        self.with_postgres(|server| server.stop(StopMode::Immediate)).await
    }

    /// Starts it again.
    pub async fn start_postgres(&self) -> anyhow::Result<()> {
        self.with_postgres(PostgresServer::start_again).await
    }

    async fn with_postgres(
        &self,
        act: impl FnOnce(&PostgresServer) -> std::io::Result<()> + Send + 'static,
    ) -> anyhow::Result<()> {
        let server = self.postgres.clone().context("the database server is not ours")?;
        Ok(tokio::task::spawn_blocking(move || act(&server)).await??)
    }

    /// Keeps the folder with the logs; answers where it is.
    pub fn keep_logs(&mut self) -> String {
        self.folder.take().map_or_else(String::new, |folder| folder.keep().display().to_string())
    }

    /// What runs, for the reader of the walk.
    pub fn introduction(&self) -> String {
        let database = if self.owns_postgres() { "a throw-away PostgreSQL" } else { "the PostgreSQL given" };
        format!(
            "ferrogate demo: {database}, controller-1 in zone a and controller-2 in zone b,\n\
             runtime-1 and runtime-2 in zone a, runtime-3 in zone b, and a sample backend.\n\
             Requests run through all of it and are counted.\n"
        )
    }

    /// How to explore what is left running.
    pub fn guide(&self) -> String {
        let mut text = String::from("\nEverything is left running; interrupt to end it.\n");
        for process in self.controllers.iter().chain(&self.runtimes) {
            for (listener, what) in [("management", "management API"), ("http", "traffic")] {
                if let Ok(url) = process.url(listener) {
                    text.push_str(&format!("  {:<14} {what:<16} {url}\n", process.name));
                }
            }
        }
        let controllers: Vec<String> = self
            .controllers
            .iter()
            .filter_map(|one| Some(format!("--controller {}", one.url("management").ok()?)))
            .collect();
        text.push_str(&format!("  export FERROGATE_ADMIN_PASSWORD={}\n", self.password.expose()));
        text.push_str(&format!("  ferrogate status {}\n", controllers.join(" ")));
        text
    }
}

fn throw_away_postgres() -> anyhow::Result<(Arc<PostgresServer>, String)> {
    let started = PostgresServer::start();
    let server =
        started.context("cannot start PostgreSQL; install it with `sudo apt-get install postgresql`")?;
    let database = server.create_database()?;
    let url = server.url(&database);
    Ok((Arc::new(server), url))
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
