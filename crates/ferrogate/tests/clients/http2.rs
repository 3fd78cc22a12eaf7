// SPDX-License-Identifier: Apache-2.0
//! nghttp and h2load: what a client of HTTP/2 is told, and many requests at a time.

use anyhow::ensure;

use crate::gateway::{FIRST, Gateway};
use crate::tools::{curl, h2load, run};
use crate::upstream::Upstream;

#[tokio::test(flavor = "multi_thread")]
async fn h2load_has_every_request_answered() -> anyhow::Result<()> {
    let (gateway, upstream) = (Gateway::start(&[]).await?, Upstream::start().await?);
    gateway.apply("reading-list.yaml", &[(FIRST, &upstream.url())]).await?;
    let plain = gateway.url("/reading-list/v1/books");
    let secure = format!("https://{}/reading-list/v1/books", gateway.https);
    for (url, flags) in [
        (&plain, &["-c", "4", "-m", "50"][..]),
        (&secure, &["-c", "4", "-m", "50"]),
        (&secure, &["-c", "4", "-m", "1", "--npn-list", "http/1.1"]),
        (&plain, &["-c", "4", "-m", "1", "--h1"]),
    ] {
        let before = upstream.requests();
        let answers = h2load(500, &[flags, &[url]].concat()).await?;
        ensure!(answers == [500, 0, 0, 0], "{url} {flags:?}: {answers:?}");
        ensure!(upstream.requests() - before == 500, "{url} {flags:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nghttp_is_told_the_settings_and_sends_trailers_through() -> anyhow::Result<()> {
    let gateway = Gateway::configured("limits.toml").await?;
    let upstream = Upstream::start().await?;
    gateway.apply("upstream-protocols.yaml", &[(FIRST, &upstream.url())]).await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("body").display().to_string();
    std::fs::write(&file, "a note")?;
    let url = gateway.url("/protocols/v1/notes");
    let host = ["-H", ":authority: sandbox.protocols.example.com"];
    let args = [&["-v", "-d", &file, "--trailer", "x-up: 7"], &host[..], &[&url]].concat();
    let told = run("nghttp", &args).await?.all();
    for setting in ["SETTINGS_MAX_CONCURRENT_STREAMS(0x03):10]", "SETTINGS_ENABLE_CONNECT_PROTOCOL(0x08):1]"]
    {
        ensure!(told.contains(setting), "no {setting} in {told}");
    }
    for seen in [r#""version":"HTTP/2.0""#, r#""body":"a note""#, r#""x-up":"7""#] {
        ensure!(told.contains(seen), "no {seen} in {told}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_in_order_after_its_last_request() -> anyhow::Result<()> {
    let gateway = Gateway::configured("limits.toml").await?;
    let upstream = Upstream::start().await?;
    gateway.apply("reading-list.yaml", &[(FIRST, &upstream.url())]).await?;
    // Twice as many requests as a connection may carry, one after the other. Over TLS: curl of Debian 12
    // cannot use a connection of prior knowledge a second time, whoever is at its other end.
    let urls = format!("https://{}/reading-list/v1/books?[1-100]", gateway.https);
    for version in ["--http1.1", "--http2"] {
        let args = ["-k", version, "-o", "/dev/null", "-w", "%{http_code} %{num_connects}\n", &urls];
        let told = curl(&args).await?;
        let (answered, connections) = told.lines().fold((0, 0), |(answered, connections), line| {
            (
                answered + usize::from(line.starts_with("200 ")),
                connections + usize::from(line.ends_with(" 1")),
            )
        });
        ensure!((answered, connections) == (100, 2), "{version}: {answered} over {connections}");
    }
    Ok(())
}
