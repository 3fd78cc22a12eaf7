// SPDX-License-Identifier: Apache-2.0
//! The walk: one function per step, in order. A step that fails breaks its promise and
//! the walk goes on; only what makes going on senseless ends it.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use ferrogate_base::tasks::Tasks;
use http::Method;
use serde_json::Value;

use super::http::{Answer, until};
use super::parts::Gateway;
use super::report::{Observed, Report, shown};
use super::traffic::Traffic;

/// Far beyond what anything here takes; a promise with a time of its own says it.
const DEADLINE: Duration = Duration::from_secs(30);
/// A killed controller's runtimes are in sync elsewhere within this.
const FAILOVER: Duration = Duration::from_secs(2);
/// How long traffic is watched while something is down.
const WATCH: Duration = Duration::from_secs(2);
/// The API that the traffic calls; nothing changes it during the walk.
const STEADY: &str = "steady";
const LIVE: &str = "?wait=live&timeout=20s";

/// Takes every step.
pub async fn run(gateway: &mut Gateway, tasks: &Tasks, report: &mut Report) -> anyhow::Result<()> {
    // What the traffic calls must be there before it starts.
    let steady = deploy(gateway, 0, Method::POST, "/rest-apis", &gateway.api(STEADY, "1")).await;
    steady.context("the first API cannot be deployed")?;
    let traffic = Traffic::start(tasks, gateway.everywhere(&format!("/{STEADY}/echo"))?)?;

    let step = report.begin(
        "Deploy on controller-1",
        "when controller-1 answers, every runtime serves the API, those of controller-2 included",
    )?;
    report.end(step, deploy_everywhere(gateway).await)?;

    let step =
        report.begin("Update and delete", "when a controller answers, no runtime serves the old state")?;
    report.end(step, update_and_delete(gateway).await)?;

    let step = report.begin(
        "kill -9 controller-1 under traffic",
        "no request fails; its runtimes are in sync with controller-2 within 2 s, which takes deployments",
    )?;
    report.end(step, kill_controller(gateway, &traffic).await)?;

    let step = report.begin("controller-1 comes back", "it catches up with what it missed, by itself")?;
    report.end(step, controller_returns(gateway).await)?;

    if gateway.owns_postgres() {
        let step = report.begin(
            "Stop PostgreSQL",
            "traffic flows, reads answer from memory and say so, writes answer 503 with Retry-After",
        )?;
        report.end(step, stop_postgres(gateway, &traffic).await)?;

        let step = report.begin("PostgreSQL returns", "writes work again without restarting anything")?;
        report.end(step, postgres_returns(gateway).await)?;
    }

    let step =
        report.begin("kill -9 runtime-1 under traffic", "the other runtimes serve as if nothing were")?;
    report.end(step, kill_runtime(gateway, &traffic).await)?;

    let step = report.begin(
        "All controllers down, and runtime-1 restarted",
        "it serves from its last-known-good snapshot and says so; nobody else notices",
    )?;
    report.end(step, serve_from_cache(gateway, &traffic).await)?;

    let step =
        report.begin("The controllers come back", "every runtime is live again, and deployments work")?;
    report.end(step, controllers_return(gateway).await)?;

    let step = report.begin(
        "Deploy a bad artifact",
        "it is refused with a pointer to each fault; everything else is untouched",
    )?;
    report.end(step, bad_artifact(gateway, &traffic).await)?;

    let step =
        report.begin("The traffic, all in all", "no request failed, but those open to a killed runtime")?;
    let total = traffic.since(super::traffic::Count::default());
    report.end(
        step,
        total.map(|count| {
            Observed::new(format!(
                "{} requests answered, 0 failed, {} cut off with runtime-1",
                count.answered, count.cut
            ))
        }),
    )
}

/// A write that must go through and be live; answers its revision.
async fn deploy(
    gateway: &Gateway,
    controller: usize,
    method: Method,
    path: &str,
    document: &Value,
) -> anyhow::Result<u64> {
    let answer = gateway.manage(controller, method, &format!("{path}{LIVE}"), Some(document)).await?;
    expect_live(&answer)
}

fn expect_live(answer: &Answer) -> anyhow::Result<u64> {
    ensure!(matches!(answer.status, 200 | 201), "the answer was {}: {}", answer.status, answer.body);
    answer.revision().context("the answer names no revision")
}

/// The status and the stamp that every runtime answers with at once.
async fn everywhere(gateway: &Gateway, path: &str) -> anyhow::Result<Vec<(u16, String)>> {
    let mut answers = Vec::new();
    for url in gateway.everywhere(path)? {
        let answer = gateway.http.get(&url).await?;
        answers.push((answer.status, answer.header("x-demo").to_owned()));
    }
    Ok(answers)
}

async fn expect_everywhere(gateway: &Gateway, path: &str, status: u16, stamp: &str) -> anyhow::Result<()> {
    let answers = everywhere(gateway, path).await?;
    let right = answers.iter().all(|(found, shown)| *found == status && shown == stamp);
    ensure!(right, "the runtimes answer {answers:?} instead of {status} with stamp \"{stamp}\"");
    Ok(())
}

/// Runtimes and their controllers as a controller sees them: `(runtime, controller, applied)`.
async fn placement(gateway: &Gateway, controller: usize) -> anyhow::Result<Vec<(String, String, u64)>> {
    let view = gateway.manage(controller, Method::GET, "/cluster", None).await?;
    ensure!(view.status == 200, "the cluster view answers {}", view.status);
    let runtimes = view.body.get("runtimes").and_then(Value::as_array).cloned().unwrap_or_default();
    let alive = runtimes.iter().filter(|one| one.get("alive") == Some(&Value::Bool(true)));
    Ok(alive
        .map(|one| {
            let text = |name: &str| one.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            (text("id"), text("controller"), one.get("applied").and_then(Value::as_u64).unwrap_or_default())
        })
        .collect())
}

async fn deploy_everywhere(gateway: &Gateway) -> anyhow::Result<Observed> {
    let began = Instant::now();
    let revision = deploy(gateway, 0, Method::POST, "/rest-apis", &gateway.api("books", "1")).await?;
    let took = began.elapsed();
    expect_everywhere(gateway, "/books/books", 200, "1").await?;
    let placed = placement(gateway, 0).await?;
    let at = |name: &str| placed.iter().filter(|(_, controller, _)| controller == name).count();
    let (one, two) = (at("controller-1"), at("controller-2"));
    Ok(Observed::after(
        took,
        format!(
            "revision {revision} served by all 3 runtimes, {one} at controller-1 and {two} at controller-2"
        ),
    ))
}

async fn update_and_delete(gateway: &Gateway) -> anyhow::Result<Observed> {
    let began = Instant::now();
    let updated = deploy(gateway, 1, Method::PUT, "/rest-apis/books", &gateway.api("books", "2")).await?;
    let update = began.elapsed();
    expect_everywhere(gateway, "/books/books", 200, "2").await?;
    let began = Instant::now();
    let answer = gateway.manage(0, Method::DELETE, &format!("/rest-apis/books{LIVE}"), None).await?;
    let deleted = expect_live(&answer)?;
    let delete = began.elapsed();
    expect_everywhere(gateway, "/books/books", 404, "").await?;
    Ok(Observed::new(format!(
        "update through controller-2 live in {} (revision {updated}), delete through controller-1 in {} (revision {deleted})",
        shown(update),
        shown(delete)
    )))
}

async fn kill_controller(gateway: &mut Gateway, traffic: &Traffic) -> anyhow::Result<Observed> {
    let before = traffic.count();
    gateway.controllers.first_mut().context("no controller")?.kill().await?;
    let killed = Instant::now();
    let gateway = &*gateway;
    until(DEADLINE, "the runtimes of controller-1 do not move", async || {
        let placed = placement(gateway, 1).await?;
        let moved = placed.iter().filter(|(_, controller, _)| controller == "controller-2").count();
        Ok((moved == gateway.runtimes.len()).then_some(()))
    })
    .await?;
    let moved = killed.elapsed();
    let revision = deploy(gateway, 1, Method::POST, "/rest-apis", &gateway.api("orders", "1")).await?;
    expect_everywhere(gateway, "/orders/echo", 200, "1").await?;
    tokio::time::sleep(WATCH).await;
    let count = traffic.since(before)?;
    ensure!(moved < FAILOVER, "all runtimes at controller-2 only after {}", shown(moved));
    Ok(Observed::after(
        moved,
        format!(
            "all 3 runtimes at controller-2; revision {revision} deployed through it and served everywhere; \
             {} requests, 0 failed",
            count.answered
        ),
    ))
}

async fn controller_returns(gateway: &mut Gateway) -> anyhow::Result<Observed> {
    let began = Instant::now();
    gateway.controllers.first_mut().context("no controller")?.start_again().await?;
    let gateway = &*gateway;
    let revision = until(DEADLINE, "controller-1 does not catch up", async || {
        let answer = gateway.manage(0, Method::GET, "/rest-apis/orders", None).await?;
        Ok((answer.status == 200).then(|| answer.header("x-ferrogate-revision").to_owned()))
    })
    .await?;
    Ok(Observed::after(
        began.elapsed(),
        format!("it is back at revision {revision} and shows what it missed"),
    ))
}

async fn stop_postgres(gateway: &Gateway, traffic: &Traffic) -> anyhow::Result<Observed> {
    let before = traffic.count();
    gateway.stop_postgres().await?;
    let document = gateway.api("orders", "2");
    let mut seconds = String::new();
    for controller in [0, 1] {
        let answer = gateway.manage(controller, Method::PUT, "/rest-apis/orders", Some(&document)).await?;
        ensure!(answer.status == 503, "a write answers {}: {}", answer.status, answer.body);
        seconds = answer.header("retry-after").to_owned();
        ensure!(!seconds.is_empty(), "a refused write does not say when to try again");
        // A read is marked as soon as the replica has noticed, which takes it a poll at most.
        until(DEADLINE, "reads do not say that they are from memory", async || {
            let read = gateway.manage(controller, Method::GET, "/rest-apis/orders", None).await?;
            ensure!(read.status == 200, "a read answers {}", read.status);
            Ok((read.header("x-ferrogate-stale") == "true").then_some(()))
        })
        .await?;
    }
    tokio::time::sleep(WATCH).await;
    let count = traffic.since(before)?;
    Ok(Observed::new(format!(
        "{} requests, 0 failed; both controllers answer reads 200 marked stale, writes 503 with Retry-After: {seconds}",
        count.answered
    )))
}

async fn postgres_returns(gateway: &Gateway) -> anyhow::Result<Observed> {
    gateway.start_postgres().await?;
    let began = Instant::now();
    let document = gateway.api("orders", "2");
    let mut revisions = Vec::new();
    for controller in [0, 1] {
        let revision = until(DEADLINE, "writes do not come back", async || {
            let path = format!("/rest-apis/orders{LIVE}");
            let answer = gateway.manage(controller, Method::PUT, &path, Some(&document)).await?;
            Ok((answer.status == 200).then(|| answer.revision()).flatten())
        })
        .await?;
        revisions.push(revision.to_string());
    }
    let took = began.elapsed();
    expect_everywhere(gateway, "/orders/echo", 200, "2").await?;
    let revisions = revisions.join(" and ");
    Ok(Observed::after(
        took,
        format!("both controllers write again: revisions {revisions}, live on all 3 runtimes"),
    ))
}

async fn kill_runtime(gateway: &mut Gateway, traffic: &Traffic) -> anyhow::Result<Observed> {
    let before = traffic.count();
    traffic.doom(0);
    gateway.runtimes.first_mut().context("no runtime")?.kill().await?;
    tokio::time::sleep(WATCH).await;
    let count = traffic.since(before)?;
    Ok(Observed::new(format!(
        "{} requests answered by the other two, 0 failed, {} were open to runtime-1 and cut off",
        count.answered, count.cut
    )))
}

async fn serve_from_cache(gateway: &mut Gateway, traffic: &Traffic) -> anyhow::Result<Observed> {
    let before = traffic.count();
    for controller in &mut gateway.controllers {
        controller.kill().await?;
    }
    let began = Instant::now();
    gateway.runtimes.first_mut().context("no runtime")?.start_again().await?;
    gateway.wait_ready(0).await?;
    let took = began.elapsed();
    expect_everywhere(gateway, &format!("/{STEADY}/echo"), 200, "1").await?;
    let status = gateway.http.get(&format!("{}/status", gateway.runtime(0)?.url("admin")?)).await?;
    ensure!(
        status.body.get("fromCache") == Some(&Value::Bool(true)),
        "it does not say that it serves from its cache: {}",
        status.body
    );
    traffic.restore(0);
    tokio::time::sleep(WATCH).await;
    let count = traffic.since(before)?;
    Ok(Observed::after(
        took,
        format!(
            "runtime-1 ready with no controller, fromCache is true; {} requests, 0 failed",
            count.answered
        ),
    ))
}

async fn controllers_return(gateway: &mut Gateway) -> anyhow::Result<Observed> {
    let began = Instant::now();
    for controller in &mut gateway.controllers {
        controller.start_again().await?;
    }
    let gateway = &*gateway;
    until(DEADLINE, "the runtimes do not come back", async || {
        Ok((placement(gateway, 0).await?.len() == gateway.runtimes.len()).then_some(()))
    })
    .await?;
    let connected = began.elapsed();
    let revision = deploy(gateway, 0, Method::PUT, "/rest-apis/orders", &gateway.api("orders", "3")).await?;
    expect_everywhere(gateway, "/orders/echo", 200, "3").await?;
    Ok(Observed::after(connected, format!("3 runtimes connected; revision {revision} live on all of them")))
}

async fn bad_artifact(gateway: &Gateway, traffic: &Traffic) -> anyhow::Result<Observed> {
    let before = traffic.count();
    let head = gateway.manage(1, Method::GET, "/rest-apis/orders", None).await?;
    let mut document = gateway.api("bad", "1");
    document["spec"]["context"] = "no-slash".into();
    document["spec"]["policies"][0]["name"] = "no-such-policy".into();
    let answer = gateway.manage(1, Method::POST, "/rest-apis", Some(&document)).await?;
    ensure!(answer.status == 400, "it is answered {}: {}", answer.status, answer.body);
    let faults = answer.body.get("errors").and_then(Value::as_array).cloned().unwrap_or_default();
    let fields: Vec<&str> = faults.iter().filter_map(|fault| fault.get("field")?.as_str()).collect();
    let expected = ["spec.context", "spec.policies[0].version"];
    ensure!(expected.iter().all(|field| fields.contains(field)), "the faults named are {fields:?}");
    let after = gateway.manage(1, Method::GET, "/rest-apis/orders", None).await?;
    let revision = |answer: &Answer| answer.header("x-ferrogate-revision").to_owned();
    ensure!(revision(&head) == revision(&after), "the gateway's revision has moved");
    expect_everywhere(gateway, "/bad/echo", 404, "").await?;
    let count = traffic.since(before)?;
    Ok(Observed::new(format!(
        "400 naming {}; the gateway stays at revision {}; {} requests, 0 failed",
        fields.join(" and "),
        revision(&after),
        count.answered
    )))
}
