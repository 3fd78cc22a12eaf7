// SPDX-License-Identifier: Apache-2.0
//! Throw-away PostgreSQL servers, to be stopped, killed, copied and promoted. Each has a
//! directory of its own and listens on loopback only. A watchdog process stops the server
//! and removes the directory when this process ends, however it ends: tests that are
//! killed leave nothing behind. Every call blocks until it is done. Compiled into the
//! tests of `ferrogate-store` by path as well, so it uses nothing of the workspace.

use std::fs::Permissions;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Where distributions put the versions they package side by side.
const PACKAGED: &str = "/usr/lib/postgresql";

/// The oldest version the store supports.
const OLDEST: u32 = 14;

/// How long to try to start a server whose predecessor may still be dying.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// How long the processes of a killed server may take to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(30);

/// Stops the server and removes its directory once its standard input ends, that is when
/// the process that started it is gone. Signals meant for that process do not stop it.
const WATCHDOG: &str = "trap '' INT TERM HUP; cat >/dev/null; \"$@\"; rm -rf \"$FERROGATE_TEST_HOME\"";

/// One server.
#[derive(Debug)]
pub struct PostgresServer {
    binaries: PathBuf,
    /// Whom the server runs as, when we are root, which it refuses to run as.
    user: Option<User>,
    home: PathBuf,
    port: u16,
    databases: AtomicU32,
    watchdog: Child,
}

/// How to start one.
#[derive(Clone, Debug, Default)]
pub struct PostgresOptions {
    /// The directory of `initdb` and the others; by default the newest one packaged, then `PATH`.
    pub binaries: Option<PathBuf>,
    /// Settings beyond the defaults, such as `("fsync", "off")`.
    pub settings: Vec<(String, String)>,
    /// The folder in which its directory is made; by default that for temporary files.
    pub folder: Option<PathBuf>,
}

/// How to stop one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Ends the sessions, then shuts down cleanly.
    Fast,
    /// Aborts at once: the next start recovers from the log.
    Immediate,
}

#[derive(Clone, Debug)]
struct User {
    name: String,
    uid: u32,
    gid: u32,
}

impl PostgresServer {
    /// A fresh server with the defaults.
    pub fn start() -> io::Result<PostgresServer> {
        PostgresServer::start_with(&PostgresOptions::default())
    }

    /// A fresh server.
    pub fn start_with(options: &PostgresOptions) -> io::Result<PostgresServer> {
        let binaries = options.binaries.clone().map_or_else(find_binaries, Ok)?;
        let server = PostgresServer::in_new_home(binaries, options.folder.as_deref())?;
        let data = server.data();
        server.run(
            "initdb",
            &["-D", &text(&data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
        )?;
        server.configure(&options.settings)?;
        server.start_again()?;
        Ok(server)
    }

    /// A streaming standby of this server, caught up and following.
    pub fn standby(&self) -> io::Result<PostgresServer> {
        self.standby_through(self.port, None)
    }

    /// As [`PostgresServer::standby`], following through another port that leads to this
    /// server, and with its directory made in this folder.
    pub fn standby_through(&self, port: u16, folder: Option<&Path>) -> io::Result<PostgresServer> {
        let standby = PostgresServer::in_new_home(self.binaries.clone(), folder)?;
        let source = format!("host=127.0.0.1 port={port} user=postgres");
        standby.run(
            "pg_basebackup",
            &["-D", &text(&standby.data()), "-d", &source, "-R", "-X", "stream", "-c", "fast"],
        )?;
        standby.configure(&[])?;
        standby.start_again()?;
        Ok(standby)
    }

    /// The connection URL of a database, as its superuser.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// The port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Creates an empty database and answers its name.
    pub fn create_database(&self) -> io::Result<String> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.psql("postgres", &format!("CREATE DATABASE {name}"))?;
        Ok(name)
    }

    /// Runs statements as the superuser and answers what they print, unaligned.
    pub fn psql(&self, database: &str, sql: &str) -> io::Result<String> {
        self.run(
            "psql",
            &["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", &self.url(database), "-c", sql],
        )
    }

    /// Lets clients speak TLS from now on, with this certificate and key in PEM.
    pub fn enable_tls(&self, certificate: &str, key: &str) -> io::Result<()> {
        for (name, content) in [("server.crt", certificate), ("server.key", key)] {
            let path = self.data().join(name);
            std::fs::write(&path, content)?;
            // The server refuses a key that others could read.
            std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            if let Some(user) = &self.user {
                chown(&path, Some(user.uid), Some(user.gid))?;
            }
        }
        self.psql("postgres", "ALTER SYSTEM SET ssl = on")?;
        self.psql("postgres", "SELECT pg_reload_conf()").map(drop)
    }

    /// Stops the server.
    pub fn stop(&self, mode: StopMode) -> io::Result<()> {
        let mode = match mode {
            StopMode::Fast => "fast",
            StopMode::Immediate => "immediate",
        };
        self.run("pg_ctl", &["-D", &text(&self.data()), "-w", "-m", mode, "stop"]).map(drop)
    }

    /// Starts the server on the port it had, retrying while processes of a killed one linger.
    pub fn start_again(&self) -> io::Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            let log = text(&self.home.join("log"));
            match self.run("pg_ctl", &["-D", &text(&self.data()), "-w", "-l", &log, "start"]) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => {
                    let log = std::fs::read_to_string(log).unwrap_or_default();
                    return Err(io::Error::other(format!("{error}\n{log}")));
                }
                Err(_) => {}
            }
        }
    }

    /// Kills every process of the server, as the loss of its machine does, and waits until
    /// they are gone. A backend that outlived its postmaster would still answer a commit.
    pub fn kill(&self) -> io::Result<()> {
        let pid_file = std::fs::read_to_string(self.data().join("postmaster.pid"))?;
        let pid = pid_file.lines().next().ok_or_else(|| io::Error::other("postmaster.pid is empty"))?;
        // Stopped first, it starts no other while its children are counted.
        run(Command::new("kill").args(["-STOP", pid]))?;
        let children = children_of(pid);
        run(Command::new("kill").args(["-KILL", pid]))?;
        let mut all = children?;
        // A child may have ended by itself by now, which `kill` would call a failure.
        Command::new("kill").arg("-KILL").args(&all).stderr(Stdio::null()).status()?;
        all.push(pid.to_owned());
        let deadline = Instant::now() + KILL_DEADLINE;
        while all.iter().any(|pid| state_of(pid).is_some_and(|(state, _)| state != "Z")) {
            if Instant::now() >= deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the killed server's processes stay"));
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Makes a standby the primary of a new timeline.
    pub fn promote(&self) -> io::Result<()> {
        self.run("pg_ctl", &["-D", &text(&self.data()), "-w", "promote"]).map(drop)
    }

    fn in_new_home(binaries: PathBuf, folder: Option<&Path>) -> io::Result<PostgresServer> {
        let user = unprivileged_user()?;
        let folder = folder.map_or_else(std::env::temp_dir, Path::to_path_buf);
        // Kept from here on by the watchdog alone.
        let home = TempDir::with_prefix_in("ferrogate-pg-", folder)?.keep();
        if let Some(user) = &user {
            chown(&home, Some(user.uid), Some(user.gid))?;
        }
        let mut stop = as_user(user.as_ref(), &binaries.join("pg_ctl"));
        stop.args(["-D", &text(&home.join("data")), "-m", "immediate", "stop"]);
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "sh"])
            .arg(stop.get_program())
            .args(stop.get_args())
            .env("FERROGATE_TEST_HOME", &home)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        Ok(PostgresServer { binaries, user, home, port, databases: AtomicU32::new(0), watchdog })
    }

    fn configure(&self, settings: &[(String, String)]) -> io::Result<()> {
        let own = [
            ("port", self.port.to_string()),
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("unix_socket_directories", text(&self.home)),
            ("max_connections", "200".to_owned()),
            ("shared_buffers", "32MB".to_owned()),
            ("max_wal_size", "128MB".to_owned()),
        ];
        let own = own.iter().map(|(name, value)| (*name, value.as_str()));
        let settings = settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut lines = String::new();
        for (name, value) in own.chain(settings) {
            lines.push_str(&format!("{name} = '{value}'\n"));
        }
        // Appended, since of several lines the last counts: a standby is a copy of its primary.
        let path = self.data().join("postgresql.conf");
        let before = std::fs::read_to_string(&path)?;
        std::fs::write(&path, before + &lines)
    }

    fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    fn run(&self, program: &str, arguments: &[&str]) -> io::Result<String> {
        run(as_user(self.user.as_ref(), &self.binaries.join(program)).args(arguments))
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        self.watchdog.wait().ok();
    }
}

/// The processes that this one started.
fn children_of(parent: &str) -> io::Result<Vec<String>> {
    let mut children = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if state_of(&name).is_some_and(|(_, of)| of == parent) {
            children.push(name);
        }
    }
    Ok(children)
}

/// What a process does at the moment, as `proc(5)` abbreviates it, and who started it.
fn state_of(pid: &str) -> Option<(String, String)> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).ok()?;
    // The program's name before them, in parentheses, may contain spaces.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned);
    Some((fields.next()?, fields.next()?))
}

fn find_binaries() -> io::Result<PathBuf> {
    let mut packaged: Vec<(u32, PathBuf)> = std::fs::read_dir(PACKAGED)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let version: u32 = path.file_name()?.to_str()?.parse().ok()?;
            let binaries = path.join("bin");
            (version >= OLDEST && binaries.join("initdb").exists()).then_some((version, binaries))
        })
        .collect();
    packaged.sort();
    if let Some((_, newest)) = packaged.pop() {
        return Ok(newest);
    }
    let found = run(Command::new("sh").args(["-c", "command -v initdb"]))
        .map_err(|_| io::Error::other(format!("no PostgreSQL {OLDEST} or later in {PACKAGED} or PATH")))?;
    Path::new(found.trim())
        .parent()
        .map(Path::to_path_buf)
        .ok_or_else(|| io::Error::other("initdb has no directory"))
}

/// `postgres` or `nobody` when this process is root, `None` when it is not.
fn unprivileged_user() -> io::Result<Option<User>> {
    if std::fs::metadata("/proc/self")?.uid() != 0 {
        return Ok(None);
    }
    let accounts = std::fs::read_to_string("/etc/passwd")?;
    let find = |wanted: &str| {
        accounts.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| *name == wanted)?.to_owned();
            let mut ids = fields.skip(1);
            Some(User { name, uid: ids.next()?.parse().ok()?, gid: ids.next()?.parse().ok()? })
        })
    };
    find("postgres")
        .or_else(|| find("nobody"))
        .map(Some)
        .ok_or_else(|| io::Error::other("no unprivileged user to run PostgreSQL as"))
}

fn as_user(user: Option<&User>, program: &Path) -> Command {
    let mut command = match user {
        None => Command::new(program),
        Some(user) => {
            let mut command = Command::new("runuser");
            command.args(["-u", &user.name, "--"]).arg(program);
            command
        }
    };
    // Not every directory of ours can be entered by that user.
    command.current_dir("/");
    command
}

/// Output goes to files, not pipes: a server started by the command would keep a pipe open.
fn run(command: &mut Command) -> io::Result<String> {
    let (mut out, mut err) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let status = command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(err.try_clone()?).status()?;
    if status.success() {
        return read_back(&mut out);
    }
    let program = command.get_args().fold(text(Path::new(command.get_program())), |line, argument| {
        line + " " + &argument.to_string_lossy()
    });
    Err(io::Error::other(format!("{program}: {status}\n{}{}", read_back(&mut out)?, read_back(&mut err)?)))
}

fn read_back(file: &mut std::fs::File) -> io::Result<String> {
    use std::io::{Read, Seek};
    let mut content = String::new();
    file.rewind()?;
    file.read_to_string(&mut content)?;
    Ok(content)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
