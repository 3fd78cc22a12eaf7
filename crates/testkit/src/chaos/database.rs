// SPDX-License-Identifier: Apache-2.0
//! PostgreSQL as a highly available installation runs it: a primary, a streaming standby
//! that follows through a link of its own, and per controller a link that leads to
//! whichever of the two is the primary, as a virtual address would. Everything that
//! breaks the database is here; [`super::faults`] says when.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::eventually::eventually_async;
use crate::link::{Link, Mode};
use crate::ports;
use crate::postgres::{PostgresOptions, PostgresServer, StopMode};

const DATABASE: &str = "test_0";
/// How long a standby may take to reconnect to its primary.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than the server's `max_connections`.
const TOO_MANY: usize = 300;
/// The start of a session of user `postgres`: length, protocol 3.0, parameters.
const STARTUP: &[u8] = b"\0\0\0\x29\0\x03\0\0user\0postgres\0database\0postgres\0\0";

const END_CONTROLLERS: &str =
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ferrogate'";

/// See the module.
pub struct Database {
    primary: Arc<PostgresServer>,
    standby: Option<Arc<PostgresServer>>,
    /// From the standby to its primary.
    replication: Link,
    /// One per controller.
    pub links: Vec<Link>,
    folder: Option<PathBuf>,
}

impl Database {
    /// A primary with an empty database, its standby, and a link for each controller. The
    /// servers' directories are made in this folder.
    ///
    /// # Errors
    /// When a server does not start.
    pub async fn start(controllers: usize, folder: Option<PathBuf>) -> anyhow::Result<Database> {
        let options = PostgresOptions { folder: folder.clone(), ..PostgresOptions::default() };
        let primary = blocking(move || {
            let primary = PostgresServer::start_with(&options)?;
            primary.create_database()?;
            Ok(primary)
        });
        let primary = Arc::new(primary.await.context("cannot start PostgreSQL")?);
        let mut links = Vec::new();
        for _ in 0..controllers {
            links.push(Link::between(ports::fixed()?, primary.port()).await?);
        }
        let replication = Link::between(ports::fixed()?, primary.port()).await?;
        let mut database = Database { primary, standby: None, replication, links, folder };
        database.add_standby().await?;
        Ok(database)
    }

    /// The URL through a controller's link.
    #[must_use]
    pub fn url(&self, controller: usize) -> String {
        format!("postgres://postgres@{}/{DATABASE}", self.links[controller].address())
    }

    /// Copies the primary into a new standby.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn add_standby(&mut self) -> anyhow::Result<()> {
        self.replication.lead_to(self.primary.port());
        self.replication.set(Mode::Pass);
        let (primary, port) = (Arc::clone(&self.primary), self.replication.address().port());
        let folder = self.folder.clone();
        let standby = blocking(move || primary.standby_through(port, folder.as_deref()));
        self.standby = Some(Arc::new(standby.await.context("cannot copy the primary")?));
        Ok(())
    }

    /// Stops the primary.
    ///
    /// # Errors
    /// When it does not stop.
    pub async fn stop(&self, mode: StopMode) -> anyhow::Result<()> {
        let primary = Arc::clone(&self.primary);
        blocking(move || primary.stop(mode)).await
    }

    /// Kills every process of the primary.
    ///
    /// # Errors
    /// When there is none.
    pub async fn kill(&self) -> anyhow::Result<()> {
        let primary = Arc::clone(&self.primary);
        blocking(move || primary.kill()).await
    }

    /// Starts the primary again.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_again(&self) -> anyhow::Result<()> {
        let primary = Arc::clone(&self.primary);
        blocking(move || primary.start_again()).await
    }

    /// Whether the primary answers.
    pub async fn answers(&self) -> bool {
        self.ask("SELECT 1").await.is_ok()
    }

    /// Runs statements on the primary.
    ///
    /// # Errors
    /// When it refuses them or does not answer.
    pub async fn ask(&self, sql: &'static str) -> anyhow::Result<String> {
        query(Arc::clone(&self.primary), sql).await
    }

    /// The standby hears of nothing any more.
    pub fn sever_standby(&self) {
        self.replication.set(Mode::Cut);
    }

    /// Waits until the standby follows; one that a fault has ended is replaced.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn ensure_standby(&mut self) -> anyhow::Result<()> {
        let following = eventually_async(PATIENCE, || async {
            let state = self.ask("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'").await;
            (state.ok()?.trim() == "1").then_some(())
        });
        if following.await.is_none() {
            self.standby = None;
            self.add_standby().await?;
        }
        Ok(())
    }

    /// The standby becomes the primary and every link leads to it; answers the last revision
    /// that it knows. The old primary must have stopped; its directory goes with it.
    ///
    /// # Errors
    /// When there is no standby or it cannot be promoted.
    pub async fn promote(&mut self) -> anyhow::Result<u64> {
        let standby = self.standby.take().context("there is a standby")?;
        let promoted = Arc::clone(&standby);
        blocking(move || promoted.promote()).await?;
        let last = query(Arc::clone(&standby), "SELECT max(revision) FROM gateways").await?;
        let old = std::mem::replace(&mut self.primary, standby);
        // Its end waits for a program, too.
        blocking(move || {
            drop(old);
            Ok(())
        })
        .await?;
        Ok(last.trim().parse()?)
    }

    /// Controllers reach the primary of now.
    pub fn redirect(&self) {
        for link in &self.links {
            link.lead_to(self.primary.port());
        }
    }

    /// Takes every connection the server has to give, those of the controllers included, until
    /// the answer is dropped.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn exhaust(&self) -> anyhow::Result<Vec<TcpStream>> {
        // Once the free ones are taken nobody is let in to end the others, so that session begins
        // first.
        let mut ending = self.session().await?;
        let mut taken = self.take_connections().await?;
        ending.write_all(&simple_query(END_CONTROLLERS)).await?;
        taken.extend(self.take_connections().await?);
        taken.push(ending);
        Ok(taken)
    }

    async fn take_connections(&self) -> anyhow::Result<Vec<TcpStream>> {
        let mut taken = Vec::new();
        for _ in 0..TOO_MANY {
            taken.push(self.session().await?);
        }
        Ok(taken)
    }

    /// Begins a session whose answers nobody reads.
    async fn session(&self) -> std::io::Result<TcpStream> {
        let mut session = TcpStream::connect((Ipv4Addr::LOCALHOST, self.primary.port())).await?;
        session.write_all(STARTUP).await?;
        Ok(session)
    }

    /// Holds the gateway's row for this many seconds.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn hold_lock(&self, seconds: f64) -> anyhow::Result<()> {
        let primary = Arc::clone(&self.primary);
        let hold = format!("BEGIN; SELECT 1 FROM gateways FOR UPDATE; SELECT pg_sleep({seconds}); COMMIT");
        blocking(move || primary.psql(DATABASE, &hold).map(drop)).await
    }
}

/// A statement in PostgreSQL's wire format: `Q`, the length of what follows, the text and a zero.
fn simple_query(sql: &str) -> Vec<u8> {
    let length = u32::try_from(sql.len() + 5).unwrap_or(u32::MAX);
    [b"Q", &length.to_be_bytes()[..], sql.as_bytes(), b"\0"].concat()
}

async fn query(server: Arc<PostgresServer>, sql: &'static str) -> anyhow::Result<String> {
    blocking(move || server.psql(DATABASE, sql)).await
}

/// Off the executor: every call to a server waits for a program.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    Ok(tokio::task::spawn_blocking(call).await??)
}
