// SPDX-License-Identifier: Apache-2.0
//! Connections that have had one request each and then stay: what a proxy pays for clients
//! that do nothing. Run as a process of its own, so that its sockets are not this one's.

use std::io::Read as _;
use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::backend::SMALL_BYTES;

const REQUEST: &[u8] = b"GET /bench-7/items/7 HTTP/1.1\r\nhost: bench\r\n\r\n";
const BUFFER_BYTES: usize = 4096;

/// Opens the connections, says so in one line, and holds them until standard input ends.
pub async fn hold(address: SocketAddr, count: usize) -> anyhow::Result<()> {
    let mut held = Vec::with_capacity(count);
    for index in 0..count {
        let opened = open(address).await;
        held.push(opened.with_context(|| format!("connection {index} of {count}"))?);
    }
    println!("held");
    // Blocking this thread is all that is left to do.
    let mut byte = [0];
    while std::io::stdin().read(&mut byte)? > 0 {}
    Ok(())
}

async fn open(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    exchange(&mut stream, REQUEST).await?;
    Ok(stream)
}

/// One request and the whole of its answer.
pub async fn exchange(stream: &mut TcpStream, request: &[u8]) -> anyhow::Result<()> {
    stream.write_all(request).await?;
    let mut answer = Vec::with_capacity(BUFFER_BYTES);
    while !is_whole(&answer) {
        ensure!(stream.read_buf(&mut answer).await? > 0, "closed: {}", String::from_utf8_lossy(&answer));
        ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}

/// The backend's small answer has arrived to its end.
fn is_whole(answer: &[u8]) -> bool {
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n");
    head.is_some_and(|head| answer.len() - head - 4 >= SMALL_BYTES)
}
