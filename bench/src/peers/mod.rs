// SPDX-License-Identifier: Apache-2.0
//! The proxies: each a plain keep-alive HTTP/1.1 proxy to the same backend on one core, with
//! its access log off, and otherwise as its makers ship it. Only Ferrogate also routes among
//! ten thousand APIs and runs policies. A peer lives as long as its handle.

mod envoy;
pub mod ferrogate;
mod haproxy;
mod nginx;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde::Serialize;

use crate::process::{self, Pinned};
use crate::scenario::APIS;

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Kind {
    /// nginx.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// Envoy.
    Envoy,
    /// Envoy that asks a policy engine over a Unix socket.
    EnvoyExtProc,
    /// Ferrogate, routing and `set-headers` both ways.
    Ferrogate,
    /// Ferrogate with a token, rate limit and CORS besides.
    FerrogateHeavy,
}

/// A running proxy.
pub struct Peer {
    /// Plain HTTP.
    pub http: SocketAddr,
    /// TLS.
    pub https: SocketAddr,
    /// Sent with every request as `Authorization: Bearer`.
    pub token: Option<String>,
    /// What its requests cost: the proxy itself, and a policy engine beside it.
    measured: Vec<Pinned>,
    /// What it needs and nobody counts.
    _beside: Vec<Pinned>,
}

/// What every peer is started with.
pub struct Ground<'a> {
    /// The proxy's core.
    pub core: usize,
    /// The core of everything else.
    pub other_core: usize,
    /// The backend.
    pub backend: SocketAddr,
    /// A folder of the run's own.
    pub dir: &'a Path,
    /// The gateway's binary.
    pub ferrogate: &'a Path,
    /// Envoy's binary.
    pub envoy: Option<&'a Path>,
    /// Certificate and key of the TLS listeners.
    pub certificate: &'a Path,
    /// As `certificate`.
    pub key: &'a Path,
}

impl Kind {
    /// The name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Nginx => "nginx",
            Kind::Haproxy => "HAProxy",
            Kind::Envoy => "Envoy",
            Kind::EnvoyExtProc => "Envoy + external processor",
            Kind::Ferrogate => "Ferrogate (10,000 APIs, set-headers)",
            Kind::FerrogateHeavy => "Ferrogate (token, rate limit and CORS besides)",
        }
    }

    /// Starts it.
    pub async fn start(self, ground: &Ground<'_>) -> anyhow::Result<Peer> {
        let dir = ground.dir.join(format!("{self:?}"));
        std::fs::create_dir_all(&dir)?;
        let started = match self {
            Kind::Nginx => nginx::start(ground, &dir).await,
            Kind::Haproxy => haproxy::start(ground, &dir).await,
            Kind::Envoy => envoy::start(ground, &dir, false).await,
            Kind::EnvoyExtProc => envoy::start(ground, &dir, true).await,
            Kind::Ferrogate | Kind::FerrogateHeavy => {
                let heavy = self == Kind::FerrogateHeavy;
                ferrogate::start(ground, &dir, &ferrogate::Plan { apis: APIS, heavy, under: &[] }).await
            }
        };
        started.with_context(|| format!("{} does not start; its log is in {}", self.name(), dir.display()))
    }
}

impl Peer {
    /// Asks what is measured to end in its own way.
    pub async fn end(self, limit: std::time::Duration) -> anyhow::Result<()> {
        for process in self.measured {
            process.end(limit).await?;
        }
        Ok(())
    }

    /// Processor time so far, in nanoseconds.
    pub fn cpu_nanos(&self) -> anyhow::Result<u64> {
        self.measured.iter().map(Pinned::cpu_nanos).sum()
    }

    /// Memory, in KiB.
    pub fn memory_kib(&self) -> anyhow::Result<u64> {
        self.measured.iter().map(Pinned::memory_kib).sum()
    }
}

/// A program of the system, or which package has it.
fn program(name: &str, package: &str) -> anyhow::Result<PathBuf> {
    let places = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];
    let found = places.iter().map(|place| Path::new(place).join(name)).find(|path| path.is_file());
    found.with_context(|| format!("{name} is missing: install {package}"))
}

/// Two free ports. Taken by nobody else in the moment between here and the proxy's start,
/// or the start fails and says so.
fn free_ports() -> anyhow::Result<[SocketAddr; 2]> {
    let any = || std::net::TcpListener::bind("127.0.0.1:0");
    let (first, second) = (any()?, any()?);
    Ok([first.local_addr()?, second.local_addr()?])
}

/// What every proxy proxies to, as long as its process is held.
pub async fn backend(core: usize, dir: &Path) -> anyhow::Result<(SocketAddr, Pinned)> {
    let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let args = ["backend".to_owned(), address.to_string()];
    let mut backend = Pinned::start(core, &std::env::current_exe()?, &args, &dir.join("backend.log"))?;
    backend.listening(address).await?;
    Ok((address, backend))
}

/// A certificate and its key for `localhost` and 127.0.0.1.
pub async fn certificate(core: usize, dir: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
    let (certificate, key) = (dir.join("server.crt"), dir.join("server.key"));
    let args = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "-out",
    ];
    let mut args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    args.extend([certificate.display().to_string(), "-keyout".to_owned(), key.display().to_string()]);
    process::output(core, "openssl", &args, std::time::Duration::from_secs(30)).await?;
    ensure!(certificate.is_file() && key.is_file(), "openssl made no certificate");
    // HAProxy reads both from one file.
    let both = [std::fs::read(&certificate)?, std::fs::read(&key)?].concat();
    std::fs::write(dir.join("server.pem"), both)?;
    Ok((certificate, key))
}
