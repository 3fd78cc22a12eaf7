// SPDX-License-Identifier: Apache-2.0
//! The built binary as a standalone gateway with one API, `/raw`, in front of the upstream.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use ferrogate_testkit::cluster::PASSWORD;
use ferrogate_testkit::management::Management;
use ferrogate_testkit::process::{Process, Spec};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::upstream::Upstream;

/// Longer than any timeout of the gateway's that a case waits for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Every codec that can speak HTTP/1 with clients, by its name in the configuration.
pub const CODECS: [&str; 2] = ["own", "hyper"];

pub struct Gateway {
    pub http: SocketAddr,
    pub upstream: Upstream,
    process: Process,
    _root: tempfile::TempDir,
}

impl Gateway {
    pub async fn start(codec: &str) -> anyhow::Result<Gateway> {
        rustls::crypto::ring::default_provider().install_default().ok();
        let (root, upstream) = (tempfile::tempdir()?, Upstream::start().await);
        let file = root.path().join("ferrogate.toml");
        // Cases that wait for more bytes end by these.
        let settings = format!(
            "[router.http_listener.timeouts]\nrequest_headers_timeout = \"1s\"\nidle_timeout = \"5s\"\n\
             [runtime]\nhttp1_codec = \"{codec}\"\n"
        );
        std::fs::write(&file, settings)?;
        let path = file.display().to_string();
        let mut spec = Spec::standalone(env!("CARGO_BIN_EXE_ferrogate"), root.path(), &["--config", &path]);
        spec.name = format!("standalone with {codec}");
        spec.env.push(("FERROGATE_ADMIN_PASSWORD".to_owned(), PASSWORD.to_owned()));
        let process = spec.start().await?;
        let operations: Vec<_> =
            ["GET", "POST"].iter().map(|method| json!({ "method": method, "path": "/*" })).collect();
        let document = json!({
            "apiVersion": "gateway.api-platform.wso2.com/v1",
            "kind": "RestApi",
            "metadata": { "name": "raw" },
            "spec": {
                "displayName": "raw",
                "version": "v1.0",
                "context": "/raw",
                "upstream": { "main": { "url": format!("http://{}", upstream.address) } },
                "resilience": { "idleTimeout": "1s" },
                "operations": operations,
            },
        });
        let answer = Management::new(process.url("management")).create(&document, "?wait=live").await?;
        ensure!(answer.status.is_success(), "{answer:?}");
        Ok(Gateway { http: process.address("http"), upstream, process, _root: root })
    }

    /// Sends the bytes and reads until the gateway closes.
    pub async fn send(&self, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(self.http).await?;
        let (mut reading, mut writing) = stream.split();
        let mut answer = Vec::new();
        // At the same time: a gateway that has seen enough answers and closes while we still send.
        let exchange = async {
            let (_sent, _read) = tokio::join!(writing.write_all(bytes), reading.read_to_end(&mut answer));
        };
        ensure!(tokio::time::timeout(PATIENCE, exchange).await.is_ok(), "no end of the connection");
        Ok(answer)
    }

    /// The runtime's metrics.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        Ok(reqwest::get(format!("{}/metrics", self.process.url("runtime-metrics"))).await?.text().await?)
    }
}
