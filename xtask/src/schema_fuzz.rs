// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask schema-fuzz`: the management API of a real process against schemathesis,
//! which makes requests from `docs/openapi.json`. It is installed into a folder below
//! `target/`, from PyPI, and so is not part of continuous integration: the test
//! `no_request_made_from_the_description_gets_an_answer_that_it_does_not_have` is.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::stage::program;
use crate::test;

/// The version whose findings are known; a newer one has new checks.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";
/// What an answer is held to. That every document of the right shape is accepted is no
/// claim of the description, which leaves the document's rules to the messages.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
    response_headers_conformance,response_schema_conformance,unsupported_method,ignored_auth";
const PASSWORD: &str = "for-this-run-only";
const START_DEADLINE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);

/// The gateway, ended when this is dropped.
struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended by itself, which the run has shown then.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Runs schemathesis with so many requests to each operation.
pub fn run(root: &Path, examples: u32, seed: u64) -> anyhow::Result<()> {
    let folder = test::target_directory(root)?.join("schema-fuzz");
    let tool = install(&folder)?;
    program(root, "cargo", &["build", "--workspace", "--bins", "--quiet"])?;
    let binary = test::target_directory(root)?.join("debug/ferrogate");
    let data = folder.join("data");
    if data.exists() {
        fs::remove_dir_all(&data).context("the last run's data cannot be removed")?;
    }
    let (_gateway, address) = start(&binary, &data)?;
    let status = Command::new(tool)
        .arg("run")
        .arg(root.join("docs/openapi.json"))
        .args(["--url", &format!("http://{address}/api/management/v1")])
        .args(["--auth", &format!("admin:{PASSWORD}"), "--checks", CHECKS])
        .args(["--max-examples", &examples.to_string(), "--seed", &seed.to_string()])
        .args(["--phases", "examples,coverage,fuzzing", "--continue-on-failure"])
        .current_dir(&folder)
        .status()
        .context("schemathesis cannot be started")?;
    if !status.success() {
        bail!("schemathesis found something: {status}");
    }
    Ok(())
}

/// The program, installed once.
fn install(folder: &Path) -> anyhow::Result<std::path::PathBuf> {
    let (tool, python) = (folder.join("venv/bin/schemathesis"), folder.join("venv/bin/python"));
    if !tool.exists() {
        let venv = folder.join("venv").display().to_string();
        program(Path::new("."), "python3", &["-m", "venv", &venv])?;
        let python = python.display().to_string();
        program(Path::new("."), &python, &["-m", "pip", "install", "--quiet", SCHEMATHESIS])?;
    }
    Ok(tool)
}

/// Starts a standalone gateway; answers where its management API listens.
fn start(binary: &Path, data: &Path) -> anyhow::Result<(Gateway, String)> {
    fs::create_dir_all(data)?;
    let log = fs::File::create(data.join("process.log"))?;
    let mut command = Command::new(binary);
    command.args(["standalone", "--listen-https", "off", "--data-dir"]).arg(data);
    for listener in
        ["management", "admin", "metrics", "stream", "http", "readiness", "runtime-admin", "runtime-metrics"]
    {
        command.args([&format!("--listen-{listener}"), "127.0.0.1:0"]);
    }
    command.env("FERROGATE_ADMIN_PASSWORD", PASSWORD).stdout(Stdio::null()).stderr(log);
    let gateway = Gateway(command.spawn().context("the gateway cannot be started")?);
    let listeners = data.join("listeners.json");
    let began = Instant::now();
    loop {
        let found = fs::read_to_string(&listeners).unwrap_or_default();
        if let Some(address) = found.split("\"management\"").nth(1).and_then(|rest| rest.split('"').nth(1)) {
            return Ok((gateway, address.to_owned()));
        }
        if began.elapsed() > START_DEADLINE {
            bail!("the gateway did not start; see {}", data.join("process.log").display());
        }
        #[expect(clippy::disallowed_methods, reason = "waits for another process, in no test")]
        std::thread::sleep(PAUSE);
    }
}
