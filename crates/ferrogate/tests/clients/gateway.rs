// SPDX-License-Identifier: Apache-2.0
//! The built binary as a standalone gateway, configured by files of `examples/` and deployed to
//! with its own `apply` verb: what a test sees is what somebody gets who copies the example.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use ferrogate_testkit::process::{Process, Spec};
use tempfile::TempDir;

use crate::tools::run;

pub const BINARY: &str = env!("CARGO_BIN_EXE_ferrogate");

/// Where the examples' upstreams are, as they stand in the files.
pub const FIRST: &str = "http://127.0.0.1:8089";
pub const SECOND: &str = "http://localhost:8089";

pub struct Gateway {
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub process: Process,
    root: TempDir,
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name)
}

/// The path of a configuration among the examples, as it is.
pub fn configuration(name: &str) -> String {
    example(name).display().to_string()
}

/// An example's text with what the test has other words for; each must stand in it.
pub fn edited(name: &str, edits: &[(&str, &str)]) -> anyhow::Result<String> {
    let mut text = std::fs::read_to_string(example(name))?;
    for (from, to) in edits {
        ensure!(text.contains(from), "{name} has no {from:?}");
        text = text.replace(from, to);
    }
    Ok(text)
}

/// The certificates that stand in an example, exactly as they stand there.
pub fn certificates(name: &str) -> anyhow::Result<Vec<String>> {
    const END: &str = "-----END CERTIFICATE-----";
    let text = edited(name, &[])?;
    let starts = text.match_indices("-----BEGIN CERTIFICATE-----");
    let blocks = starts.filter_map(|(at, _)| Some(text.get(at..)?.split_once(END)?.0.to_owned() + END));
    Ok(blocks.collect())
}

/// A certificate as it must stand in an example.
pub fn block(pem: &str) -> String {
    pem.trim().lines().map(str::trim).collect::<Vec<_>>().join("\n    ")
}

impl Gateway {
    /// Starts it with these flags.
    pub async fn start(flags: &[&str]) -> anyhow::Result<Gateway> {
        Gateway::start_in(tempfile::tempdir()?, flags).await
    }

    async fn start_in(root: TempDir, flags: &[&str]) -> anyhow::Result<Gateway> {
        rustls::crypto::ring::default_provider().install_default().ok();
        let process = Spec::standalone(BINARY, root.path(), flags).start().await?;
        Ok(Gateway { http: process.address("http"), https: process.address("https"), process, root })
    }

    /// Starts it with a configuration of the examples.
    pub async fn configured(name: &str) -> anyhow::Result<Gateway> {
        Gateway::start(&["--config", &configuration(name)]).await
    }

    /// Starts it with a configuration that is one of the examples after edits.
    pub async fn with_configuration(text: &str) -> anyhow::Result<Gateway> {
        let root = tempfile::tempdir()?;
        let file = root.path().join("edited.toml");
        std::fs::write(&file, text)?;
        Gateway::start_in(root, &["--config", &file.display().to_string()]).await
    }

    /// Applies an example and waits until it is served.
    pub async fn apply(&self, name: &str, edits: &[(&str, &str)]) -> anyhow::Result<()> {
        self.apply_text(name, &edited(name, edits)?).await
    }

    /// Applies the documents of this text.
    pub async fn apply_text(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let file = self.root.path().join(name).display().to_string();
        std::fs::write(&file, text)?;
        let data = self.root.path().join("data").display().to_string();
        let args = ["apply", "--strict", "--wait", "-f", &file, "--data-dir", &data];
        let told = run(BINARY, &args).await?;
        ensure!(told.success, "{name}: {}", told.all());
        Ok(())
    }

    /// A URL of the plain listener.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    /// A URL of the TLS listener under this name, and where curl finds it (`--resolve`).
    pub fn named(&self, host: &str, path: &str) -> (String, String) {
        let port = self.https.port();
        (format!("https://{host}:{port}{path}"), format!("{host}:{port}:127.0.0.1"))
    }

    /// What the runtime counted under this name, labels included.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let text = reqwest::get(format!("{}/metrics", self.process.url("runtime-metrics"))).await?;
        let text = text.text().await?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("no {name} in\n{text}"))?.trim().parse()?)
    }
}
