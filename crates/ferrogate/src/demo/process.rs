// SPDX-License-Identifier: Apache-2.0
//! Child processes of this very binary. Each takes free ports at its first start and
//! keeps them when it is started again, so that its peers find it where it was. A child
//! dies with the demo, unless the demo itself is killed with SIGKILL.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::process::{Child, Command};

use crate::roles::LISTENERS_FILE;

const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const START_DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);
/// Lines of a log that are shown when its process does not start.
const TAIL: usize = 15;

/// A process that can be killed and started again.
pub struct Process {
    /// Its name, and its folder's.
    pub name: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    folder: PathBuf,
    child: Option<Child>,
    listeners: BTreeMap<String, SocketAddr>,
}

impl Process {
    /// Starts a role with its data directory below `root`, each of these listeners on a free port.
    pub async fn start(
        root: &Path,
        name: &str,
        arguments: Vec<String>,
        listeners: &[&str],
        environment: Vec<(String, String)>,
    ) -> anyhow::Result<Self> {
        let folder = root.join(name);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut process = Self {
            name: name.to_owned(),
            arguments,
            environment,
            folder,
            child: None,
            listeners: listeners.iter().map(|listener| ((*listener).to_owned(), ANY_PORT)).collect(),
        };
        process.start_again().await?;
        Ok(process)
    }

    /// Starts it where it was.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        let file = self.folder.join(LISTENERS_FILE);
        // Its appearance says that the process is up, so the last start's must go first.
        std::fs::remove_file(&file).ok();
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join("log"))?;
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut child = Command::new(program)
            .args(&self.arguments)
            .args(self.listeners.iter().flat_map(|(name, at)| [format!("--listen-{name}"), at.to_string()]))
            .arg("--data-dir")
            .arg(&self.folder)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                bail!("{} ended with {status}:\n{}", self.name, self.tail());
            }
            if let Some(listeners) = read(&file) {
                self.listeners = listeners;
                self.child = Some(child);
                return Ok(());
            }
            if began.elapsed() > START_DEADLINE {
                bail!("{} does not listen:\n{}", self.name, self.tail());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// `kill -9`.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().with_context(|| format!("{} does not run", self.name))?;
        child.kill().await.with_context(|| format!("cannot kill {}", self.name))
    }

    /// The base URL of one of its listeners.
    pub fn url(&self, listener: &str) -> anyhow::Result<String> {
        let address = self.listeners.get(listener);
        address.map(|at| format!("http://{at}")).with_context(|| format!("{} has no {listener}", self.name))
    }

    fn tail(&self) -> String {
        let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default().join("\n")
    }
}

fn read(file: &Path) -> Option<BTreeMap<String, SocketAddr>> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}
