// SPDX-License-Identifier: Apache-2.0
//! Bodies that come bit by bit, as curl sees and sends them: events, uploads, interim answers and
//! trailers. Each upstream of a test waits until the client has what came before.

use std::sync::atomic::Ordering;

use anyhow::{Context as _, ensure};
use ferrogate_testkit::eventually::eventually;
use tokio::io::AsyncWriteExt as _;

use crate::gateway::{FIRST, Gateway};
use crate::tools::{PATIENCE, Talk, curl, fed, run};
use crate::upstream::{Upstream, until};

#[tokio::test(flavor = "multi_thread")]
async fn an_event_arrives_before_the_next_is_made() -> anyhow::Result<()> {
    let (gateway, upstream) = (Gateway::start(&[]).await?, Upstream::start().await?);
    gateway.apply("streams.yaml", &[(FIRST, &upstream.url())]).await?;
    let url = gateway.url("/streams/events");
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let mut client = Talk::start("curl", &["-sSN", version, &url])?;
        let first = client.until("data: one\n\n").await?;
        ensure!(!first.contains("two"), "{version}: {first}");
        // A deployment in between does not touch it.
        gateway.apply("headers.yaml", &[]).await?;
        upstream.control.gate.add_permits(1);
        client.until("data: two\n\n").await?;
        ensure!(client.end().await?.success, "{version}: the stream did not end in order");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_are_asked_for_and_pass_whole() -> anyhow::Result<()> {
    let (gateway, upstream) = (Gateway::start(&[]).await?, Upstream::start().await?);
    gateway.apply("streams.yaml", &[(FIRST, &upstream.url())]).await?;
    let url = gateway.url("/streams/uploads/note");
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("body").display().to_string();
    let body = vec![b'x'; 3 << 20];
    std::fs::write(&file, &body)?;
    // curl waits for the word to go on, for as long as the test does.
    let patient = ["-v", "-H", "expect: 100-continue", "--expect100-timeout", "60"];
    let told = run("curl", &[&patient[..], &["--http1.1", "-T", &file, &url]].concat()).await?;
    ensure!(told.err.contains("< HTTP/1.1 100 Continue"), "{}", told.err);
    ensure!(told.out.contains(r#""length":3145728"#) && !told.out.contains(r#""expect""#), "{}", told.out);
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let told = fed("curl", &["-sS", version, "-T", "-", &url], &body).await?;
        ensure!(told.out.contains(r#""length":3145728"#), "{version}: {}", told.all());
    }
    Ok(())
}

/// Takes the chunks of an upload as they come; hints and trailers for who asks for those.
async fn raw() -> anyhow::Result<Upstream> {
    const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n";
    const TRAILED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
                           2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n";
    Upstream::listen(|mut stream, control| async move {
        loop {
            let head = until(&mut stream, "\r\n\r\n").await;
            let mut answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            if head.starts_with("PUT ") {
                until(&mut stream, "begun").await;
                control.requests.fetch_add(1, Ordering::SeqCst);
                until(&mut stream, "0\r\n\r\n").await;
            } else if head.contains("/hints ") {
                stream.write_all(HINTS.as_bytes()).await.ok();
                // The answer is made when the client has the hint.
                control.gate.acquire().await.expect("an open gate").forget();
            } else if head.contains("/trailers ") {
                answer = TRAILED;
            } else {
                return;
            }
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_trailers_and_uploads_pass_as_they_come() -> anyhow::Result<()> {
    let (gateway, upstream) = (Gateway::start(&[]).await?, raw().await?);
    gateway.apply("streams.yaml", &[(FIRST, &upstream.url())]).await?;

    // `-D -` writes each head when it comes; `-i` waits for more.
    let hints = gateway.url("/streams/hints");
    let mut client = Talk::start("curl", &["-sSN", "-D", "-", "--http1.1", &hints])?;
    let hint = client.until("link: </a.css>; rel=preload\r\n").await?;
    ensure!(hint.starts_with("HTTP/1.1 103 ") && !hint.contains(" 200 "), "{hint}");
    upstream.control.gate.add_permits(1);
    client.until("HTTP/1.1 200 ").await?;
    client.end().await?;

    let wanting = ["-i", "--http1.1", "-H", "te: trailers", "-H", "connection: te"];
    let told = curl(&[&wanting[..], &[&gateway.url("/streams/trailers")]].concat()).await?;
    ensure!(told.contains("x-sum: 7"), "{told}");

    // `-T .` sends standard input as it comes.
    let upload = gateway.url("/streams/uploads/note");
    let mut client = Talk::start("curl", &["-sSi", "--http1.1", "-T", ".", &upload])?;
    client.say("begun").await?;
    let there = eventually(PATIENCE, || (upstream.requests() == 1).then_some(())).await;
    there.context("the first part did not arrive before the second was sent")?;
    client.say(" and ended").await?;
    let told = client.end().await?;
    ensure!(told.out.contains("HTTP/1.1 200 "), "{}", told.all());
    Ok(())
}
