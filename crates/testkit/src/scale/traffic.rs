// SPDX-License-Identifier: Apache-2.0
//! Requests to many APIs in turn over a few kept-alive connections, so that what a request
//! costs the runtime shows what finding its route costs. A client as thin as can be: the
//! machine's time belongs to what is measured.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const CONNECTIONS: u64 = 16;
/// One request in so many may be shed.
const MAX_SHED: u64 = 20;
/// Far above the head and body of what the test kit's backend answers.
const MAX_ANSWER: usize = 64 * 1024;

/// Sends so many requests, each to any of the first `apis` APIs.
///
/// # Errors
/// When one is not answered with 200.
pub async fn drive(runtime: SocketAddr, apis: usize, requests: u64) -> anyhow::Result<()> {
    let mut clients = JoinSet::new();
    for client in 0..CONNECTIONS {
        clients.spawn(one_client(runtime, apis, requests / CONNECTIONS, client));
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    Ok(())
}

async fn one_client(runtime: SocketAddr, apis: usize, requests: u64, seed: u64) -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut socket = TcpStream::connect(runtime).await?;
    socket.set_nodelay(true)?;
    let (mut answer, mut shed) = (Vec::new(), 0);
    let mut number = 0;
    while number < requests {
        let path = super::path(random.usize(..apis), number);
        let request = format!("GET {path} HTTP/1.1\r\nhost: scale.example\r\n\r\n");
        socket.write_all(request.as_bytes()).await?;
        answer.clear();
        while !is_whole(&answer)? {
            ensure!(answer.len() < MAX_ANSWER, "{path}: an endless answer");
            let read = socket.read_buf(&mut answer).await?;
            ensure!(read > 0, "{path}: the connection ended");
        }
        // A worker that the machine left without time sheds; a few of those are no wrong answer.
        if answer.starts_with(b"HTTP/1.1 503 ") && shed < requests / MAX_SHED {
            shed += 1;
            continue;
        }
        ensure!(answer.starts_with(b"HTTP/1.1 200 "), "{path}: {}", String::from_utf8_lossy(&answer));
        number += 1;
    }
    Ok(())
}

/// Whether head and body have arrived; the backend always states a length.
fn is_whole(answer: &[u8]) -> anyhow::Result<bool> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(false) };
    let head = std::str::from_utf8(&answer[..end])?.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.context("an answer without a length")?.trim().parse()?;
    Ok(answer.len() >= end + 4 + length)
}
