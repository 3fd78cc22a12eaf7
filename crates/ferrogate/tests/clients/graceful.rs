// SPDX-License-Identifier: Apache-2.0
//! A stop under requests of curl and nghttp: both are told that their connection ends, and neither
//! loses an answer.

use anyhow::{Context as _, ensure};
use ferrogate_testkit::eventually::{eventually, eventually_async};
use ferrogate_testkit::process::Signal;

use crate::gateway::{FIRST, Gateway};
use crate::tools::{PATIENCE, Talk, run, status};
use crate::upstream::Upstream;

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_answers_what_is_under_way_and_says_goodbye() -> anyhow::Result<()> {
    let mut gateway = Gateway::configured("limits.toml").await?;
    let upstream = Upstream::start().await?;
    gateway.apply("reading-list.yaml", &[(FIRST, &upstream.url())]).await?;
    let url = gateway.url("/reading-list/v1/books");
    let one = Talk::start("curl", &["-sSi", "--http1.1", "-H", "x-wait: 1", &url])?;
    let two = Talk::start("nghttp", &["-v", "-H", "x-wait: 1", &url])?;
    eventually(PATIENCE, || (upstream.requests() == 2).then_some(())).await.context("not both")?;

    gateway.process.signal(Signal::TERM)?;
    let ready = format!("{}/ready", gateway.process.url("readiness"));
    let told = eventually_async(PATIENCE, || async {
        // Once nobody listens it is over as well: the delay may have been missed.
        status(&[&ready]).await.map_or(Some(()), |told| (told == "503").then_some(()))
    });
    told.await.context("readiness stays")?;
    // Refused is curl's 7: from here on there is nothing but what is under way.
    let refused = eventually_async(PATIENCE, || async {
        run("curl", &["-sS", &url]).await.ok().filter(|told| told.err.starts_with("curl: (7)"))
    });
    refused.await.context("connections are still taken")?;
    upstream.control.gate.add_permits(2);
    let one = one.end().await?;
    ensure!(one.out.starts_with("HTTP/1.1 200 "), "{}", one.all());
    ensure!(one.out.to_lowercase().contains("\r\nconnection: close\r\n"), "{}", one.out);
    let two = two.end().await?.all();
    ensure!(two.contains("recv GOAWAY frame") && two.contains(":status: 200"), "{two}");
    let ended = eventually(PATIENCE, || gateway.process.ended()).await;
    ensure!(ended.context("it goes on")?.success(), "the drain was not clean");
    Ok(())
}
