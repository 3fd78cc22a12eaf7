// SPDX-License-Identifier: Apache-2.0
//! The upstream of every measurement: one thread that reads a request, drops its body and
//! writes a fixed answer in one piece. It must cost as little as possible, because it
//! shares its core with the load generator.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The body of an ordinary answer.
pub const SMALL_BYTES: usize = 1024;
const BIG_BYTES: usize = 1024 * 1024;
const BUFFER_BYTES: usize = 64 * 1024;
const MAX_HEADERS: usize = 64;

/// Serves until the process is ended; a connection lasts until its client closes it.
pub async fn serve(address: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        connections.spawn(connection(stream));
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(mut stream: TcpStream) -> anyhow::Result<()> {
    let (small, big) = (answer(SMALL_BYTES), answer(BIG_BYTES));
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    loop {
        let request = loop {
            if let Some(request) = Request::parse(&buffer)? {
                break request;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        buffer.drain(..request.head_bytes);
        skip(&mut stream, &mut buffer, request.body).await?;
        stream.write_all(if request.big { &big } else { &small }).await?;
    }
}

struct Request {
    head_bytes: usize,
    body: Body,
    big: bool,
}

#[derive(Clone, Copy)]
enum Body {
    Length(usize),
    Chunked,
}

impl Request {
    fn parse(bytes: &[u8]) -> anyhow::Result<Option<Request>> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let httparse::Status::Complete(head_bytes) = request.parse(bytes)? else { return Ok(None) };
        let mut body = Body::Length(0);
        for header in request.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") {
                body = Body::Length(std::str::from_utf8(header.value)?.trim().parse()?);
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                body = Body::Chunked;
            }
        }
        let big = request.path.is_some_and(|path| path.ends_with("/big"));
        Ok(Some(Request { head_bytes, body, big }))
    }
}

/// Reads over a body.
async fn skip(stream: &mut TcpStream, buffer: &mut Vec<u8>, body: Body) -> anyhow::Result<()> {
    match body {
        Body::Length(bytes) => skip_bytes(stream, buffer, bytes).await,
        Body::Chunked => loop {
            let (digits, size) = loop {
                match httparse::parse_chunk_size(buffer) {
                    Ok(httparse::Status::Complete((digits, size))) => break (digits, size),
                    Ok(httparse::Status::Partial) => fill(stream, buffer).await?,
                    Err(_) => bail!("a bad chunk size"),
                }
            };
            buffer.drain(..digits);
            // No proxy of the comparison adds trailers: the last chunk is one empty line.
            skip_bytes(stream, buffer, usize::try_from(size)? + 2).await?;
            if size == 0 {
                return Ok(());
            }
        },
    }
}

async fn skip_bytes(stream: &mut TcpStream, buffer: &mut Vec<u8>, mut bytes: usize) -> anyhow::Result<()> {
    loop {
        let here = bytes.min(buffer.len());
        buffer.drain(..here);
        bytes -= here;
        if bytes == 0 {
            return Ok(());
        }
        fill(stream, buffer).await?;
    }
}

async fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> anyhow::Result<()> {
    if stream.read_buf(buffer).await? == 0 {
        bail!("the request broke off");
    }
    Ok(())
}

fn answer(bytes: usize) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {bytes}\r\n\r\n");
    let mut answer = head.into_bytes();
    answer.resize(answer.len() + bytes, b'x');
    answer
}
