// SPDX-License-Identifier: Apache-2.0
//! Requests over HTTP/2 by prior knowledge, several at a time on one connection: each batch is
//! sent together and answered whole before the next, so that a count of it is repeatable. Nothing
//! is measured here; `count` calls it.

use std::net::SocketAddr;

use anyhow::{Context as _, bail, ensure};
use h2::RecvStream;
use h2::client::{SendRequest, handshake};
use http::{Request, StatusCode};
use tokio::net::TcpStream;

use crate::backend::SMALL_BYTES;

/// Asks for each path once, `at_once` of them together.
pub async fn exchange(address: SocketAddr, paths: &[String], at_once: usize) -> anyhow::Result<()> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(stream).await?;
    tokio::select! {
        // Whichever ends first ends both: without its connection no request goes on.
        ended = connection => match ended {
            Ok(()) => bail!("the connection ended"),
            Err(error) => Err(error).context("the connection broke"),
        },
        done = batches(sender, address, paths, at_once) => done,
    }
}

async fn batches(
    mut sender: SendRequest<bytes::Bytes>,
    address: SocketAddr,
    paths: &[String],
    at_once: usize,
) -> anyhow::Result<()> {
    for batch in paths.chunks(at_once) {
        let mut awaited = Vec::with_capacity(at_once);
        for path in batch {
            sender = sender.ready().await?;
            let request = Request::get(format!("http://{address}{path}")).body(())?;
            awaited.push(sender.send_request(request, true)?.0);
        }
        for answer in awaited {
            let (head, body) = answer.await?.into_parts();
            ensure!(head.status == StatusCode::OK, "{}", head.status);
            let read = length(body).await?;
            ensure!(read == SMALL_BYTES, "{read} bytes instead of {SMALL_BYTES}");
        }
    }
    Ok(())
}

/// Reads a body to its end.
async fn length(mut body: RecvStream) -> anyhow::Result<usize> {
    let mut read = 0;
    while let Some(data) = body.data().await {
        let bytes = data?.len();
        body.flow_control().release_capacity(bytes)?;
        read += bytes;
    }
    Ok(read)
}
