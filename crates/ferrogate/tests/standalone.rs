// SPDX-License-Identifier: Apache-2.0
//! The newcomer's way, on the real binary: start standalone, deploy with the client
//! verbs, call, roll back, stop; and what one is told when the start goes wrong.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use ferrogate_testkit::backend::Backend;
use ferrogate_testkit::eventually::eventually;
use ferrogate_testkit::process::{Process, Signal, Spec};

const BINARY: &str = env!("CARGO_BIN_EXE_ferrogate");

/// Runs a command to its end, without what the caller's environment might say.
fn ferrogate(args: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(BINARY);
    command.args(args).env_remove("FERROGATE_ADMIN_PASSWORD").env_remove("FERROGATE_CONTROLLER");
    Ok(command.output()?)
}

/// Runs a verb that must end with this code; answers what it printed.
fn verb(data_dir: &Path, args: &[&str], code: i32) -> anyhow::Result<String> {
    let dir = data_dir.to_str().context("a path in UTF-8")?;
    let output = ferrogate(&[args, &["--data-dir", dir]].concat())?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.code() == Some(code), "{args:?}: {}\n{out}{err}", output.status);
    Ok(format!("{out}{err}"))
}

fn write_api(file: &Path, backend: &Backend, stamp: &str) -> anyhow::Result<()> {
    let text = format!(
        "apiVersion: gateway.api-platform.wso2.com/v1\nkind: RestApi\nmetadata: {{ name: books }}\n\
         spec:\n  displayName: Books\n  version: v1.0\n  context: /books\n\
         \x20 upstream: {{ main: {{ url: \"{}\" }} }}\n\
         \x20 policies: [{{ name: set-headers, version: v1, params: {{ response: {{ headers: [{{ name: x-stamp, value: \"{stamp}\" }}] }} }} }}]\n\
         \x20 operations: [{{ method: GET, path: /echo }}]\n",
        backend.url()
    );
    Ok(std::fs::write(file, text)?)
}

async fn stamp(process: &Process) -> anyhow::Result<String> {
    let answer = reqwest::get(format!("{}/books/echo", process.url("http"))).await?;
    let stamp = answer.headers().get("x-stamp").and_then(|value| value.to_str().ok()).unwrap_or_default();
    Ok(format!("{} {stamp}", answer.status().as_u16()))
}

/// As when the log's disk is full.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_written_stops_nothing() -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let root = tempfile::tempdir()?;
    let (dir, file) = (root.path().join("data"), root.path().join("books.yaml"));
    let path = file.to_str().context("a path in UTF-8")?;
    let backend = Backend::start().await?;
    let spec = Spec { log: "/dev/full".into(), ..Spec::standalone(BINARY, root.path(), &[]) };
    let process = spec.start().await?;
    for number in ["one", "two"] {
        write_api(&file, &backend, number)?;
        verb(&dir, &["apply", "-f", path, "--wait"], 0)?;
        ensure!(stamp(&process).await? == format!("200 {number}"));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_deploys_calls_and_rolls_back() -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let root = tempfile::tempdir()?;
    let (dir, file) = (root.path().join("data"), root.path().join("books.yaml"));
    let path = file.to_str().context("a path in UTF-8")?;
    let backend = Backend::start().await?;
    let mut process = Spec::standalone(BINARY, root.path(), &[]).start().await?;

    write_api(&file, &backend, "one")?;
    assert!(verb(&dir, &["diff", "-f", path], 6)?.contains("+ kind: RestApi"));
    assert!(verb(&dir, &["apply", "-f", path, "--dry-run"], 0)?.contains("nothing was stored"));
    verb(&dir, &["get", "books"], 5)?;
    assert!(verb(&dir, &["apply", "-f", path, "--wait"], 0)?.contains("created (revision 1)"));
    assert_eq!(stamp(&process).await?, "200 one");
    assert_eq!(verb(&dir, &["diff", "-f", path], 0)?, "");

    write_api(&file, &backend, "two")?;
    assert!(verb(&dir, &["apply", "-f", path, "--wait"], 0)?.contains("replaced (revision 2)"));
    assert_eq!(stamp(&process).await?, "200 two");
    verb(&dir, &["rollback", "books", "--to", "1", "--wait"], 0)?;
    assert_eq!(stamp(&process).await?, "200 one");
    assert_eq!(verb(&dir, &["history", "books"], 0)?.lines().count(), 4);
    assert!(verb(&dir, &["status"], 0)?.contains("alive"));

    // What is on disk is enough to go on: nothing is deployed again.
    let again = process.pinned_spec();
    ensure!(process.terminate(Duration::from_secs(20)).await?.success(), "the drain was not clean");
    process = again.start().await?;
    assert!(verb(&dir, &["list"], 0)?.contains("books"));
    assert_eq!(stamp(&process).await?, "200 one");
    // A name that does not exist is found before anything is deleted.
    verb(&dir, &["delete", "books", "nope"], 5)?;
    assert_eq!(stamp(&process).await?, "200 one");
    verb(&dir, &["list", "secrets", "--status", "deployed"], 2)?;
    let nobody = verb(&dir, &["apply", "-f", path, "--wait", "--scope", "zone:typo"], 3)?;
    assert!(nobody.contains("no runtime is connected in zone:typo"), "{nobody}");
    let twice = verb(&dir, &["delete", "books", "-o", "json"], 0)?;
    assert!(serde_json::from_str::<serde_json::Value>(&twice)?.is_object(), "{twice}");
    verb(&dir, &["delete", "books"], 5)?;
    verb(&dir, &["apply", "-f", path, "--wait"], 0)?;
    verb(&dir, &["delete", "books", "--wait"], 0)?;
    assert_eq!(stamp(&process).await?, "404 ");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_opens_the_access_log_anew() -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let root = tempfile::tempdir()?;
    let (log, moved) = (root.path().join("access.log"), root.path().join("access.log.old"));
    let mut spec = Spec::standalone(BINARY, root.path(), &[]);
    spec.env.push(("FERROGATE_RUNTIME_ACCESS_LOG".to_owned(), log.display().to_string()));
    let process = spec.start().await?;
    let asked = async |path: &str, file: &Path| {
        reqwest::get(format!("{}{path}", process.url("http"))).await?;
        let has = || std::fs::read_to_string(file).is_ok_and(|text| text.contains(path)).then_some(());
        eventually(Duration::from_secs(20), has).await.with_context(|| format!("{path} is not logged"))
    };
    asked("/before", &log).await?;
    std::fs::rename(&log, &moved)?;
    process.signal(Signal::HUP)?;
    let reopened = eventually(Duration::from_secs(20), || log.exists().then_some(()));
    reopened.await.context("no new file after the hangup")?;
    asked("/after", &log).await
}

#[test]
fn one_run_tells_every_problem_of_a_configuration() -> anyhow::Result<()> {
    let root = tempfile::tempdir()?;
    let file = root.path().join("bad.toml");
    std::fs::write(
        &file,
        "[controller.server]\napi_prot = 1\napi_port = 99999\n[runtime]\nworkers = 'many'\n",
    )?;
    let output = ferrogate(&["standalone", "--check", "--config", file.to_str().context("UTF-8")?])?;
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{told}");
    for part in [
        "did you mean controller.server.api_port?",
        "99999 is out of range",
        "\"many\" is not a whole number",
    ] {
        assert!(told.contains(part), "{part} is missing in\n{told}");
    }
    let effective = String::from_utf8_lossy(&output.stdout);
    assert!(effective.contains("controller.database_url = <unset>  # default"), "{effective}");
    Ok(())
}

#[test]
fn the_flags_of_the_config_stream_stand_for_their_keys() -> anyhow::Result<()> {
    let stream = ["--gateway-id", "g", "--stream-ca", "ca", "--stream-cert", "crt", "--stream-key", "key"];
    let runtime = ["--controller", "https://c:1", "--stream-server-name", "name"];
    for (role, more, keys) in [
        (
            "runtime",
            &runtime[..],
            &[
                ("runtime.gateway_id", "g"),
                ("runtime.tls.ca_file", "ca"),
                ("runtime.tls.cert_file", "crt"),
                ("runtime.tls.key_file", "key"),
                ("runtime.tls.server_name", "name"),
            ][..],
        ),
        (
            "controller",
            &[],
            &[
                ("controller.server.gateway_id", "g"),
                ("controller.stream.tls.client_ca_file", "ca"),
                ("controller.stream.tls.cert_file", "crt"),
                ("controller.stream.tls.key_file", "key"),
            ],
        ),
    ] {
        let output = ferrogate(&[&[role, "--check"], &stream[..], more].concat())?;
        let effective = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        for (key, value) in keys {
            let line = format!("{key} = \"{value}\"  # flag --");
            assert!(effective.contains(&line), "{line} is missing in\n{effective}");
        }
    }
    Ok(())
}

#[test]
fn one_file_names_the_gateway_for_both_planes() -> anyhow::Result<()> {
    let root = tempfile::tempdir()?;
    let file = root.path().join("contract.toml");
    std::fs::write(&file, "[controller.server]\ngateway_id = \"gw-x\"\n")?;
    let file = file.to_str().context("UTF-8")?;
    let runtime = ["runtime", "--controller", "http://c:1"];
    for role in [&["standalone"][..], &runtime] {
        let output = ferrogate(&[role, &["--check", "-config", file]].concat())?;
        let effective = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(effective.contains("runtime.gateway_id = \"gw-x\"  # file "), "{effective}");
    }
    let mut command = Command::new(BINARY);
    command.args(runtime).arg("--check").env("APIP_GW_CONTROLLER_SERVER_GATEWAY_ID", "gw-y");
    let output = command.output()?;
    let effective = String::from_utf8_lossy(&output.stdout);
    assert!(effective.contains("runtime.gateway_id = \"gw-y\"  # environment APIP_GW"), "{effective}");
    Ok(())
}

#[test]
fn every_role_reads_what_the_operator_says_of_policies() -> anyhow::Result<()> {
    let root = tempfile::tempdir()?;
    let write = |name: &str, section: &str| -> anyhow::Result<String> {
        let file = root.path().join(name);
        std::fs::write(&file, format!("[policy_configurations.{section}]\nalgorithm = \"gcra\"\n"))?;
        Ok(file.to_str().context("UTF-8")?.to_owned())
    };
    let (right, misspelt) = (write("right.toml", "ratelimit_v1")?, write("wrong.toml", "ratelimt_v1")?);
    let unknown =
        "policy_configurations.ratelimt_v1: unknown key: did you mean policy_configurations.ratelimit_v1?";
    let runtime = ["runtime", "--controller", "http://c:1"];
    for role in [&["controller"][..], &["standalone"], &runtime] {
        let check = |file: &str| ferrogate(&[role, &["--check", "--config", file]].concat());
        let output = check(&right)?;
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), told.as_ref()), (Some(0), ""), "{role:?}");
        let output = check(&misspelt)?;
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{role:?}: {told}");
        assert!(told.contains(unknown), "{role:?}: {told}");
    }
    Ok(())
}

#[test]
fn a_level_that_would_log_nothing_is_refused() -> anyhow::Result<()> {
    for (role, section) in [("controller", "controller"), ("runtime", "policy_engine")] {
        let root = tempfile::tempdir()?;
        let file = root.path().join("loud.toml");
        std::fs::write(&file, format!("[{section}.logging]\nlevel = \"loud\"\n"))?;
        let output = ferrogate(&[role, "--check", "--config", file.to_str().context("UTF-8")?])?;
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains(&format!("{section}.logging.level: \"loud\" is not a log level")), "{told}");
    }
    Ok(())
}

#[test]
fn a_file_that_is_no_database_ends_the_start_with_one_line() -> anyhow::Result<()> {
    let root = tempfile::tempdir()?;
    let file = root.path().join("notes.txt");
    std::fs::write(&file, "these are notes and no database")?;
    let (dir, url) = (root.path().join("data"), format!("sqlite://{}", file.display()));
    let mut args = vec!["controller", "--data-dir", dir.to_str().context("UTF-8")?, "--database-url", &url];
    for listener in ["--listen-management", "--listen-admin", "--listen-metrics", "--listen-stream"] {
        args.extend([listener, "127.0.0.1:0"]);
    }
    let output = ferrogate(&args)?;
    let told = String::from_utf8_lossy(&output.stderr);
    let errors: Vec<&str> = told.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(matches!(errors.as_slice(), [only] if only.contains("is no SQLite database")), "{told}");
    Ok(())
}

#[test]
fn the_example_of_a_runtime_is_understood() -> anyhow::Result<()> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/runtime.toml");
    let output = ferrogate(&["runtime", "--check", "--config", file])?;
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), told.as_ref()), (Some(0), ""));
    Ok(())
}

#[test]
fn a_taken_port_is_one_line_that_names_it() -> anyhow::Result<()> {
    let root = tempfile::tempdir()?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let dir = root.path().to_str().context("UTF-8")?;
    let output = ferrogate(&["controller", "--data-dir", dir, "--listen-management", &address])?;
    let told = String::from_utf8_lossy(&output.stderr);
    let errors: Vec<&str> = told.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(output.status.code(), Some(1), "{told}");
    for part in [address.as_str(), "controller.listen.management", "--listen-management"] {
        assert!(matches!(errors.as_slice(), [only] if only.contains(part)), "{part} is missing in {told}");
    }
    Ok(())
}
