// SPDX-License-Identifier: Apache-2.0
//! `ferrogate sample-backend`: something real to put behind the gateway. A books service
//! that keeps its books in memory, and `/echo`, which answers with the request as it
//! arrived, so that one can see what the gateway made of it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use ferrogate_base::tasks::Tasks;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::cli::{Exit, SampleBackendFlags};
use crate::output;
use crate::roles::signals;

/// A longer body is answered 413.
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// Further books are answered 507, so that a forgotten backend does not grow for ever.
const MAX_BOOKS: usize = 10_000;
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(2);

/// The books by number, and the next number.
struct Shelf {
    next: u64,
    books: BTreeMap<u64, Value>,
}

/// Serves until a signal ends it.
pub fn run(flags: &SampleBackendFlags) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(flags.listen))
}

async fn serve(address: SocketAddr) -> anyhow::Result<Exit> {
    let tasks = Tasks::new();
    let address = start(&tasks, address).await?;
    output::line(&format!("sample backend on http://{address}: /books, /books/{{id}}, /echo"))?;
    signals::terminated().await?;
    drop(tasks.shutdown(SHUTDOWN_DEADLINE).await);
    Ok(Exit::Done)
}

/// Serves in these tasks; answers where.
pub async fn start(tasks: &Tasks, address: SocketAddr) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    let shelf = Arc::new(Mutex::new(Shelf::stocked()));
    let (connections, token) = (tasks.clone(), tasks.token());
    tasks.spawn("accept", async move {
        loop {
            let accepted = tokio::select! {
                // A connection accepted and dropped here is one that a moment later would be refused.
                () = token.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    connections.spawn("connection", connection(stream, shelf.clone(), token.clone()));
                }
                // Out of file descriptors, most likely: connections that end make room.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    });
    Ok(address)
}

async fn connection(stream: TcpStream, shelf: Arc<Mutex<Shelf>>, token: CancellationToken) {
    let service = service_fn(move |request| {
        let shelf = shelf.clone();
        async move { Ok::<_, Infallible>(answer(request, &shelf).await) }
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let serving = server.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    tokio::select! {
        // A client that goes away is its own affair.
        _ended = serving.as_mut() => return,
        () = token.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    drop(serving.await);
}

async fn answer(request: Request<Incoming>, shelf: &Mutex<Shelf>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return said(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long or broke off"),
    };
    let segments: Vec<&str> = head.uri.path().split('/').filter(|segment| !segment.is_empty()).collect();
    match segments.as_slice() {
        ["echo", ..] => reply(StatusCode::OK, &echo(&head, &body)),
        ["books"] => shelf.lock().unwrap_or_else(PoisonError::into_inner).all(&head.method, &body),
        ["books", id] => match id.parse() {
            Ok(id) => shelf.lock().unwrap_or_else(PoisonError::into_inner).one(&head.method, id, &body),
            Err(_) => said(StatusCode::NOT_FOUND, "books have numbers"),
        },
        _ => said(StatusCode::NOT_FOUND, "there are /books, /books/{id} and /echo"),
    }
}

/// The request as it arrived.
fn echo(head: &http::request::Parts, body: &Bytes) -> Value {
    let mut headers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, value) in &head.headers {
        headers
            .entry(name.as_str())
            .or_default()
            .push(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    json!({
        "method": head.method.as_str(),
        "path": head.uri.path(),
        "query": head.uri.query(),
        "headers": headers,
        "body": String::from_utf8_lossy(body),
    })
}

impl Shelf {
    fn stocked() -> Self {
        let titles = [("The Left Hand of Darkness", "Ursula K. Le Guin"), ("Solaris", "Stanisław Lem")];
        let books = titles.iter().zip(1..).map(|((title, author), id)| {
            (id, json!({ "id": id, "title": title, "author": author, "read": false }))
        });
        let books: BTreeMap<u64, Value> = books.collect();
        Self { next: books.len() as u64 + 1, books }
    }

    fn all(&mut self, method: &Method, body: &Bytes) -> Response<Full<Bytes>> {
        match *method {
            Method::GET | Method::HEAD => {
                reply(StatusCode::OK, &json!({ "books": self.books.values().collect::<Vec<_>>() }))
            }
            Method::POST => {
                if self.books.len() >= MAX_BOOKS {
                    return said(StatusCode::INSUFFICIENT_STORAGE, "the shelf is full");
                }
                let id = self.next;
                let Some(book) = book(id, body) else {
                    return said(StatusCode::BAD_REQUEST, "a book is a JSON object");
                };
                self.next += 1;
                self.books.insert(id, book.clone());
                let mut created = reply(StatusCode::CREATED, &book);
                if let Ok(place) = HeaderValue::from_str(&format!("/books/{id}")) {
                    created.headers_mut().insert(LOCATION, place);
                }
                created
            }
            _ => said(StatusCode::METHOD_NOT_ALLOWED, "GET or POST"),
        }
    }

    fn one(&mut self, method: &Method, id: u64, body: &Bytes) -> Response<Full<Bytes>> {
        if !self.books.contains_key(&id) {
            return said(StatusCode::NOT_FOUND, "no such book");
        }
        match *method {
            Method::GET | Method::HEAD => reply(StatusCode::OK, self.books.get(&id).unwrap_or(&Value::Null)),
            Method::PUT => match book(id, body) {
                Some(book) => {
                    self.books.insert(id, book.clone());
                    reply(StatusCode::OK, &book)
                }
                None => said(StatusCode::BAD_REQUEST, "a book is a JSON object"),
            },
            Method::DELETE => {
                self.books.remove(&id);
                let mut gone = Response::new(Full::default());
                *gone.status_mut() = StatusCode::NO_CONTENT;
                gone
            }
            _ => said(StatusCode::METHOD_NOT_ALLOWED, "GET, PUT or DELETE"),
        }
    }
}

/// The sent book with its number.
fn book(id: u64, body: &Bytes) -> Option<Value> {
    let mut fields: serde_json::Map<String, Value> = serde_json::from_slice(body).ok()?;
    fields.insert("id".to_owned(), json!(id));
    Some(Value::Object(fields))
}

fn said(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    reply(status, &json!({ "message": message }))
}

fn reply(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::Shelf;
    use bytes::Bytes;
    use http::{Method, StatusCode};

    #[test]
    fn books_are_kept() {
        let mut shelf = Shelf::stocked();
        let sent = Bytes::from(r#"{"title":"Roadside Picnic"}"#);
        assert_eq!(shelf.all(&Method::POST, &sent).status(), StatusCode::CREATED);
        assert_eq!(shelf.all(&Method::POST, &Bytes::from("[]")).status(), StatusCode::BAD_REQUEST);
        assert_eq!(shelf.one(&Method::GET, 3, &Bytes::new()).status(), StatusCode::OK);
        assert_eq!(shelf.one(&Method::PUT, 3, &sent).status(), StatusCode::OK);
        assert_eq!(shelf.one(&Method::DELETE, 3, &Bytes::new()).status(), StatusCode::NO_CONTENT);
        assert_eq!(shelf.one(&Method::GET, 3, &Bytes::new()).status(), StatusCode::NOT_FOUND);
        assert_eq!(shelf.all(&Method::PATCH, &sent).status(), StatusCode::METHOD_NOT_ALLOWED);
    }
}
