// SPDX-License-Identifier: Apache-2.0
//! curl over every version of HTTP that the gateway speaks, towards upstreams of every version, and
//! what it says of its clients on the way.

use anyhow::ensure;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::gateway::{FIRST, Gateway, edited};
use crate::pki::Authority;
use crate::tools::{curl, status};
use crate::upstream::{Upstream, until};

/// What the upstream saw of a request that curl sent so.
async fn seen(args: &[&str]) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&curl(args).await?)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_speaks_every_version_with_and_without_tls() -> anyhow::Result<()> {
    let (gateway, upstream) = (Gateway::start(&[]).await?, Upstream::start().await?);
    gateway.apply("reading-list.yaml", &[(FIRST, &upstream.url())]).await?;
    let plain = gateway.url("/reading-list/v1/echo");
    let secure = format!("https://{}/reading-list/v1/echo", gateway.https);
    // As curl writes it.
    for (version, url, flags) in [
        ("1", &plain, &["--http1.0"][..]),
        ("1.1", &plain, &["--http1.1"]),
        ("2", &plain, &["--http2-prior-knowledge"]),
        ("1.1", &secure, &["-k", "--http1.1"]),
        ("2", &secure, &["-k", "--http2"]),
        // Nothing to agree about: a client without ALPN speaks HTTP/1.1.
        ("1.1", &secure, &["-k", "--no-alpn"]),
    ] {
        let args = [flags, &["-w", "\n%{http_version} %header{x-served-by}", "-d", "a note", url]].concat();
        let told = curl(&args).await?;
        let (body, spoken) = told.rsplit_once('\n').unwrap_or_default();
        ensure!(spoken == format!("{version} ferrogate"), "{flags:?}: {told}");
        let body: Value = serde_json::from_str(body)?;
        ensure!(body["version"] == "HTTP/1.1" && body["body"] == "a note", "{body}");
        ensure!(body["headers"]["x-reading-list"] == "via-ferrogate", "{body}");
    }
    // `Upgrade: h2c` is no way in: the request is answered as it came.
    let told = curl(&["--http2", "-w", "%{http_version}", "-o", "/dev/null", &plain]).await?;
    ensure!(told == "1.1", "{told}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_meant_for_the_next_hop_ends_there_and_every_request_has_an_id() -> anyhow::Result<()> {
    let (gateway, upstream) = (Gateway::start(&[]).await?, Upstream::start().await?);
    gateway.apply("reading-list.yaml", &[(FIRST, &upstream.url())]).await?;
    let url = gateway.url("/reading-list/v1/echo");
    let hop = ["-H", "connection: x-secret, keep-alive", "-H", "x-secret: 1", "-H", "keep-alive: timeout=9"];
    let more = ["-H", "proxy-connection: keep-alive", "-H", "te: gzip", "-H", "x-kept: 1", &url];
    let body = seen(&[&hop[..], &more].concat()).await?;
    for gone in ["x-secret", "keep-alive", "proxy-connection", "te", "connection"] {
        ensure!(body["headers"][gone].is_null(), "{gone}: {body}");
    }
    ensure!(body["headers"]["x-kept"] == "1", "{body}");
    ensure!(body["headers"]["x-request-id"].as_str().is_some_and(|id| id.len() == 36), "{body}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balancer_says_who_the_client_is() -> anyhow::Result<()> {
    let gateway = Gateway::configured("behind-a-balancer.toml").await?;
    let upstream = Upstream::start().await?;
    gateway.apply("reading-list.yaml", &[(FIRST, &upstream.url())]).await?;
    let url = gateway.url("/reading-list/v1/echo");
    // curl writes version 1, with itself as the client.
    let forwarded = ["-H", "x-forwarded-for: 203.0.113.9, 198.51.100.7", "-H", "x-forwarded-proto: https"];
    let body = seen(&[&["--haproxy-protocol"], &forwarded[..], &[&url]].concat()).await?;
    let headers = &body["headers"];
    ensure!(headers["x-forwarded-for"] == "198.51.100.7, 127.0.0.1", "{body}");
    ensure!(headers["x-forwarded-proto"] == "https", "{body}");
    ensure!(headers["forwarded"].as_str().is_some_and(|told| told.contains("for=127.0.0.1")), "{body}");
    ensure!(headers["via"] == "1.1 edge", "{body}");
    let via = curl(&["--haproxy-protocol", "-o", "/dev/null", "-w", "%header{via}", &url]).await?;
    ensure!(via == "1.1 edge", "{via}");
    // Without the header there is no request at all.
    ensure!(status(&["--http1.1", &url]).await.is_err(), "served without a PROXY header");

    // Version 2: a signature, PROXY over TCP/IPv4, both addresses and ports.
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    bytes.extend([192, 0, 2, 44, 192, 0, 2, 1, 0x9c, 0x40, 0x01, 0xbb]);
    let head = "GET /reading-list/v1/echo HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
    bytes.extend(head.as_bytes());
    let mut stream = TcpStream::connect(gateway.http).await?;
    stream.write_all(&bytes).await?;
    let answer = until(&mut stream, "never").await;
    ensure!(answer.contains(r#""x-forwarded-for":"192.0.2.44""#), "{answer}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_are_spoken_to_in_the_version_that_they_speak() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::new(folder.path())?;
    let identity = authority.issue("books.partner.example")?;
    let secure = Upstream::over_tls(identity.server(None)?).await?;
    let mut old = identity.server(None)?;
    old.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (older, plain) = (Upstream::over_tls(old).await?, Upstream::start().await?);
    let gateway = Gateway::start(&[]).await?;
    // An authority that every upstream is trusted by.
    let trust = json!({
        "apiVersion": "gateway.api-platform.wso2.com/v1",
        "kind": "Certificate",
        "metadata": { "name": "partners" },
        "spec": { "certificate": authority.pem() },
    });
    gateway.apply_text("trust.json", &trust.to_string()).await?;
    let url = gateway.url("/protocols/v1/trailers");
    for (upstream, version) in [(&secure, "HTTP/2.0"), (&older, "HTTP/1.1")] {
        let there = format!("https://{}", upstream.address);
        let edits = [("https://127.0.0.1:8443", there.as_str()), (FIRST, &plain.url())];
        gateway.apply_text("protocols.yaml", &edited("upstream-protocols.yaml", &edits)?).await?;
        let body = seen(&["-H", "host: protocols.example.com", &url]).await?;
        ensure!(body["version"] == version, "{body}");
    }
    // Trailers pass from HTTP/2 to a client of either version.
    for version in ["--http2-prior-knowledge", "--http1.1"] {
        let wanting =
            ["-H", "host: sandbox.protocols.example.com", "-H", "te: trailers", "-H", "connection: te"];
        let told = curl(&[&wanting[..], &["-i", version, &url]].concat()).await?;
        ensure!(told.contains(r#""version":"HTTP/2.0""#) && told.contains("x-sum: 7"), "{version}: {told}");
    }
    Ok(())
}
