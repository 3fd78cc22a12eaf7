// SPDX-License-Identifier: Apache-2.0
//! TLS towards clients and upstreams, as files and as artifacts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrogate_runtime::config::{ClientAuthentication, Config, UpstreamTls};
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, HandshakeKind};
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;

use crate::support::backend::Backend;
use crate::support::pki::{self, Authority, Identity, certificate, connect};
use crate::support::{Client, Gateway, api, get, read};

async fn with_https(edit: impl FnOnce(&mut Config)) -> Gateway {
    Gateway::start_with(|config| {
        config.listen.https = Some(([127, 0, 0, 1], 0).into());
        edit(config);
    })
    .await
}

/// The certificate that a client is shown who asks for this server.
async fn shown(gateway: &Gateway, client: &Arc<ClientConfig>, server: &str) -> Option<Vec<u8>> {
    let address = gateway.running().addresses().https.expect("an HTTPS address");
    let stream = connect(address, client, server).await.ok()?;
    Some(stream.get_ref().1.peer_certificates()?.first()?.to_vec())
}

fn leaf(identity: &Identity) -> Option<Vec<u8>> {
    identity.chain().first().map(|leaf| leaf.to_vec())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_speaks_both_versions_by_alpn() {
    let backend = Backend::start().await;
    let gateway = with_https(|_| {}).await;
    let authority = Authority::new("ours");
    let server = authority.issue(&["localhost"]);
    gateway.deploy(&[api("/t", &backend.url(), |_| {}), server.artifact("server", |_| {})]).await;
    let address = gateway.running().addresses().https.expect("an HTTPS address");
    let mut config = pki::client(&authority, None);

    let stream = connect(address, &Arc::new(config.clone()), "localhost").await.expect("a handshake");
    let reply = Client::over(stream).await.call(get("/t/x")).await;
    assert_eq!(reply.json()["headers"]["x-forwarded-proto"][0], "https");

    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = connect(address, &Arc::new(config), "localhost").await.expect("a handshake");
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
async fn each_server_name_has_its_certificate() {
    let gateway = with_https(|_| {}).await;
    let authority = Authority::new("ours");
    let client = Arc::new(pki::client(&authority, None));
    let shop = authority.issue(&["shop.example"]);
    let wild = authority.issue(&["*.shop.example"]);
    let rest = authority.issue(&["other.example"]);
    assert_eq!(shown(&gateway, &client, "shop.example").await, None, "a self-signed one is not trusted");
    gateway
        .deploy(&[
            shop.artifact("shop", |_| {}),
            wild.artifact("wild", |_| {}),
            rest.artifact("rest", |spec| spec["default"] = json!(true)),
        ])
        .await;
    assert_eq!(shown(&gateway, &client, "shop.example").await, leaf(&shop));
    assert_eq!(shown(&gateway, &client, "a.shop.example").await, leaf(&wild));
    assert_eq!(shown(&gateway, &client, "other.example").await, leaf(&rest));
    // What nobody has is shown the default, which this client then refuses for its name.
    assert_eq!(shown(&gateway, &client, "unknown.example").await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_replaced_under_open_connections() {
    let backend = Backend::start().await;
    let gateway = with_https(|_| {}).await;
    let authority = Authority::new("ours");
    let config = Arc::new(pki::client(&authority, None));
    let books = api("/t", &backend.url(), |_| {});
    let (old, new) = (authority.issue(&["shop.example"]), authority.issue(&["shop.example"]));
    gateway.deploy(&[books.clone(), old.artifact("shop", |_| {})]).await;
    let address = gateway.running().addresses().https.expect("an HTTPS address");
    let stream = connect(address, &config, "shop.example").await.expect("a handshake");
    let mut client = Client::over(stream).await;
    assert_eq!(client.call(get("/t/1")).await.status, StatusCode::OK);

    gateway.deploy(&[books, new.artifact("shop", |_| {})]).await;
    assert_eq!(client.call(get("/t/2")).await.status, StatusCode::OK, "the connection goes on");
    let fresh = Arc::new(pki::client(&authority, None));
    assert_eq!(shown(&gateway, &fresh, "shop.example").await, leaf(&new));
    assert_ne!(leaf(&old), leaf(&new));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_resumed_with_any_worker_and_either_version() {
    let gateway = with_https(|_| {}).await;
    let authority = Authority::new("ours");
    let server = authority.issue(&["shop.example"]);
    gateway.deploy(&[server.artifact("shop", |_| {})]).await;
    let address = gateway.running().addresses().https.expect("an HTTPS address");
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = Arc::new(pki::client_of(&[version], &authority, None));
        let mut kinds = Vec::new();
        // Either worker may get a connection; no chance that one of them got all of these.
        for _ in 0..24 {
            let mut stream = connect(address, &config, "shop.example").await.expect("a handshake");
            // Of TLS 1.3 the ticket comes after the handshake: it is read with what follows.
            let mut byte = [0];
            let read = tokio::time::timeout(Duration::from_millis(20), stream.read(&mut byte)).await;
            assert!(read.is_err(), "nothing is said unasked");
            kinds.push(stream.get_ref().1.handshake_kind());
        }
        assert_eq!(kinds.first(), Some(&Some(HandshakeKind::Full)), "{version:?}");
        assert!(
            kinds.iter().skip(1).all(|kind| *kind == Some(HandshakeKind::Resumed)),
            "{version:?}: {kinds:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstreams_certificate_is_checked_as_configured() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let authority = Authority::new("ours");
    let file = dir.path().join("ca.pem");
    std::fs::write(&file, authority.pem()).expect("a written certificate");
    let right = pki::backend(&authority.issue(&["localhost"]), None).await;
    let wrong_name = pki::backend(&authority.issue(&["other.example"]), None).await;
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
        let files = vec![file.clone()];
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_uploaded_authority_is_trusted_while_it_is_there() {
    let authority = Authority::new("theirs");
    let backend = pki::backend(&authority.issue(&["localhost"]), None).await;
    let gateway = Gateway::start().await;
    let books = api("/t", &format!("https://localhost:{}", backend.address.port()), |_| {});
    gateway.deploy(std::slice::from_ref(&books)).await;
    assert_eq!(gateway.get("/t/x").await.reason(), "upstream_tls_failed");
    gateway.deploy(&[books.clone(), certificate("theirs", &authority.pem(), |_| {})]).await;
    assert_eq!(gateway.get("/t/x").await.status, StatusCode::OK);
    // Only what an artifact names it for: nothing trusts it any more.
    let named = certificate("theirs", &authority.pem(), |spec| spec["usage"] = json!("named"));
    let elsewhere = api("/u", &format!("https://localhost:{}", backend.address.port()), |spec| {
        spec["upstream"] = json!({"main": {"ref": "other"}});
        spec["upstreamDefinitions"] = json!([{
            "name": "other",
            "upstreams": [{"url": format!("https://localhost:{}", backend.address.port())}],
            "tls": {"subjectAltNames": ["localhost"]},
        }]);
    });
    gateway.deploy(&[elsewhere, named]).await;
    assert_eq!(gateway.get("/u/x").await.reason(), "upstream_tls_failed");
}

/// An API whose upstream is defined with these words about TLS.
fn defined(port: u16, tls: serde_json::Value) -> serde_json::Value {
    api("/t", "https://localhost", |spec| {
        spec["upstream"] = json!({"main": {"ref": "books"}});
        spec["upstreamDefinitions"] = json!([{
            "name": "books",
            "upstreams": [{"url": format!("https://localhost:{port}")}],
            "tls": tls,
        }]);
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_proves_itself_as_its_definition_says() {
    let (authority, other) = (Authority::new("theirs"), Authority::new("another"));
    let backend = pki::backend(&authority.issue(&["books.internal", "alias.internal"]), Some(&other)).await;
    let port = backend.address.port();
    let artifacts = [
        certificate("theirs", &authority.pem(), |spec| spec["usage"] = json!("named")),
        certificate("another", &other.pem(), |_| {}),
        other.issue(&["the gateway"]).artifact("ours", |spec| spec["usage"] = json!("named")),
        authority.issue(&["the gateway"]).artifact("not-ours", |spec| spec["usage"] = json!("named")),
    ];
    let ca = "theirs";
    let failed = "upstream_tls_failed";
    for (tls, reason) in [
        (json!({"caCertificate": ca, "clientCertificate": "ours", "serverName": "books.internal"}), ""),
        (
            json!({"caCertificate": ca, "clientCertificate": "ours", "subjectAltNames": ["x", "alias.internal"]}),
            "",
        ),
        // The URL's host is not in the certificate.
        (json!({"caCertificate": ca, "clientCertificate": "ours"}), failed),
        (json!({"caCertificate": ca, "clientCertificate": "ours", "subjectAltNames": ["localhost"]}), failed),
        // Of another authority, and of one that is not there.
        (
            json!({"caCertificate": "another", "clientCertificate": "ours", "serverName": "books.internal"}),
            failed,
        ),
        (
            json!({"caCertificate": "none", "clientCertificate": "ours", "serverName": "books.internal"}),
            failed,
        ),
        (json!({"clientCertificate": "ours", "serverName": "books.internal"}), failed),
        // We are not who it expects, or cannot show it.
        (json!({"caCertificate": ca, "clientCertificate": "theirs", "serverName": "books.internal"}), failed),
    ] {
        let gateway = Gateway::start().await;
        let mut documents = artifacts.to_vec();
        documents.push(defined(port, tls.clone()));
        gateway.deploy(&documents).await;
        let reply = gateway.get("/t/x").await;
        if reason.is_empty() {
            assert_eq!(reply.status, StatusCode::OK, "{tls}: {reply:?}");
        } else {
            assert_eq!(reply.reason(), reason, "{tls}");
        }
    }
    // TLS 1.3 tells that a client's certificate is refused only after the handshake.
    for tls in [
        json!({"caCertificate": ca, "serverName": "books.internal"}),
        json!({"caCertificate": ca, "clientCertificate": "not-ours", "serverName": "books.internal"}),
    ] {
        let gateway = Gateway::start().await;
        let mut documents = artifacts.to_vec();
        documents.push(defined(port, tls.clone()));
        gateway.deploy(&documents).await;
        let reply = gateway.get("/t/x").await;
        assert!(reply.status.is_server_error(), "{tls}: {reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_not_shared_between_ways_to_prove_oneself() {
    let authority = Authority::new("theirs");
    let backend = pki::backend(&authority.issue(&["localhost"]), None).await;
    let url = format!("https://localhost:{}", backend.address.port());
    let gateway = Gateway::start().await;
    let strict = defined(backend.address.port(), json!({"subjectAltNames": ["somebody.else"]}));
    let plain = api("/u", &url, |_| {});
    gateway.deploy(&[plain, strict, certificate("theirs", &authority.pem(), |_| {})]).await;
    for _ in 0..4 {
        assert_eq!(gateway.get("/u/x").await.status, StatusCode::OK);
        assert_eq!(gateway.get("/t/x").await.reason(), "upstream_tls_failed");
    }
}

/// Answers with a word to whom it knows, whoever they say they are.
fn known(upstream: &str) -> serde_json::Value {
    api("/t", upstream, |spec| {
        spec["policies"] = json!([{
            "name": "probe",
            "version": "v1",
            "params": {"do": "answer", "value": "known"},
            "executionCondition": "request.ClientCertificate != null && \
                                   'ann.example' in request.ClientCertificate.DnsNames",
        }]);
    })
}

/// What a client gets who shows this: nothing, or the status and what its upstream was told.
async fn called(
    gateway: &Gateway,
    trusted: &Authority,
    shown: Option<&Identity>,
) -> Option<(u16, Option<String>)> {
    let address = gateway.running().addresses().https.expect("an HTTPS address");
    let config = Arc::new(pki::client(trusted, shown));
    let mut stream = connect(address, &config, "shop.example").await.ok()?;
    // Of TLS 1.3 a refused certificate is told after the handshake, when something is read.
    let mut byte = [0];
    let read = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut byte)).await;
    if read.is_ok() {
        return None;
    }
    let mut request = get("/t/x");
    request.headers_mut().insert("x-client-cert", "Subject=\"CN=mallory\"".parse().expect("a value"));
    let reply = Client::over(stream).await.call(request).await;
    let told = (reply.status == StatusCode::OK).then(|| reply.json()["headers"]["x-client-cert"].clone());
    Some((reply.status.as_u16(), told.and_then(|told| told[0].as_str().map(str::to_owned))))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_prove_themselves_as_the_operator_wants_and_policies_know() {
    let backend = Backend::start().await;
    let (ours, clients, others) =
        (Authority::new("ours"), Authority::new("clients"), Authority::new("others"));
    let server = ours.issue(&["shop.example"]).artifact("shop", |_| {});
    let trust = certificate("clients", &clients.pem(), |spec| spec["usage"] = json!("clientTrust"));
    let (ann, bob) = (clients.issue(&["ann.example"]), clients.issue(&["bob.example"]));
    let foreign = others.issue(&["ann.example"]);
    for wanted in [ClientAuthentication::None, ClientAuthentication::Optional, ClientAuthentication::Required]
    {
        let gateway = with_https(|config| {
            config.downstream_tls.client_authentication = wanted;
            config.downstream_tls.client_certificate_header = Some("x-client-cert".parse().expect("a name"));
        })
        .await;
        gateway.deploy(&[known(&backend.url()), server.clone()]).await;
        let stranger = called(&gateway, &ours, None).await;
        let proven = called(&gateway, &ours, Some(&ann)).await;
        match wanted {
            // Nobody is trusted to say who a client is, so that all are strangers, or turned away.
            ClientAuthentication::None | ClientAuthentication::Optional => {
                assert_eq!((stranger, proven), (Some((200, None)), Some((200, None))), "{wanted:?}");
            }
            ClientAuthentication::Required => assert_eq!((stranger, proven), (None, None)),
        }
        gateway.deploy(&[known(&backend.url()), server.clone(), trust.clone()]).await;
        let stranger = called(&gateway, &ours, None).await;
        let proven = called(&gateway, &ours, Some(&ann)).await;
        let unknown = called(&gateway, &ours, Some(&bob)).await;
        let refused = called(&gateway, &ours, Some(&foreign)).await;
        if wanted == ClientAuthentication::None {
            assert_eq!((stranger, proven), (Some((200, None)), Some((200, None))));
            continue;
        }
        let required = wanted == ClientAuthentication::Required;
        assert_eq!(stranger, (!required).then_some((200, None)), "{wanted:?}");
        assert_eq!(proven, Some((418, None)), "{wanted:?}: the policy knows who it is");
        let told = unknown.and_then(|(status, told)| (status == 200).then_some(told?)).expect("served");
        assert!(told.starts_with("Hash=") && told.contains("Subject=\"CN=bob.example\""), "{told}");
        assert_eq!(refused, None, "{wanted:?}: of nobody that is trusted");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_trusted_no_more_does_not_resume() {
    let gateway =
        with_https(|config| config.downstream_tls.client_authentication = ClientAuthentication::Required)
            .await;
    let (ours, clients, others) =
        (Authority::new("ours"), Authority::new("clients"), Authority::new("others"));
    let server = ours.issue(&["shop.example"]).artifact("shop", |_| {});
    let trusting = |authority: &Authority| {
        certificate("clients", &authority.pem(), |spec| spec["usage"] = json!("clientTrust"))
    };
    let ann = clients.issue(&["ann.example"]);
    let address = gateway.running().addresses().https.expect("an HTTPS address");
    let config = Arc::new(pki::client_of(&[&rustls::version::TLS12], &ours, Some(&ann)));
    gateway.deploy(&[server.clone(), trusting(&clients)]).await;
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let stream = connect(address, &config, "shop.example").await.expect("a handshake");
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(kind));
    }
    gateway.deploy(&[server, trusting(&others)]).await;
    assert!(connect(address, &config, "shop.example").await.is_err(), "the old session still counts");
}
