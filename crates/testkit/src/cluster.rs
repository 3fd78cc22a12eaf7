// SPDX-License-Identifier: Apache-2.0
//! A whole gateway of real processes on loopback: PostgreSQL, controllers in zones,
//! runtimes that know all of them, and one backend. Tests and measurements build one,
//! break it, and ask it questions through [`crate::management::Management`].

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use crate::backend::Backend;
use crate::management::Management;
use crate::postgres::PostgresServer;
use crate::process::{Process, Spec};

/// The admin password of every test cluster: nothing listens beyond loopback.
pub const PASSWORD: &str = "correct-horse-battery";

/// What every runtime of a test cluster presents to its controllers.
pub const JOIN_TOKEN: &str = "a-token-for-this-cluster-only";

/// What to build.
pub struct Shape<'a> {
    /// The ferrogate binary.
    pub binary: &'a Path,
    /// Zone of each controller.
    pub controllers: &'a [&'a str],
    /// Zone of each runtime.
    pub runtimes: &'a [&'a str],
}

/// The file of the key that all controllers of a gateway seal with, below its root.
const SEALING_KEY: &str = "sealing.key";

/// A running gateway.
pub struct Cluster {
    /// The database server, to be stopped and started.
    pub postgres: PostgresServer,
    /// Its database that the controllers share.
    pub database: String,
    /// In the order of the shape.
    pub controllers: Vec<Process>,
    /// In the order of the shape.
    pub runtimes: Vec<Process>,
    /// What the routes point at.
    pub backend: Backend,
    root: tempfile::TempDir,
}

impl Cluster {
    /// Starts everything and waits until every runtime is ready.
    ///
    /// # Errors
    /// When a part does not start; the message carries its log.
    pub async fn start(shape: Shape<'_>) -> anyhow::Result<Cluster> {
        let root = tempfile::tempdir()?;
        let postgres = PostgresServer::start().context("cannot start PostgreSQL")?;
        let database = postgres.create_database().context("cannot create a database")?;
        let url = postgres.url(&database);
        let backend = Backend::start().await?;
        let token = root.path().join("join-token");
        std::fs::write(&token, JOIN_TOKEN)?;
        write_sealing_key(root.path())?;
        let mut controllers = Vec::new();
        let roles = Roles { binary: shape.binary, root: root.path(), token: &token };
        for (index, zone) in shape.controllers.iter().enumerate() {
            controllers.push(roles.controller(index, zone, &url).start().await?);
        }
        let streams: Vec<String> = controllers.iter().map(|controller| controller.url("stream")).collect();
        let mut runtimes = Vec::new();
        for (index, zone) in shape.runtimes.iter().enumerate() {
            runtimes.push(roles.runtime(index, zone, &streams).start().await?);
        }
        let cluster = Cluster { postgres, database, controllers, runtimes, backend, root };
        for runtime in &cluster.runtimes {
            Management::wait_ready(&runtime.url("readiness"), Duration::from_secs(60)).await?;
        }
        Ok(cluster)
    }

    /// A client of one controller.
    #[must_use]
    pub fn management(&self, controller: usize) -> Management {
        Management::new(self.controllers[controller].url("management"))
    }

    /// The base URL of a runtime's HTTP listener.
    #[must_use]
    pub fn traffic(&self, runtime: usize) -> String {
        self.runtimes[runtime].url("http")
    }

    /// Kills a controller and starts it again on the same addresses.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn restart_controller(&mut self, index: usize) -> anyhow::Result<()> {
        restart(&mut self.controllers[index]).await
    }

    /// Kills a runtime and starts it again on the same addresses, its disk as it was.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn restart_runtime(&mut self, index: usize) -> anyhow::Result<()> {
        restart(&mut self.runtimes[index]).await
    }

    /// The folder that holds every replica's data directory and log.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Every file below this folder of the root.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn files(&self, below: &str) -> io::Result<Vec<PathBuf>> {
        let (mut folders, mut files) = (vec![self.root().join(below)], Vec::new());
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder)? {
                let path = entry?.path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        Ok(files)
    }
}

async fn restart(process: &mut Process) -> anyhow::Result<()> {
    let spec = process.pinned_spec();
    process.kill().await?;
    *process = spec.start().await?;
    Ok(())
}

/// Makes the key that the gateway's controllers seal with.
pub(crate) fn write_sealing_key(root: &Path) -> std::io::Result<()> {
    std::fs::write(root.join(SEALING_KEY), [7; 32])
}

/// How replicas of one gateway are started: what all of them share.
pub(crate) struct Roles<'a> {
    pub binary: &'a Path,
    /// Each replica's data directory and log are below it, under its name.
    pub root: &'a Path,
    pub token: &'a Path,
}

impl Roles<'_> {
    /// The controller of this index, on free ports.
    pub fn controller(&self, index: usize, zone: &str, database: &str) -> Spec {
        let name = format!("controller-{}", index + 1);
        let mut args =
            strings(&["controller", "--replica-id", &name, "--zone", zone, "--database-url", database]);
        let key = self.root.join(SEALING_KEY).display().to_string();
        args.extend(strings(&["--encryption-key-file", &key]));
        self.complete(&mut args, &["management", "admin", "metrics", "stream"]);
        self.spec(name, args)
    }

    /// The runtime of this index, on free ports, with these controllers' streams.
    pub fn runtime(&self, index: usize, zone: &str, streams: &[String]) -> Spec {
        let name = format!("runtime-{}", index + 1);
        let mut args = strings(&["runtime", "--runtime-id", &name, "--zone", zone, "--workers", "1"]);
        for url in streams {
            args.extend(strings(&["--controller", url]));
        }
        self.complete(&mut args, &["http", "https", "admin", "metrics", "readiness"]);
        self.spec(name, args)
    }

    fn complete(&self, args: &mut Vec<String>, listeners: &[&str]) {
        args.extend(strings(&["--join-token-file", &self.token.display().to_string()]));
        for listener in listeners {
            args.extend(strings(&[&format!("--listen-{listener}"), "127.0.0.1:0"]));
        }
    }

    fn spec(&self, name: String, args: Vec<String>) -> Spec {
        let env = vec![("FERROGATE_ADMIN_PASSWORD".to_owned(), PASSWORD.to_owned())];
        let data_dir = self.root.join(&name);
        Spec { binary: self.binary.to_owned(), log: data_dir.join("process.log"), data_dir, name, args, env }
    }
}

fn strings(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}
