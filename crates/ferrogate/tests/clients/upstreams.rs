// SPDX-License-Identifier: Apache-2.0
//! The `examples/upstream-*.yaml` with two upstreams behind them: which of them serves, and what
//! clients notice of one that fails, by curl and h2load.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use ferrogate_testkit::eventually::{eventually, eventually_async};

use crate::gateway::{FIRST, Gateway, SECOND};
use crate::tools::{PATIENCE, Talk, curl, h2load, status};
use crate::upstream::Upstream;

/// A gateway and the two upstreams of the examples.
struct Pair {
    gateway: Gateway,
    first: Upstream,
    second: Upstream,
}

impl Pair {
    async fn start(flags: &[&str]) -> anyhow::Result<Pair> {
        let gateway = Gateway::start(flags).await?;
        Ok(Pair { gateway, first: Upstream::start().await?, second: Upstream::start().await? })
    }

    /// Applies an example for the two, after these edits.
    async fn apply(&self, name: &str, edits: &[(&str, &str)]) -> anyhow::Result<()> {
        let (first, second) = (self.first.url(), self.second.localhost());
        self.gateway.apply(name, &[edits, &[(FIRST, &first), (SECOND, &second)]].concat()).await
    }

    /// How many of so many requests each of them got; curl sends them one after the other.
    async fn shares(&self, path: &str, requests: usize, args: &[&str]) -> anyhow::Result<(usize, usize)> {
        let before = (self.first.requests(), self.second.requests());
        let urls = format!("{}?[1-{requests}]", self.gateway.url(path));
        let told = curl(&[&["-o", "/dev/null", "-w", "%{http_code}\n"], args, &[&urls]].concat()).await?;
        ensure!(told == "200\n".repeat(requests), "{args:?}: {told}");
        Ok((self.first.requests() - before.0, self.second.requests() - before.1))
    }

    /// Waits until a health check has found somebody ill.
    async fn somebody_is_unhealthy(&self) -> anyhow::Result<()> {
        let known = || async {
            let name = "ferrogate_runtime_upstream_endpoints_unhealthy";
            (self.gateway.metric(name).await.ok()? >= 1.0).then_some(())
        };
        eventually_async(PATIENCE, known).await.context("no health check finds anything")
    }

    /// Whether each of some names has one upstream, and not all of them the same.
    async fn divided(&self, path: &str, header: &str) -> anyhow::Result<()> {
        let mut seen = (0, 0);
        for name in 0..16 {
            let header = header.replace("NAME", &format!("reader-{name}"));
            let shares = self.shares(path, 3, &["-H", &header]).await?;
            ensure!(shares == (3, 0) || shares == (0, 3), "{header}: {shares:?}");
            seen = (seen.0 + shares.0, seen.1 + shares.1);
        }
        ensure!(seen.0 > 0 && seen.1 > 0, "{header}: {seen:?}");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_where_the_policy_sends_them() -> anyhow::Result<()> {
    const MINE: &str = "/shelves/v1/echo";
    let pair = Pair::start(&["--zone", "north"]).await?;
    let only = async |definition: &str| {
        let main = format!("ref: {definition}");
        pair.apply("upstream-balancing.yaml", &[("ref: by-reader", &main)]).await
    };
    // As it stands: the first is in this runtime's own zone.
    only("by-reader").await?;
    ensure!(pair.shares(MINE, 20, &[]).await? == (20, 0), "the other zone was asked");
    pair.apply(
        "upstream-balancing.yaml",
        &[("          zone: north\n", ""), ("          zone: south\n", "")],
    )
    .await?;
    pair.divided(MINE, "x-reader: NAME").await?;
    only("by-session").await?;
    pair.divided(MINE, "cookie: a=b; session=NAME").await?;
    only("by-client").await?;
    let shares = pair.shares(MINE, 20, &[]).await?;
    ensure!(shares == (20, 0) || shares == (0, 20), "one client: {shares:?}");

    only("fastest").await?;
    let before = (pair.first.requests(), pair.second.requests());
    let url = pair.gateway.url(MINE);
    ensure!(h2load(300, &["--h1", "-c", "4", "-m", "1", &url]).await? == [300, 0, 0, 0]);
    ensure!(pair.first.requests() > before.0 && pair.second.requests() > before.1, "one is never asked");

    only("same-again").await?;
    let folder = tempfile::tempdir()?;
    let mut seen = (0, 0);
    for client in 0..16 {
        let jar = folder.path().join(client.to_string()).display().to_string();
        let shares = pair.shares(MINE, 3, &["-b", &jar, "-c", &jar]).await?;
        ensure!(shares == (3, 0) || shares == (0, 3), "{shares:?}");
        ensure!(std::fs::read_to_string(&jar)?.contains("\tshelf\t"), "no cookie of that name");
        seen = (seen.0 + shares.0, seen.1 + shares.1);
    }
    ensure!(seen.0 > 0 && seen.1 > 0, "newcomers in turn: {seen:?}");

    pair.apply("sandbox-and-weights.yaml", &[]).await?;
    let main = ["-H", "host: api.example.com"];
    ensure!(pair.shares("/catalogue/2/books", 100, &main).await? == (80, 20), "the weights");
    let sandbox = ["-H", "host: sandbox.example.com"];
    ensure!(pair.shares("/catalogue/2/books", 5, &sandbox).await? == (5, 0), "the sandbox");

    pair.gateway.apply("upstream-addresses.yaml", &[(SECOND, &pair.second.localhost())]).await?;
    ensure!(pair.shares("/replicas/v1/echo", 10, &[]).await? == (0, 10), "by its addresses");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_fails_is_left_alone_and_comes_back() -> anyhow::Result<()> {
    const LOANS: &str = "/lending/v1/loans";
    let pair = Pair::start(&[]).await?;
    // What the example waits for is too long for a test.
    let sooner = [("baseEjectionTime: 30s", "baseEjectionTime: 1s"), ("slowStart: 1m", "slowStart: 100ms")];
    pair.apply("upstream-protection.yaml", &[&sooner[..], &[("interval: 5s", "interval: 1s")]].concat())
        .await?;
    let url = pair.gateway.url(LOANS);
    let both = || async {
        let shares = pair.shares(LOANS, 20, &[]).await.ok()?;
        (shares.0 > 0 && shares.1 > 0).then_some(())
    };
    eventually_async(PATIENCE, both).await.context("not both are asked")?;
    pair.second.control.failing.store(true, Ordering::SeqCst);
    // Five failures in a row eject it, and three of its health checks keep it out.
    let ejected = || async { (pair.shares(LOANS, 20, &[]).await.ok()? == (20, 0)).then_some(()) };
    eventually_async(PATIENCE, ejected).await.context("it is not left alone")?;
    pair.somebody_is_unhealthy().await?;
    pair.second.control.failing.store(false, Ordering::SeqCst);
    eventually_async(PATIENCE, both).await.context("it does not come back")?;

    // No more than it can carry: one request each, here.
    pair.apply("upstream-protection.yaml", &[("maxRequests: 500", "maxRequests: 1")]).await?;
    let sum = || pair.first.requests() + pair.second.requests();
    let before = sum();
    let held: Vec<Talk> =
        (0..2).map(|_| Talk::start("curl", &["-sS", "-H", "x-wait: 1", &url])).collect::<Result<_, _>>()?;
    eventually(PATIENCE, || (sum() == before + 2).then_some(())).await.context("not both are held")?;
    let told = curl(&["-w", "\n%{http_code} %header{retry-after}", &url]).await?;
    ensure!(told.contains(r#""reason":"overflow""#) && told.ends_with("\n503 1"), "{told}");
    pair.first.control.gate.add_permits(2);
    pair.second.control.gate.add_permits(2);
    for held in held {
        ensure!(held.end().await?.out.contains("/loans"), "a request that was held");
    }
    ensure!(status(&[&url]).await? == "200", "there is room again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_asked_whether_they_are_well() -> anyhow::Result<()> {
    const MINE: &str = "/checked/v1/echo";
    let mut pair = Pair::start(&[]).await?;
    pair.apply("upstream-health.yaml", &[]).await?;
    let url = pair.gateway.url(MINE);
    let asked = ["-H", "host: checked.example.com"];
    pair.first.control.failing.store(true, Ordering::SeqCst);
    pair.somebody_is_unhealthy().await?;
    for _ in 0..10 {
        ensure!(status(&[&asked[..], &[&url]].concat()).await? == "200", "the failing one was asked");
    }
    pair.second.control.failing.store(true, Ordering::SeqCst);
    let none = || async {
        let told = curl(&[&asked[..], &[&url]].concat()).await.ok()?;
        told.contains(r#""reason":"circuit_open""#).then_some(())
    };
    eventually_async(PATIENCE, none).await.context("somebody is still asked")?;

    // The sandbox is asked for a connection only: answers of 503 are none of its business.
    let sandbox = ["-H", "host: sandbox.checked.example.com", &url];
    ensure!(status(&sandbox).await? == "503", "a failing one that takes connections");
    pair.first.control.failing.store(false, Ordering::SeqCst);
    pair.second = Upstream::start().await?;
    let left_alone = || async {
        let served = pair.shares(MINE, 10, &sandbox[..2]).await.ok()?;
        (served == (10, 0)).then_some(())
    };
    eventually_async(PATIENCE, left_alone).await.context("the one that is gone is asked")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_tried_again_where_that_is_safe_and_faults_are_made_on_purpose() -> anyhow::Result<()> {
    let pair = Pair::start(&[]).await?;
    pair.apply("upstream-retries.yaml", &[]).await?;
    pair.first.control.failing.store(true, Ordering::SeqCst);
    let shares = pair.shares("/renewals/v1/due", 20, &[]).await?;
    ensure!(shares.0 > 0 && shares.1 == 20, "all end at the one that serves: {shares:?}");
    let put = ["-X", "PUT", "--data-binary", "a body that is held"];
    let shares = pair.shares("/renewals/v1/due/1", 10, &put).await?;
    ensure!(shares.0 > 0 && shares.1 == 10, "with their bodies: {shares:?}");
    pair.first.control.failing.store(false, Ordering::SeqCst);

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("body").display().to_string();
    std::fs::write(&file, "an exercise")?;
    let url = pair.gateway.url("/renewals/v1/practice");
    let began = Instant::now();
    let [served, _, _, aborted] = h2load(200, &["--h1", "-c", "20", "-m", "1", "-d", &file, &url]).await?;
    // A tenth, by chance: that of two hundred none is has a chance of one in a milliard.
    ensure!(aborted > 0 && served > aborted, "{served} served, {aborted} aborted");
    ensure!(began.elapsed() >= Duration::from_millis(500), "none was delayed");
    let name = "ferrogate_runtime_failures_total{reason=\"fault_injected\"}";
    let counted = pair.gateway.metric(name).await?;
    #[expect(clippy::cast_precision_loss, reason = "at most two hundred")]
    let expected = aborted as f64;
    ensure!((counted - expected).abs() < 0.5, "{counted} counted, {aborted} seen");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_gets_its_share_and_a_mirror_its_copies() -> anyhow::Result<()> {
    const RECENT: &str = "/reviews/v1/recent";
    let (pair, rehearsal) = (Pair::start(&[]).await?, Upstream::start().await?);
    let there = format!("basePath: /rehearsal\n      upstreams:\n        - url: {FIRST}");
    let other = there.replace(FIRST, &rehearsal.url());
    pair.apply("upstream-canary.yaml", &[(&there, &other)]).await?;
    let url = pair.gateway.url(RECENT);
    ensure!(h2load(600, &["-c", "4", "-m", "5", &url]).await? == [600, 0, 0, 0]);
    let (stable, canary) = (pair.first.requests(), pair.second.requests());
    ensure!(stable + canary == 600 && canary > 0 && stable > 4 * canary, "{stable} and {canary}");
    let copied = eventually(PATIENCE, || (rehearsal.requests() > 0).then_some(())).await;
    copied.context("no copy of six hundred")?;
    ensure!(rehearsal.requests() < 200, "more than its tenth is copied");
    // Without a key, as good as never all of them fall on one.
    let shares = pair.shares(RECENT, 200, &["-H", "x-reader: anna"]).await?;
    ensure!(shares == (200, 0) || shares == (0, 200), "one reader, one release: {shares:?}");
    Ok(())
}
