// SPDX-License-Identifier: Apache-2.0
//! The promises of `docs/reliability.md` on real processes: two controllers, three
//! runtimes, PostgreSQL, signals. Each test is named after what would be broken if it
//! failed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use ferrogate_testkit::cluster::{Cluster, Shape};
use ferrogate_testkit::eventually::eventually_async;
use ferrogate_testkit::load::{Load, Plan, is_ok};
use ferrogate_testkit::management::{Management, api, stamp};
use ferrogate_testkit::postgres::StopMode;
use reqwest::StatusCode;
use serde_json::{Value, json};

const CONVERGE: Duration = Duration::from_secs(30);

async fn cluster() -> anyhow::Result<Cluster> {
    // The binary installs this in its own processes; the test's clients need it as well.
    rustls::crypto::ring::default_provider().install_default().ok();
    Cluster::start(Shape {
        binary: Path::new(env!("CARGO_BIN_EXE_ferrogate")),
        controllers: &["a", "b"],
        runtimes: &["a", "a", "b"],
    })
    .await
}

async fn status_of(url: &str) -> anyhow::Result<u16> {
    Ok(reqwest::get(url).await?.status().as_u16())
}

async fn deploy(management: &Management, document: &Value) -> anyhow::Result<u64> {
    let answer = management.create(document, "?wait=live&timeout=20s").await?;
    ensure!(answer.status == StatusCode::CREATED, "{}: {}", answer.status, answer.body);
    answer.revision.context("every write answers with its revision")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_answered_live_is_served_by_every_runtime() -> anyhow::Result<()> {
    let cluster = cluster().await?;
    for (index, handle) in ["through-one", "through-two"].into_iter().enumerate() {
        deploy(&cluster.management(index), &api(handle, &cluster.backend.url(), &json!([]))).await?;
        for runtime in 0..3 {
            let url = format!("{}/{handle}/echo", cluster.traffic(runtime));
            assert_eq!(status_of(&url).await?, 200, "{url}");
        }
    }
    let gone = cluster.management(1).delete("through-one", "?wait=live&timeout=20s").await?;
    assert_eq!(gone.status, StatusCode::OK, "{}", gone.body);
    for runtime in 0..3 {
        assert_eq!(status_of(&format!("{}/through-one/echo", cluster.traffic(runtime))).await?, 404);
        assert_eq!(status_of(&format!("{}/through-two/echo", cluster.traffic(runtime))).await?, 200);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_controller_fails_no_request_and_its_runtimes_go_on_elsewhere() -> anyhow::Result<()> {
    let mut cluster = cluster().await?;
    deploy(&cluster.management(0), &api("books", &cluster.backend.url(), &json!([]))).await?;
    let urls = (0..3).map(|runtime| format!("{}/books/echo", cluster.traffic(runtime))).collect();
    let load = Load::start(&Plan { urls, clients: 6, rate: Some(600), limit: None, check: is_ok() });
    cluster.controllers[0].kill().await?;
    let revision = deploy(&cluster.management(1), &api("more", &cluster.backend.url(), &json!([]))).await?;
    let moved = eventually_async(CONVERGE, || async {
        let view = cluster.management(1).get("/cluster").await.ok()?.body;
        let runtimes = view["runtimes"].as_array()?.clone();
        let current = |runtime: &Value| {
            runtime["applied"].as_u64() >= Some(revision) && runtime["controller"] == "controller-2"
        };
        (runtimes.len() == 3 && runtimes.iter().all(current)).then_some(())
    });
    moved.await.context("the killed controller's runtimes did not move")?;
    cluster.restart_controller(0).await?;
    let caught_up = eventually_async(CONVERGE, || async {
        let answer = cluster.management(0).get("/rest-apis/more").await.ok()?;
        (answer.status == StatusCode::OK).then_some(())
    });
    caught_up.await.context("the restarted controller did not catch up")?;
    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "of {} requests: {:?}", tally.sent, tally.reasons);
    assert!(tally.sent > 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_database_stops_writes_and_nothing_else() -> anyhow::Result<()> {
    let cluster = cluster().await?;
    let document = api("books", &cluster.backend.url(), &json!([]));
    deploy(&cluster.management(0), &document).await?;
    cluster.postgres.stop(StopMode::Immediate)?;
    let refused = cluster.management(1).replace(&document, "").await?;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{}", refused.body);
    assert!(refused.headers.contains_key("retry-after"));
    let read = cluster.management(0).get("/rest-apis/books").await?;
    assert_eq!(read.status, StatusCode::OK, "{}", read.body);
    assert_eq!(status_of(&format!("{}/books/echo", cluster.traffic(2))).await?, 200);
    cluster.postgres.start_again()?;
    let recovered = eventually_async(CONVERGE, || async {
        let answer = cluster.management(1).replace(&document, "?wait=live&timeout=5s").await.ok()?;
        (answer.status == StatusCode::OK).then_some(())
    });
    recovered.await.context("writes did not come back with the database")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binary_older_than_its_database_says_so_and_spoils_nothing() -> anyhow::Result<()> {
    let mut cluster = cluster().await?;
    let document = api("books", &cluster.backend.url(), &json!([]));
    deploy(&cluster.management(0), &document).await?;
    // What the first replica of a later version does, with this one still running beside it.
    let migration = "INSERT INTO ferrogate_migrations (version, name) VALUES (999, 'of a later version')";
    cluster.postgres.psql(&cluster.database, migration)?;
    deploy(&cluster.management(0), &api("more", &cluster.backend.url(), &json!([]))).await?;

    // The way back: the same binary, started where the later version has been.
    cluster.restart_controller(0).await?;
    let log = cluster.root().join("controller-1/process.log");
    let said = eventually_async(CONVERGE, || async {
        let log = tokio::fs::read_to_string(&log).await.ok()?;
        log.contains("a newer ferrogate has migrated the database to schema 999").then_some(())
    });
    said.await.context("the log does not say why")?;
    assert_eq!(status_of(&format!("{}/ready", cluster.controllers[0].url("admin"))).await?, 503);
    let refused = cluster.management(0).replace(&document, "").await?;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{}", refused.body);
    // What was there before goes on, with every runtime.
    deploy(&cluster.management(1), &api("last", &cluster.backend.url(), &json!([]))).await?;
    for runtime in 0..3 {
        assert_eq!(status_of(&format!("{}/last/echo", cluster.traffic(runtime))).await?, 200);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_restarted_with_nobody_home_serves_what_it_acknowledged() -> anyhow::Result<()> {
    let mut cluster = cluster().await?;
    deploy(&cluster.management(0), &api("books", &cluster.backend.url(), &json!([]))).await?;
    for controller in &mut cluster.controllers {
        controller.kill().await?;
    }
    cluster.postgres.stop(StopMode::Immediate)?;
    cluster.restart_runtime(1).await?;
    Management::wait_ready(&cluster.runtimes[1].url("readiness"), CONVERGE).await?;
    assert_eq!(status_of(&format!("{}/books/echo", cluster.traffic(1))).await?, 200);
    let status: Value =
        reqwest::get(format!("{}/status", cluster.runtimes[1].url("admin"))).await?.json().await?;
    assert_eq!(status["fromCache"], json!(true), "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_controllers_asked_at_once_never_both_take_the_same_route() -> anyhow::Result<()> {
    let cluster = cluster().await?;
    for round in 0..10 {
        let document = |owner: &str| {
            let mut document = api(&format!("{owner}-{round}"), &cluster.backend.url(), &json!([]));
            document["spec"]["context"] = json!(format!("/contested-{round}"));
            document
        };
        let (one, two) = (cluster.management(0), cluster.management(1));
        let (first, second) = (document("first"), document("second"));
        let (first, second) = tokio::join!(one.create(&first, ""), two.create(&second, ""));
        let mut statuses = [first?.status.as_u16(), second?.status.as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 409], "round {round}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_sees_a_mixture_of_two_revisions() -> anyhow::Result<()> {
    let cluster = cluster().await?;
    let document = |stamp_value: &str| {
        // Request and response side of one revision must carry the same stamp.
        let mut policies = stamp("x-stamp", stamp_value);
        policies[0]["params"]["request"] =
            json!({ "headers": [{ "name": "x-stamp", "value": stamp_value }] });
        api("books", &cluster.backend.url(), &policies)
    };
    deploy(&cluster.management(0), &document("0")).await?;
    let same = |status: u16, headers: &reqwest::header::HeaderMap, body: &[u8]| {
        let answered = headers.get("x-stamp").and_then(|value| value.to_str().ok()).unwrap_or("none");
        let needle = format!("[\"x-stamp\",\"{answered}\"]");
        let consistent = status == 200 && String::from_utf8_lossy(body).contains(&needle);
        consistent
            .then_some(())
            .ok_or_else(|| format!("{status}, {answered}: {}", String::from_utf8_lossy(body)))
    };
    let urls = (0..3).map(|runtime| format!("{}/books/echo", cluster.traffic(runtime))).collect();
    let load = Load::start(&Plan { urls, clients: 6, rate: None, limit: None, check: Arc::new(same) });
    for round in 1..=60 {
        let controller = cluster.management(round % 2);
        let answer = controller.replace(&document(&round.to_string()), "").await?;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    }
    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "of {} requests: {:?}", tally.sent, tally.reasons);
    assert!(tally.sent > 100);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_artifact_is_refused_with_the_pointer_to_its_fault() -> anyhow::Result<()> {
    let cluster = cluster().await?;
    deploy(&cluster.management(0), &api("good", &cluster.backend.url(), &json!([]))).await?;
    let mut bad = api("bad", &cluster.backend.url(), &json!([{ "name": "no-such-policy", "version": "v1" }]));
    bad["spec"]["context"] = json!("no-slash");
    let answer = cluster.management(1).create(&bad, "").await?;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let fields: Vec<&str> = answer.body["errors"]
        .as_array()
        .context("a list of errors")?
        .iter()
        .filter_map(|error| error["field"].as_str())
        .collect();
    assert!(fields.contains(&"spec.context") && fields.contains(&"spec.policies[0].version"), "{fields:?}");
    assert_eq!(status_of(&format!("{}/good/echo", cluster.traffic(0))).await?, 200);
    Ok(())
}
