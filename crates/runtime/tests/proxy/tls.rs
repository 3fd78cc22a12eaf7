// SPDX-License-Identifier: Apache-2.0
//! TLS towards clients and upstreams.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use ferrogate_runtime::config::{Config, DownstreamTls, UpstreamTls};
use ferrogate_runtime::tls::{client_config, server_config};
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::support::backend::{Backend, serve};
use crate::support::{Client, Gateway, api, get, read};

/// A certificate for this name, signed by itself, as files.
pub fn certificate(dir: &std::path::Path, name: &str) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate");
    let (cert, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
    std::fs::write(&cert, made.cert.pem()).expect("a written certificate");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("a written key");
    (cert, key)
}

/// An https upstream with this certificate.
async fn secure_backend(dir: &std::path::Path, name: &str) -> (Backend, PathBuf) {
    let (cert, key) = certificate(dir, name);
    let settings =
        DownstreamTls { cert_path: Some(cert.clone()), key_path: Some(key), ..DownstreamTls::default() };
    let mut config = (*server_config(&settings).expect("a server")).clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let backend = Backend::listen(move |stream, control| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                serve(stream, control).await;
            }
        }
    });
    (backend.await, cert)
}

async fn connect(address: SocketAddr, alpn: &[u8]) -> TlsStream<TcpStream> {
    let trusting = UpstreamTls { disable_verification: true, ..UpstreamTls::default() };
    let mut config = (*client_config(&trusting).expect("a client")).clone();
    config.alpn_protocols = vec![alpn.to_vec()];
    let stream = TcpStream::connect(address).await.expect("a connection");
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("a handshake")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_speaks_both_versions_by_alpn() {
    let backend = Backend::start().await;
    let gateway = Gateway::start_with(|config| config.listen.https = Some(([127, 0, 0, 1], 0).into())).await;
    gateway.deploy(&[api("/t", &backend.url(), |_| {})]).await;
    let address = gateway.running().addresses().https.expect("an HTTPS address");

    let reply = Client::over(connect(address, b"http/1.1").await).await.call(get("/t/x")).await;
    assert_eq!(reply.json()["headers"]["x-forwarded-proto"][0], "https");

    let stream = connect(address, b"h2").await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("h2");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { drop(connection.await) });
    let sent = Request::get("https://books.example/t/y").body(Full::<Bytes>::default()).expect("a request");
    let reply = read(sender.send_request(sent).await.expect("a response")).await;
    assert_eq!(reply.json()["path"], "/y");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstreams_certificate_is_checked_as_configured() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (right, trusted) = secure_backend(dir.path(), "localhost").await;
    let (wrong_name, other) = secure_backend(dir.path(), "other.example").await;
    type Edit = fn(&mut UpstreamTls);
    let cases: [(&str, u16, &str, Edit); 5] = [
        ("trusted", right.address.port(), "", |_| {}),
        ("unknown authority", right.address.port(), "upstream_tls_failed", |tls| tls.extra_ca_files.clear()),
        ("wrong name", wrong_name.address.port(), "upstream_tls_failed", |_| {}),
        ("any name", wrong_name.address.port(), "", |tls| tls.verify_host_name = false),
        ("no check", wrong_name.address.port(), "", |tls| {
            tls.extra_ca_files.clear();
            tls.disable_verification = true;
        }),
    ];
    for (what, port, reason, edit) in cases {
        let files = vec![trusted.clone(), other.clone()];
        let gateway = Gateway::start_with(move |config: &mut Config| {
            config.upstream.tls.extra_ca_files = files;
            edit(&mut config.upstream.tls);
        })
        .await;
        gateway.deploy(&[api("/t", &format!("https://localhost:{port}"), |_| {})]).await;
        let reply = gateway.get("/t/x").await;
        if reason.is_empty() {
            assert_eq!(reply.status, StatusCode::OK, "{what}: {reply:?}");
        } else {
            assert_eq!(reply.reason(), reason, "{what}");
        }
    }
}
