// SPDX-License-Identifier: Apache-2.0
//! Real processes of the real binary: started on free ports, found by the listener file
//! each role writes, ended by signal. Everything a fault test does to a replica it does
//! here, by the process's own id.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, kill_process};
use tokio::process::{Child, Command};

use crate::eventually::eventually;

pub use rustix::process::Signal;

/// How long a process may take to write its listener file: a debug build on a busy machine included.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// The listeners of `standalone`, each by the name of its flag and of its line in the listener file.
const STANDALONE_LISTENERS: [&str; 9] = [
    "management",
    "admin",
    "metrics",
    "stream",
    "http",
    "https",
    "readiness",
    "runtime-admin",
    "runtime-metrics",
];

/// How to start one replica, kept so that it can be started again with the same identity.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The binary.
    pub binary: PathBuf,
    /// Its name in messages and its log file.
    pub name: String,
    /// The role and its flags; listeners should name port 0 on the first start.
    pub args: Vec<String>,
    /// Additional environment.
    pub env: Vec<(String, String)>,
    /// `--data-dir`.
    pub data_dir: PathBuf,
    /// The file that receives standard output and standard error.
    pub log: PathBuf,
}

/// A running replica. Dropping it kills it.
pub struct Process {
    spec: Spec,
    child: Child,
    listeners: BTreeMap<String, SocketAddr>,
}

impl Spec {
    /// `standalone` with one worker and these flags, every listener on a free port of loopback, the
    /// data in `root/data` and the log beside it.
    #[must_use]
    pub fn standalone(binary: &str, root: &Path, more: &[&str]) -> Spec {
        let mut args: Vec<String> = vec!["standalone".into(), "--workers".into(), "1".into()];
        for listener in STANDALONE_LISTENERS {
            args.extend([format!("--listen-{listener}"), "127.0.0.1:0".to_owned()]);
        }
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        Spec {
            binary: binary.into(),
            name: "standalone".to_owned(),
            args,
            env: Vec::new(),
            data_dir: root.join("data"),
            log: root.join("standalone.log"),
        }
    }

    /// Starts the process and waits until it says where it listens.
    ///
    /// # Errors
    /// When it exits or stays silent; the message carries the end of its log.
    pub async fn start(&self) -> anyhow::Result<Process> {
        std::fs::create_dir_all(&self.data_dir)?;
        let listener_file = self.data_dir.join("listeners.json");
        if listener_file.exists() {
            std::fs::remove_file(&listener_file)?;
        }
        let log = std::fs::File::options().create(true).append(true).open(&self.log)?;
        let mut child = Command::new(&self.binary)
            .args(&self.args)
            .arg("--data-dir")
            .arg(&self.data_dir)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.binary.display()))?;
        let found = eventually(START_DEADLINE, || {
            if let Ok(Some(status)) = child.try_wait() {
                return Some(Err(status));
            }
            read_listeners(&listener_file).map(Ok)
        })
        .await;
        match found {
            Some(Ok(listeners)) => Ok(Process { spec: self.clone(), child, listeners }),
            Some(Err(status)) => bail!("{} exited with {status}:\n{}", self.name, self.log_tail()),
            None => bail!("{} did not start listening:\n{}", self.name, self.log_tail()),
        }
    }

    /// The same replica on fixed ports outside the range from which the system takes the ports of
    /// outgoing connections: it finds them free however often it is killed and started again.
    ///
    /// # Errors
    /// When there are no such ports.
    pub fn on_fixed_ports(mut self) -> anyhow::Result<Spec> {
        for value in self.args.iter_mut().filter(|arg| *arg == "127.0.0.1:0") {
            *value = format!("127.0.0.1:{}", crate::ports::fixed()?);
        }
        Ok(self)
    }

    fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(20);
        lines.get(from..).unwrap_or_default().join("\n")
    }
}

impl Process {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Where its listener of this name is bound.
    ///
    /// # Panics
    /// When the role has no such listener: a mistake in the test.
    #[must_use]
    pub fn address(&self, listener: &str) -> SocketAddr {
        match self.listeners.get(listener) {
            Some(address) => *address,
            None => {
                unreachable!("{} has no listener '{listener}', only {:?}", self.spec.name, self.listeners)
            }
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Kilobytes of memory that it has resident, while it runs.
    #[must_use]
    pub fn resident(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse().ok()
    }

    /// `http://` and the address of a listener.
    #[must_use]
    pub fn url(&self, listener: &str) -> String {
        format!("http://{}", self.address(listener))
    }

    /// The spec it was started from, with port 0 replaced by the ports it got, so that a
    /// restart comes back where its peers expect it.
    #[must_use]
    pub fn pinned_spec(&self) -> Spec {
        let mut spec = self.spec.clone();
        for (name, address) in &self.listeners {
            let flag = format!("--listen-{name}");
            let value = spec.args.iter().position(|arg| *arg == flag).map(|index| index + 1);
            if let Some(value) = value.and_then(|index| spec.args.get_mut(index)) {
                *value = address.to_string();
            }
        }
        spec
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone already.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        kill_process(id.context("the process has ended")?, signal)?;
        Ok(())
    }

    /// `kill -9`, and waits until the process is gone.
    ///
    /// # Errors
    /// When it could not be waited for.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("cannot kill")
    }

    /// SIGTERM, and waits for it to end by itself.
    ///
    /// # Errors
    /// When it does not end within the deadline.
    pub async fn terminate(&mut self, deadline: Duration) -> anyhow::Result<std::process::ExitStatus> {
        self.signal(Signal::TERM)?;
        Ok(tokio::time::timeout(deadline, self.child.wait()).await.context("did not end on SIGTERM")??)
    }
}

fn read_listeners(file: &Path) -> Option<BTreeMap<String, SocketAddr>> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}
