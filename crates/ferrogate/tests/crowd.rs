// SPDX-License-Identifier: Apache-2.0
//! More clients than anybody has today, and clients that take their time: ten thousand
//! connections on the traffic side and as many on the management side of a real process,
//! most of them silent or half-way through a request. The others are served meanwhile,
//! and nothing of it is left when they are gone.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use ferrogate_testkit::backend::Backend;
use ferrogate_testkit::eventually::eventually;
use ferrogate_testkit::management::{Management, api};
use ferrogate_testkit::process::{Process, Spec};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Connections to one listener. Ten thousand, or what this machine lets one process open.
const CLIENTS: usize = 10_000;
/// File descriptors a process needs for other things.
const OTHER_FILES: u64 = 500;
/// Only what hangs takes longer than this, however busy the machine: the test is about being
/// served at all.
const DEADLINE: Duration = Duration::from_secs(100);
/// Connections opened at once: below the kernel's backlog.
const AT_ONCE: usize = 250;

/// Raises this process's limit of open files, and so that of the processes it starts.
fn clients() -> anyhow::Result<usize> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    let room = limit.maximum.map_or(CLIENTS, |files| usize::try_from(files - OTHER_FILES).unwrap_or(CLIENTS));
    ensure!(room >= 500, "this machine lets a process open {room} files");
    Ok(room.min(CLIENTS))
}

async fn standalone(dir: &Path) -> anyhow::Result<Process> {
    let mut args: Vec<String> =
        ["standalone", "--workers", "1", "--listen-https", "off"].map(str::to_owned).to_vec();
    for listener in
        ["management", "admin", "metrics", "stream", "http", "readiness", "runtime-admin", "runtime-metrics"]
    {
        args.extend([format!("--listen-{listener}"), "127.0.0.1:0".to_owned()]);
    }
    let env = vec![("FERROGATE_ADMIN_PASSWORD".to_owned(), ferrogate_testkit::cluster::PASSWORD.to_owned())];
    let binary = env!("CARGO_BIN_EXE_ferrogate").into();
    Spec {
        binary,
        name: "standalone".to_owned(),
        args,
        env,
        data_dir: dir.to_owned(),
        log: dir.join("process.log"),
    }
    .start()
    .await
}

/// Opens so many connections and sends on each the beginning of a request that never ends.
async fn crowd(address: SocketAddr, count: usize) -> anyhow::Result<Vec<TcpStream>> {
    let beginnings: [&[u8]; 4] = [
        b"",
        b"GET /slow",
        b"POST /api/management/v1/rest-apis HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nkind:",
        b"GET / HTTP/1.1\r\nhost: x\r\nx-a: ",
    ];
    let mut open = Vec::with_capacity(count);
    while open.len() < count {
        let wanted = AT_ONCE.min(count - open.len());
        let opened = futures::future::join_all((0..wanted).map(|index| async move {
            let mut stream =
                timeout(DEADLINE, TcpStream::connect(address)).await.context("no connection in time")??;
            let beginning = beginnings.get(index % beginnings.len()).copied().unwrap_or_default();
            stream.write_all(beginning).await?;
            anyhow::Ok(stream)
        }));
        for stream in opened.await {
            open.push(stream?);
        }
    }
    Ok(open)
}

/// One whole request on a connection of its own; answers the head's first line.
async fn ask(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
            .await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer.lines().next().unwrap_or_default().to_owned())
    };
    timeout(DEADLINE, asked).await.with_context(|| format!("no answer to {path} in time"))?
}

fn open_files(process: &Process) -> Option<usize> {
    Some(std::fs::read_dir(format!("/proc/{}/fd", process.id()?)).ok()?.count())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_slow_clients_do_not_keep_the_others_out() -> anyhow::Result<()> {
    let count = clients()?;
    rustls::crypto::ring::default_provider().install_default().ok();
    let root = tempfile::tempdir()?;
    let (backend, process) = (Backend::start().await?, standalone(root.path()).await?);
    {
        // Dropped with its kept connection, which would take a place among the crowd's.
        let management = Management::new(process.url("management"));
        let books = api("books", &backend.url(), &serde_json::json!([]));
        let created = management.create(&books, "?wait=live").await?;
        ensure!(created.status == 201, "{}", created.body);
    }
    let (before, idle) = (open_files(&process).context("it runs")?, process.resident().context("it runs")?);
    for (listener, path, answer) in
        [("http", "/books/echo", "HTTP/1.1 200 OK"), ("management", "/openapi.json", "HTTP/1.1 200 OK")]
    {
        let address = process.address(listener);
        let began = Instant::now();
        // One place is left: a full listener lets nobody in, and says so in its documentation.
        let crowd = crowd(address, count - 1).await?;
        let opened = began.elapsed();
        let began = Instant::now();
        assert_eq!(ask(address, path).await?, answer, "{listener}");
        let answered = began.elapsed();
        println!(
            "{listener}: {} clients in {opened:.1?}, a request among them in {answered:.1?}, {} kB more",
            crowd.len(),
            process.resident().unwrap_or_default().saturating_sub(idle)
        );
        drop(crowd);
        let gone = eventually(DEADLINE, || open_files(&process).filter(|now| *now < before + 100)).await;
        ensure!(gone.is_some(), "{listener}: {:?} files are open, {before} were", open_files(&process));
        assert_eq!(ask(address, path).await?, answer, "{listener}, afterwards");
    }
    Ok(())
}
