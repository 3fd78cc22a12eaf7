// SPDX-License-Identifier: Apache-2.0
//! The upstream: a socket that reads what arrives by a parser of its own, as strict as can be. It
//! takes nothing that another parser could read differently; what it does not take is kept as
//! ambiguous, and that is a failed case.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A request, as it arrived.
#[derive(Clone, Debug)]
pub struct Arrived {
    pub method: String,
    pub path: String,
    pub body: Vec<u8>,
}

/// What arrived on some connection.
#[derive(Clone, Debug)]
pub enum Seen {
    /// One request, to its end.
    Whole(Arrived),
    /// A request whose end did not come; the connection ended.
    Partial,
    /// Something that could be read in two ways.
    Ambiguous(&'static str, String),
}

/// The running upstream.
pub struct Upstream {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    _tasks: JoinSet<()>,
}

enum Parsed {
    More,
    Request(Arrived, usize),
    Bad(&'static str),
}

impl Upstream {
    pub async fn start() -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        let own = seen.clone();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.spawn(serve(stream, own.clone()));
            }
        });
        Upstream { address, seen, _tasks: tasks }
    }

    /// What arrived since this was asked last.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().expect("no panic"))
    }
}

async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Vec<Seen>>>) {
    let note = |one: Seen| seen.lock().expect("no panic").push(one);
    let mut buffer = Vec::new();
    loop {
        match parse(&buffer) {
            Parsed::Request(arrived, length) => {
                buffer.drain(..length);
                note(Seen::Whole(arrived));
                if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
                    return;
                }
            }
            Parsed::Bad(why) => {
                note(Seen::Ambiguous(why, String::from_utf8_lossy(&buffer).into_owned()));
                return;
            }
            Parsed::More => {
                let mut chunk = [0; 16 * 1024];
                match stream.read(&mut chunk).await {
                    Ok(0) | Err(_) => {
                        if !buffer.is_empty() {
                            note(Seen::Partial);
                        }
                        return;
                    }
                    Ok(read) => buffer.extend_from_slice(&chunk[..read]),
                }
            }
        }
    }
}

fn parse(bytes: &[u8]) -> Parsed {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Parsed::More;
    };
    let Ok(head) = std::str::from_utf8(&bytes[..end]) else { return Parsed::Bad("bytes beyond ASCII") };
    if head.bytes().any(|byte| (byte < 0x20 && !matches!(byte, b'\r' | b'\n' | b'\t')) || byte == 0x7f) {
        return Parsed::Bad("a control character");
    }
    if head.replace("\r\n", "").contains(['\r', '\n']) {
        return Parsed::Bad("a bare CR or LF");
    }
    let mut lines = head.split("\r\n");
    let words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, path, "HTTP/1.1"] = words.as_slice() else { return Parsed::Bad("the request line") };
    if !is_token(method) || !path.starts_with('/') {
        return Parsed::Bad("the method or the target");
    }
    let mut headers = Vec::new();
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { return Parsed::Bad("a line without a colon") };
        if !is_token(name) {
            return Parsed::Bad("a header's name");
        }
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let all = |wanted: &str| -> Vec<&str> {
        headers.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value.as_str()).collect()
    };
    if all("host").len() != 1 {
        return Parsed::Bad("not exactly one host");
    }
    let body = &bytes[end + 4..];
    let read = match (all("content-length").as_slice(), all("transfer-encoding").as_slice()) {
        ([], []) => Ok(Some((Vec::new(), 0))),
        ([length], []) if !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) => {
            let length = length.parse().unwrap_or(usize::MAX);
            Ok((body.len() >= length).then(|| (body[..length].to_vec(), length)))
        }
        ([], ["chunked"]) => chunks(body),
        _ => Err("the framing"),
    };
    match read {
        Err(why) => Parsed::Bad(why),
        Ok(None) => Parsed::More,
        Ok(Some((body, length))) => {
            let (method, path) = ((*method).to_owned(), (*path).to_owned());
            Parsed::Request(Arrived { method, path, body }, end + 4 + length)
        }
    }
}

/// The chunks' content and how many bytes they took; `None` while some are missing.
fn chunks(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, &'static str> {
    let mut content = Vec::new();
    let mut at = 0;
    loop {
        let Some(line) = line_at(bytes, at) else { return Ok(None) };
        if line.is_empty() || line.len() > 15 || !line.iter().all(u8::is_ascii_hexdigit) {
            return Err("a chunk's size");
        }
        let size = usize::from_str_radix(std::str::from_utf8(line).unwrap_or_default(), 16);
        let size = size.map_err(|_| "a chunk's size")?;
        at += line.len() + 2;
        if size == 0 {
            break;
        }
        let Some(rest) = bytes.get(at..at + size + 2) else { return Ok(None) };
        content.extend_from_slice(&rest[..size]);
        if &rest[size..] != b"\r\n" {
            return Err("a chunk's end");
        }
        at += size + 2;
    }
    loop {
        let Some(line) = line_at(bytes, at) else { return Ok(None) };
        at += line.len() + 2;
        if line.is_empty() {
            return Ok(Some((content, at)));
        }
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        if !is_token(&name) || ["host", "content-length", "transfer-encoding"].contains(&name.as_str()) {
            return Err("a trailer");
        }
    }
}

fn line_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let rest = bytes.get(at..)?;
    rest.windows(2).position(|window| window == b"\r\n").map(|end| &rest[..end])
}

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}
