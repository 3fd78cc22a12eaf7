// SPDX-License-Identifier: Apache-2.0
//! How many instructions a request costs, counted by callgrind: the same number on a busy
//! machine and an idle one, to well below a percent. What is counted is a worker's thread, from
//! the head's first byte to the answer's last with the executor's turns between, and not the
//! kernel, the config stream or the log's writer. The third count is the first's over HTTP/2, with
//! several requests at a time on one connection.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::net::TcpStream;

use crate::load::idle::exchange;
use crate::load::streams;
use crate::peers::ferrogate::{self, Plan};
use crate::peers::{self, Ground, Peer};

/// A worker's thread: its executor and the tasks of all connections, whatever they call.
const COUNTED: &str = "--toggle-collect=ferrogate_runtime::worker::run";

/// Enough that making the connection and finding out that the APIs are live do not show.
const REQUESTS: usize = 3_000;

/// Of HTTP/2, at a time on the connection: what a browser or a client library sends together.
const STREAMS: usize = 10;

/// Enough for the router's large nodes; more would only take longer to deploy.
const APIS: usize = 100;

/// A process under callgrind writes its counts when it ends.
const END_DEADLINE: Duration = Duration::from_secs(60);

/// What to count.
#[derive(Args)]
pub struct Options {
    /// The gateway's release binary
    #[arg(long)]
    ferrogate: PathBuf,
}

/// How the requests come.
#[derive(Clone, Copy)]
enum Over {
    Http1,
    Http2,
}

/// Counts each kind of request; prints a line for each: its name and instructions per request.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let cores = std::thread::available_parallelism()?.get();
    let (core, other_core) = (0, cores - 1);
    let (certificate, key) = peers::certificate(other_core, dir.path()).await?;
    let (backend, _upstream) = peers::backend(other_core, dir.path()).await?;
    let ground = Ground {
        core,
        other_core,
        backend,
        dir: dir.path(),
        ferrogate: &options.ferrogate,
        envoy: None,
        certificate: &certificate,
        key: &key,
    };
    let kinds = [("plain", false, Over::Http1), ("heavy", true, Over::Http1), ("http2", false, Over::Http2)];
    for (name, heavy, over) in kinds {
        let place = dir.path().join(name);
        std::fs::create_dir_all(&place)?;
        let total = count(&ground, &place, heavy, over).await.with_context(|| format!("counting {name}"))?;
        println!("{name} {}", total / REQUESTS as u64);
    }
    Ok(())
}

async fn count(ground: &Ground<'_>, dir: &Path, heavy: bool, over: Over) -> anyhow::Result<u64> {
    let counts = dir.join("counts");
    let out = format!("--callgrind-out-file={}", counts.display());
    let under = ["valgrind", "--tool=callgrind", COUNTED, &out].map(str::to_owned);
    let peer = ferrogate::start(ground, dir, &Plan { apis: APIS, heavy, under: &under }).await?;
    match over {
        Over::Http1 => one_by_one(&peer).await?,
        Over::Http2 => {
            let paths = (0..REQUESTS).map(path).collect::<Vec<_>>();
            streams::exchange(peer.http, &paths, STREAMS).await?;
        }
    }
    peer.end(END_DEADLINE).await?;
    total(&std::fs::read_to_string(&counts)?).context("callgrind wrote no total")
}

async fn one_by_one(peer: &Peer) -> anyhow::Result<()> {
    let token = peer.token.as_ref().map(|token| format!("authorization: Bearer {token}\r\n"));
    let token = token.unwrap_or_default();
    let mut stream = TcpStream::connect(peer.http).await?;
    for index in 0..REQUESTS {
        let request = format!("GET {} HTTP/1.1\r\nhost: bench\r\n{token}\r\n", path(index));
        exchange(&mut stream, request.as_bytes()).await?;
    }
    Ok(())
}

/// Every API in turn.
fn path(index: usize) -> String {
    format!("/bench-{}/items/{}", index % APIS, index % 1000)
}

fn total(counts: &str) -> Option<u64> {
    counts.lines().find_map(|line| line.strip_prefix("totals: "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::total;

    #[test]
    fn the_total_is_read() {
        assert_eq!(total("events: Ir\nfn=(1) main\n3 4\ntotals: 51064094\n"), Some(51_064_094));
        assert_eq!(total("events: Ir\n"), None);
    }
}
