// SPDX-License-Identifier: Apache-2.0
//! Two gateways over one upstream, and what they answer to the same bytes.

use std::net::SocketAddr;
use std::time::Duration;

use ferrogate_runtime::config::{Config, Http1Codec};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::backend::Backend;
use crate::support::{Gateway, PATIENCE, api};

/// The last request of every case: whether it is answered tells where the case's own ended.
pub const LAST: &str = "GET /last HTTP/1.1\r\nHost: last\r\nConnection: close\r\n\r\n";

/// The two gateways.
pub struct Pair {
    own: Gateway,
    hyper: Gateway,
    _backend: Backend,
}

/// One answer as far as both must agree on it.
#[derive(Debug, PartialEq)]
pub enum Answer {
    /// The upstream's, which tells what it received.
    Echo(Value),
    /// One of the gateway's own.
    Status(u16),
}

impl Pair {
    pub async fn start() -> Pair {
        Pair::start_with(|_| {}).await
    }

    pub async fn start_with(edit: impl Fn(&mut Config) + Clone) -> Pair {
        let backend = Backend::start().await;
        let start = |codec| {
            let edit = edit.clone();
            Gateway::start_with(move |config| {
                edit(config);
                config.http1_codec = codec;
                config.workers = 1;
                config.limits.head_timeout = Duration::from_millis(300);
                config.limits.idle_timeout = Duration::from_millis(600);
                config.upstream.stream_idle_timeout = Duration::from_millis(300);
            })
        };
        let (own, hyper) = (start(Http1Codec::Own).await, start(Http1Codec::Hyper).await);
        let document = api("/", &backend.url(), |_| {});
        own.deploy(std::slice::from_ref(&document)).await;
        hyper.deploy(&[document]).await;
        Pair { own, hyper, _backend: backend }
    }

    /// What each answers to these bytes, which come in as many pieces.
    pub async fn ask(&self, pieces: &[&[u8]]) -> (Vec<Answer>, Vec<Answer>) {
        let (own, hyper) = tokio::join!(ask(self.own.http, pieces), ask(self.hyper.http, pieces));
        (read(&own), read(&hyper))
    }
}

async fn ask(address: SocketAddr, pieces: &[&[u8]]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.set_nodelay(true).expect("a socket option");
    let (mut reader, mut writer) = stream.split();
    let mut answer = Vec::new();
    let sending = async {
        for piece in pieces {
            // A gateway that has seen enough closes.
            if writer.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    let reading = async { drop(tokio::time::timeout(PATIENCE, reader.read_to_end(&mut answer)).await) };
    tokio::join!(sending, reading);
    answer
}

/// The answers in these bytes.
fn read(mut bytes: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let status: u16 = head[9..12].parse().expect("a status");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let body = &bytes[end + 4..];
        let length: usize = length.unwrap_or(0).min(body.len());
        answers.push(answer(status, &body[..length]));
        bytes = &body[length..];
    }
    answers
}

fn answer(status: u16, body: &[u8]) -> Answer {
    let Ok(mut echo) = serde_json::from_slice::<Value>(body) else { return Answer::Status(status) };
    if echo["method"].is_null() {
        return Answer::Status(status);
    }
    let headers = echo["headers"].as_object_mut().expect("the upstream's echo");
    // Made anew by each gateway.
    if headers.get("x-request-id").is_some_and(|id| id[0].as_str().is_some_and(|id| id.len() == 36)) {
        headers.remove("x-request-id");
    }
    Answer::Echo(echo)
}
