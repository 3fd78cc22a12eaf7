// SPDX-License-Identifier: Apache-2.0
//! The gateway that is beaten: PostgreSQL with its standby, three controllers and four
//! runtimes in two zones, two backends and HAProxy in front, with a link that can be
//! broken wherever a cable would be. It builds and restarts; what breaks is decided by
//! [`super::schedule`] and carried out by [`super::faults`].

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;

use super::balancer::{Balancer, Member};
use super::database::Database;
use super::disk::SmallDisk;
use super::schedule::{Kind, Place, Role};
use crate::backend::Backend;
use crate::cluster::{Roles, write_sealing_key};
use crate::link::Link;
use crate::management::Management;
use crate::ports;
use crate::process::{Process, Spec};

/// Zone of each controller.
pub const CONTROLLERS: [&str; 3] = ["a", "b", "a"];
/// Zone of each runtime.
pub const RUNTIMES: [&str; 4] = ["a", "a", "b", "b"];
/// Whose data directory lies on a small disk of its own.
pub const ON_SMALL_DISK: usize = 3;
/// Whose clock can be set, of each role: the last.
const READY: Duration = Duration::from_secs(60);
const RUNTIME_DISK: &str = "24m";
/// Room for the primary, its successor and the copy of that, and for their logs.
const DATABASE_DISK: &str = "1g";
const FAKETIME: &[&str] = &["x86_64-linux-gnu", "aarch64-linux-gnu"];

/// One replica, whichever process it is at the time.
pub struct Replica {
    /// Its name.
    pub name: String,
    process: Process,
    spec: Spec,
    /// What others may know of it.
    pub view: View,
    /// The file that says how wrong its clock is, if it can be.
    clock: Option<PathBuf>,
}

/// What stays true of a replica when its process is another.
#[derive(Clone)]
pub struct View {
    /// Its name.
    pub name: String,
    /// The process id.
    pub pid: Arc<AtomicU32>,
    /// Counts processes.
    pub incarnation: Arc<AtomicU64>,
    /// The base URL of where its state is told: a controller's management API, a runtime's admin.
    pub state: String,
    /// The base URL of a runtime's traffic, not through a link.
    pub traffic: Option<String>,
}

/// See the module.
pub struct World {
    /// PostgreSQL.
    pub database: Database,
    /// In the order of [`CONTROLLERS`].
    pub controllers: Vec<Replica>,
    /// In the order of [`RUNTIMES`].
    pub runtimes: Vec<Replica>,
    /// Per runtime, one to each controller.
    pub streams: Vec<Vec<Link>>,
    /// Per runtime, the balancer's to its traffic and to its readiness.
    pub fronts: Vec<[Link; 2]>,
    /// HAProxy.
    pub balancer: Balancer,
    /// What the routes point at.
    pub backends: Vec<Backend>,
    /// Under the data directory of [`ON_SMALL_DISK`].
    pub runtime_disk: Option<SmallDisk>,
    /// Under PostgreSQL.
    pub database_disk: Option<SmallDisk>,
    _database_folder: tempfile::TempDir,
}

impl World {
    /// Starts everything below this folder and waits until every runtime is ready.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn start(binary: &Path, root: &Path) -> anyhow::Result<World> {
        let token = root.join("join-token");
        std::fs::write(&token, "a-token-for-this-run-only")?;
        write_sealing_key(root)?;
        let folder = tempfile::Builder::new().prefix("ferrogate-chaos-").tempdir()?;
        // PostgreSQL runs as another user than root.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777))?;
        let database_disk = SmallDisk::mount(folder.path(), DATABASE_DISK);
        let database = Database::start(CONTROLLERS.len(), Some(folder.path().to_owned())).await?;
        let roles = Roles { binary, root, token: &token };
        let mut controllers = Vec::new();
        for (index, zone) in CONTROLLERS.iter().enumerate() {
            let spec = roles.controller(index, zone, &database.url(index)).on_fixed_ports()?;
            controllers.push(Replica::start(spec, index + 1 == CONTROLLERS.len(), "management").await?);
        }
        let small = root.join(format!("runtime-{}", ON_SMALL_DISK + 1));
        std::fs::create_dir_all(&small)?;
        let runtime_disk = SmallDisk::mount(&small, RUNTIME_DISK);
        let (mut runtimes, mut streams, mut fronts) = (Vec::new(), Vec::new(), Vec::new());
        for (index, zone) in RUNTIMES.iter().enumerate() {
            let mut links = Vec::new();
            for controller in &controllers {
                links.push(Link::between(ports::fixed()?, controller.address("stream").port()).await?);
            }
            let urls: Vec<String> = links.iter().map(|link| format!("http://{}", link.address())).collect();
            let mut spec = roles.runtime(index, zone, &urls).on_fixed_ports()?;
            // The log must not compete for the little room there.
            spec.log = root.join(format!("{}.log", spec.name));
            let runtime = Replica::start(spec, index + 1 == RUNTIMES.len(), "admin").await?;
            let mut front = Vec::new();
            for listener in ["http", "readiness"] {
                front.push(Link::between(ports::fixed()?, runtime.address(listener).port()).await?);
            }
            fronts.push(front.try_into().ok().context("two links")?);
            streams.push(links);
            runtimes.push(runtime);
        }
        let members: Vec<Member> = runtimes.iter().zip(&fronts).map(member).collect();
        let balancer = Balancer::start(root, &members).await?;
        let backends = vec![Backend::start().await?, Backend::start().await?];
        let world = World {
            database,
            controllers,
            runtimes,
            streams,
            fronts,
            balancer,
            backends,
            runtime_disk,
            database_disk,
            _database_folder: folder,
        };
        for runtime in &world.runtimes {
            runtime.wait_ready(READY).await?;
        }
        Ok(world)
    }

    /// A client of each controller.
    #[must_use]
    pub fn managements(&self, deadline: Duration) -> Vec<Management> {
        let client = |one: &Replica| Management::new(one.view.state.clone()).within(deadline);
        self.controllers.iter().map(client).collect()
    }

    /// Every replica.
    pub fn replicas(&self) -> impl Iterator<Item = &Replica> {
        self.controllers.iter().chain(&self.runtimes)
    }

    /// The replica of a role.
    pub fn replica(&mut self, role: Role, index: usize) -> &mut Replica {
        match role {
            Role::Controller => &mut self.controllers[index],
            Role::Runtime => &mut self.runtimes[index],
        }
    }

    /// The links of a kind that a replica has.
    #[must_use]
    pub fn links(&self, place: Place, victim: usize) -> &[Link] {
        match place {
            Place::Database => std::slice::from_ref(&self.database.links[victim]),
            Place::Stream => &self.streams[victim],
            Place::Balancer => &self.fronts[victim],
        }
    }

    /// Why a fault cannot be carried out here.
    #[must_use]
    pub fn lacks(&self, kind: Kind) -> Option<&'static str> {
        match kind {
            Kind::RuntimeDiskFull if self.runtime_disk.is_none() => Some("mounting a small disk needs root"),
            Kind::DatabaseDiskFull if self.database_disk.is_none() => {
                Some("mounting a small disk needs root")
            }
            Kind::Clock(_) if self.runtimes.iter().all(|one| one.clock.is_none()) => {
                Some("libfaketime is not installed; Debian has it as package faketime")
            }
            _ => None,
        }
    }
}

impl Replica {
    async fn start(mut spec: Spec, settable_clock: bool, state: &str) -> anyhow::Result<Replica> {
        let clock = if settable_clock { clock_file(&mut spec)? } else { None };
        let process = spec.start().await?;
        let role_is_runtime = state == "admin";
        let view = View {
            name: spec.name.clone(),
            pid: Arc::new(AtomicU32::new(process.id().unwrap_or_default())),
            incarnation: Arc::default(),
            state: process.url(state),
            traffic: role_is_runtime.then(|| process.url("http")),
        };
        Ok(Replica { name: spec.name.clone(), process, spec, view, clock })
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    fn address(&self, listener: &str) -> SocketAddr {
        self.process.address(listener)
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// When it could not be waited for.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.view.incarnation.fetch_add(1, Ordering::Relaxed);
        self.process.kill().await
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn terminate(&mut self, deadline: Duration) -> anyhow::Result<std::process::ExitStatus> {
        let ended = self.process.terminate(deadline).await;
        self.view.incarnation.fetch_add(1, Ordering::Relaxed);
        ended
    }

    /// Starts it again where it was, its disk as it is.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        self.process = self.spec.start().await?;
        self.view.pid.store(self.process.id().unwrap_or_default(), Ordering::Relaxed);
        Ok(())
    }

    /// How it ended, when it did so without being asked.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.process.ended()
    }

    /// Waits until a runtime wants traffic.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn wait_ready(&self, deadline: Duration) -> anyhow::Result<()> {
        Management::wait_ready(&self.process.url("readiness"), deadline).await
    }

    /// Sets its wall clock off by this much, in libfaketime's words such as `+1h`.
    ///
    /// # Errors
    /// When it has no clock that can be set.
    pub fn set_clock(&self, offset: &str) -> anyhow::Result<()> {
        let file = self.clock.as_ref().context("its clock can be set")?;
        // Read at any moment, so replaced and not rewritten.
        let fresh = file.with_extension("new");
        std::fs::write(&fresh, offset)?;
        Ok(std::fs::rename(fresh, file)?)
    }
}

/// Has the process take its wall clock from a file. Its monotonic clock stays right, as it
/// does when an operator or a time server sets the clock.
fn clock_file(spec: &mut Spec) -> anyhow::Result<Option<PathBuf>> {
    let places = FAKETIME.iter().map(|place| format!("/usr/lib/{place}/faketime/libfaketimeMT.so.1"));
    let Some(library) = places.into_iter().find(|place| Path::new(place).exists()) else { return Ok(None) };
    let file = spec.log.with_extension("clock");
    std::fs::create_dir_all(file.parent().context("the log has a folder")?)?;
    std::fs::write(&file, "+0")?;
    for (name, value) in [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", &file.display().to_string()),
        ("FAKETIME_CACHE_DURATION", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
        ("NO_FAKE_STAT", "1"),
    ] {
        spec.env.push((name.to_owned(), value.to_owned()));
    }
    Ok(Some(file))
}

fn member((runtime, front): (&Replica, &[Link; 2])) -> Member {
    let [traffic, readiness] = front;
    Member { name: runtime.name.clone(), traffic: traffic.address(), readiness: readiness.address() }
}
