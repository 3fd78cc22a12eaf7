// SPDX-License-Identifier: Apache-2.0
//! `examples/limits.toml` as it stands, and clients that go beyond it: what they are told, and that
//! it is counted.

use anyhow::{Context as _, ensure};
use ferrogate_testkit::eventually::{eventually, eventually_async};
use rustix::process::Signal;

use crate::gateway::{FIRST, Gateway, edited};
use crate::tools::{PATIENCE, Talk, curl, h2load, run, status, statuses};
use crate::upstream::Upstream;

async fn gateway() -> anyhow::Result<(Gateway, Upstream)> {
    let (gateway, upstream) = (Gateway::configured("limits.toml").await?, Upstream::start().await?);
    gateway.apply("reading-list.yaml", &[(FIRST, &upstream.url())]).await?;
    gateway.apply("streams.yaml", &[(FIRST, &upstream.url())]).await?;
    Ok((gateway, upstream))
}

async fn counted(gateway: &Gateway, reason: &str, times: f64) -> anyhow::Result<()> {
    let name = format!("ferrogate_runtime_failures_total{{reason=\"{reason}\"}}");
    let reached =
        eventually_async(PATIENCE, || async { (gateway.metric(&name).await.ok()? >= times).then_some(()) });
    reached.await.with_context(|| format!("{reason} was not counted {times} times"))
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_and_bodies_that_are_too_large_are_refused() -> anyhow::Result<()> {
    let (gateway, _upstream) = gateway().await?;
    let url = gateway.url("/reading-list/v1/books");
    let many: Vec<String> = (0..41).map(|number| format!("x-{number}: 1")).collect();
    let many: Vec<&str> = many.iter().flat_map(|header| ["-H", header]).collect();
    let long = format!("x-long: {}", "y".repeat(20_000));
    let far = format!("{url}/{}", "x".repeat(2_100));
    let folder = tempfile::tempdir()?;
    let large = folder.path().join("large").display().to_string();
    std::fs::write(&large, vec![b'x'; (1 << 20) + 1])?;
    let data = format!("@{large}");
    let unknown = ["-H", "transfer-encoding: chunked", "--data-binary", &data, &url];
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        for (args, expected) in [
            ([&many[..], &[&url]].concat(), "431"),
            (vec!["-H", &long, &url], "431"),
            (vec![&far], "414"),
            (vec!["--data-binary", "fits", &url], "200"),
        ] {
            let told = status(&[&[version], &args[..]].concat()).await?;
            ensure!(told == expected, "{version}: {told} in place of {expected}");
        }
    }
    let known = ["--http1.1", "--data-binary", &data, &url];
    ensure!(status(&known).await? == "413", "with a length");
    ensure!(status(&[&["--http1.1"], &unknown[..]].concat()).await? == "413", "without a length");
    // nghttp, for curl of Debian 12 drops an answer behind which its upload is stopped (RFC 9113, 8.1).
    let told = run("nghttp", &["-v", "-d", &large, &url]).await?.out;
    ensure!(told.contains(":status: 413") && told.contains("request_body_too_large"), "{told}");
    // A client that asks first does not send what nobody takes.
    let asking = ["--http1.1", "-H", "expect: 100-continue", "--expect100-timeout", "60"];
    let format = ["-o", "/dev/null", "-w", "%{http_code} %{size_upload}", "--data-binary", &data, &url];
    let told = curl(&[&asking[..], &format].concat()).await?;
    ensure!(told == "413 0", "{told}");
    counted(&gateway, "uri_too_long", 2.0).await?;
    counted(&gateway, "request_body_too_large", 4.0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_heads_and_slow_bodies_are_408() -> anyhow::Result<()> {
    let (gateway, _upstream) = gateway().await?;
    let address = gateway.https.to_string();
    let mut slow = Talk::start("openssl", &["s_client", "-quiet", "-connect", &address])?;
    slow.say("GET /reading-list/v1/books HTTP/1.1\r\nhost: h\r\nx-slow: ").await?;
    let told = slow.until("request_timeout").await?;
    ensure!(told.starts_with("HTTP/1.1 408 "), "{told}");

    // `-T .` sends standard input as it comes, and here nothing more does.
    let url = gateway.url("/streams/uploads");
    let mut slow = Talk::start("curl", &["-sSiN", "--http1.1", "-X", "POST", "-T", ".", &url])?;
    slow.say("begun").await?;
    let told = slow.until("request_timeout").await?;
    ensure!(told.contains("HTTP/1.1 408 "), "{told}");
    counted(&gateway, "request_timeout", 2.0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_at_a_time_is_shed_at_once() -> anyhow::Result<()> {
    let (gateway, upstream) = gateway().await?;
    let url = gateway.url("/reading-list/v1/books");
    let urls = format!("{url}?[1-20]");
    let parallel = ["-sS", "-Z", "--parallel-immediate", "--parallel-max", "20", "-H", "x-wait: 1"];
    let more = ["-o", "/dev/null", "-w", "%{http_code}\n", &urls];
    let full = Talk::start("curl", &[&parallel[..], &more].concat())?;
    eventually(PATIENCE, || (upstream.requests() == 20).then_some(())).await.context("not twenty")?;
    let told = curl(&["-w", "\n%{http_code} %header{retry-after}", &url]).await?;
    ensure!(told.contains(r#""reason":"overloaded""#) && told.ends_with("\n503 1"), "{told}");
    upstream.control.gate.add_permits(20);
    let told = full.end().await?;
    ensure!(told.out == "200\n".repeat(20), "{}", told.all());
    ensure!(status(&[&url]).await? == "200", "it is over");
    counted(&gateway, "overloaded", 1.0).await?;
    // As many streams as a connection may have at a time.
    let answers = h2load(40, &["-c", "1", "-m", "10", &url]).await?;
    ensure!(answers == [40, 0, 0, 0], "{answers:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_beyond_the_limit_are_refused_and_the_others_served() -> anyhow::Result<()> {
    let (gateway, upstream) = gateway().await?;
    // All at once, before nghttp has read how many it may have; none ends before all have come.
    let url = gateway.url("/reading-list/v1/books");
    let told = Talk::start("nghttp", &["-v", "-n", "-m", "45", "-H", "x-wait: 1", &url])?;
    eventually(PATIENCE, || (upstream.requests() == 10).then_some(())).await.context("not ten")?;
    upstream.control.gate.add_permits(45);
    let told = told.end().await?.out;
    let served = told.matches(":status: 200").count();
    let refused = told.matches("error_code=REFUSED_STREAM").count();
    ensure!(
        served >= 10 && refused > 0 && served + refused == 45,
        "{served} served, {refused} refused: {told}"
    );
    ensure!(!told.contains("ENHANCE_YOUR_CALM"), "{told}");
    Ok(())
}

/// curl's exit code for what took longer than `--max-time`.
const TIMED_OUT: &str = "curl: (28)";

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_wait_until_another_ends() -> anyhow::Result<()> {
    let text = edited("limits.toml", &[("max_connections = 500", "max_connections = 2")])?;
    let gateway = Gateway::with_configuration(&text).await?;
    let upstream = Upstream::start().await?;
    gateway.apply("reading-list.yaml", &[(FIRST, &upstream.url())]).await?;
    let mut held = Vec::new();
    for _ in 0..2 {
        let address = gateway.https.to_string();
        let mut client = Talk::start("openssl", &["s_client", "-quiet", "-connect", &address])?;
        client.say("GET /reading-list/v1/books HTTP/1.1\r\nhost: h\r\n\r\n").await?;
        client.until("HTTP/1.1 200 OK").await?;
        held.push(client);
    }
    let url = gateway.url("/reading-list/v1/books");
    let waiting = run("curl", &["-sS", "--max-time", "1", &url]).await?;
    ensure!(waiting.err.contains(TIMED_OUT), "{}", waiting.all());
    ensure!(gateway.metric("ferrogate_runtime_accept_paused_total").await? >= 1.0);
    drop(held.pop());
    ensure!(status(&[&url]).await? == "200", "there is room again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_held_up_sheds_until_it_has_caught_up() -> anyhow::Result<()> {
    let text = edited("limits.toml", &[(r#"max_lag = "2s""#, r#"max_lag = "200ms""#)])?;
    let gateway = Gateway::with_configuration(&text).await?;
    let upstream = Upstream::start().await?;
    gateway.apply("reading-list.yaml", &[(FIRST, &upstream.url())]).await?;
    let url = gateway.url("/reading-list/v1/books");
    // Which of the requests that wait come before the worker sees the time is the scheduler's choice.
    let shed = || async {
        gateway.process.signal(Signal::STOP).ok()?;
        let waiting = Talk::start("h2load", &["--h1", "-n", "200", "-c", "4", "-t", "1", &url]).ok()?;
        let held_up = run("curl", &["-sS", "--max-time", "1", &url]).await;
        gateway.process.signal(Signal::CONT).ok()?;
        let [served, _, _, shed] = statuses(&waiting.end().await.ok()?.out)?;
        let stopped = held_up.is_ok_and(|told| told.err.contains(TIMED_OUT));
        (stopped && shed > 0 && served + shed == 200).then_some(())
    };
    eventually_async(PATIENCE, shed).await.context("nothing is shed")?;
    counted(&gateway, "overloaded", 1.0).await?;
    let caught_up = || async { (status(&[&url]).await.ok()? == "200").then_some(()) };
    eventually_async(PATIENCE, caught_up).await.context("still shedding")
}
