// SPDX-License-Identifier: Apache-2.0
//! Processes pinned to a core, and what they cost: processor time and memory, read from the
//! kernel for a process with all its threads and children. Every process is ended when its
//! handle is dropped.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::{Instant, sleep};

const START_DEADLINE: Duration = Duration::from_secs(60);
/// How often a starting process is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A running process.
pub struct Pinned {
    name: String,
    child: Child,
}

impl Pinned {
    /// Starts `program` on one core, its output in a file of its own.
    pub fn start(core: usize, program: &Path, args: &[String], log: &Path) -> anyhow::Result<Pinned> {
        let name = program.display().to_string();
        let output = std::fs::File::create(log).with_context(|| log.display().to_string())?;
        let child = Command::new("taskset")
            .args(["-c", &core.to_string(), &name])
            .args(args)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Pinned { name, child })
    }

    /// Waits until something accepts connections at this address.
    pub async fn listening(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        while tokio::net::TcpStream::connect(address).await.is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status} before it listened on {address}", self.name);
            }
            if Instant::now() > deadline {
                bail!("{} does not listen on {address}", self.name);
            }
            sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Asks the process to end in its own way, and waits until it has.
    pub async fn end(mut self, limit: Duration) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let pid = pid.with_context(|| format!("{} has no process id", self.name))?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let deadline = Instant::now() + limit;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("{} does not end", self.name);
            }
            sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Processor time so far, of all its threads and children, in nanoseconds.
    pub fn cpu_nanos(&self) -> anyhow::Result<u64> {
        let mut total = 0;
        for pid in self.family()? {
            let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { continue };
            for task in tasks.flatten() {
                // A thread may end between the listing and the look.
                let stat = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
                total += stat.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or(0);
            }
        }
        Ok(total)
    }

    /// Memory, shared pages counted by share, in KiB.
    pub fn memory_kib(&self) -> anyhow::Result<u64> {
        let mut total = 0;
        for pid in self.family()? {
            let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
            total += line
                .and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
                .unwrap_or(0);
        }
        Ok(total)
    }

    /// The process and all below it.
    fn family(&self) -> anyhow::Result<Vec<u32>> {
        let mut family = vec![self.child.id()];
        let mut parents = Vec::new();
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            // The parent's id follows the state, after the name in parentheses.
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let parent =
                stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse::<u32>().ok());
            parents.extend(parent.map(|parent| (pid, parent)));
        }
        let mut next = 0;
        while let Some(parent) = family.get(next).copied() {
            family.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
            next += 1;
        }
        Ok(family)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Children first: a master that is gone cannot end its workers.
        for pid in self.family().unwrap_or_default().into_iter().rev() {
            let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else {
                continue;
            };
            let ended = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            if let Err(error) = ended
                && error != rustix::io::Errno::SRCH
            {
                eprintln!("note: {} could not be ended: {error}", self.name);
            }
        }
        drop(self.child.wait());
    }
}

/// Allows this process and its children as many open files as the system does.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if setrlimit(Resource::Nofile, raised).is_err() {
        eprintln!("note: the limit of open files stays at {:?}", limit.current);
    }
}

/// Runs a program to its end on one core and gives its standard output.
pub async fn output(core: usize, program: &str, args: &[String], limit: Duration) -> anyhow::Result<String> {
    let run = tokio::process::Command::new("taskset")
        .args(["-c", &core.to_string(), program])
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output =
        tokio::time::timeout(limit, run).await.with_context(|| format!("{program} does not end"))??;
    if !output.status.success() {
        bail!("{program} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
