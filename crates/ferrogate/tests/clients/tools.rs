// SPDX-License-Identifier: Apache-2.0
//! The programs that clients use: run to their end, or talked to while they run. One that is not
//! installed fails its test by name (`cargo xtask test` installs them); none is ever skipped.

use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, Command};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a program said, and whether it ended well.
#[derive(Debug)]
pub struct Told {
    pub success: bool,
    /// What it wrote to standard output.
    pub out: String,
    /// What it wrote to standard error.
    pub err: String,
}

impl Told {
    fn of(output: &Output) -> Told {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Told { success: output.status.success(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// Everything that it said.
    pub fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}

fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    // A gateway, a proxy or a file that the caller's environment names is not the one that is meant.
    for variable in
        ["FERROGATE_ADMIN_PASSWORD", "FERROGATE_CONTROLLER", "http_proxy", "https_proxy", "all_proxy"]
    {
        command.env_remove(variable).env_remove(variable.to_uppercase());
    }
    command.args(args).env("no_proxy", "*").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

fn spawn(mut command: Command, program: &str) -> anyhow::Result<Child> {
    command.spawn().with_context(|| format!("{program} cannot be run: is it installed?"))
}

/// Runs a program to its end.
pub async fn run(program: &str, args: &[&str]) -> anyhow::Result<Told> {
    let child = spawn(command(program, args), program)?;
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    Ok(Told::of(&output.with_context(|| format!("{program} {args:?} does not end"))??))
}

/// Runs a program that reads this to its end.
pub async fn fed(program: &str, args: &[&str], input: &[u8]) -> anyhow::Result<Told> {
    let mut command = command(program, args);
    command.stdin(Stdio::piped());
    let mut child = spawn(command, program)?;
    let mut stdin = child.stdin.take().context("its input")?;
    let feed = async {
        // One that has heard enough is not wrong.
        stdin.write_all(input).await.ok();
        drop(stdin);
    };
    let both = async { tokio::join!(feed, child.wait_with_output()).1 };
    let output = tokio::time::timeout(PATIENCE, both).await;
    Ok(Told::of(&output.with_context(|| format!("{program} {args:?} does not end"))??))
}

/// curl, which must succeed; answers what it printed.
pub async fn curl(args: &[&str]) -> anyhow::Result<String> {
    let told = run("curl", &[&["-sS"], args].concat()).await?;
    ensure!(told.success, "curl {args:?}: {}", told.all());
    Ok(told.out)
}

/// The three-digit status that curl was answered with, whatever it was.
pub async fn status(args: &[&str]) -> anyhow::Result<String> {
    curl(&[&["-o", "/dev/null", "-w", "%{http_code}"], args].concat()).await
}

/// h2load with so many requests, all of which must be answered: how many by 2xx, 3xx, 4xx and 5xx.
pub async fn h2load(requests: usize, args: &[&str]) -> anyhow::Result<[usize; 4]> {
    let number = requests.to_string();
    let told = run("h2load", &[&["-n", &number, "-t", "1"], args].concat()).await?;
    let answers = statuses(&told.out).with_context(|| format!("no figures: {}", told.all()))?;
    ensure!(answers.iter().sum::<usize>() == requests, "{}", told.all());
    Ok(answers)
}

/// How many 2xx, 3xx, 4xx and 5xx h2load says that it got.
pub fn statuses(said: &str) -> Option<[usize; 4]> {
    let figures = said.lines().find_map(|line| line.strip_prefix("status codes: "))?;
    let mut answers = [0; 4];
    for (figure, answers) in figures.split(", ").zip(&mut answers) {
        *answers = figure.split(' ').next()?.parse().ok()?;
    }
    Some(answers)
}

/// A program that is talked to while it runs. Dropping it kills it.
pub struct Talk {
    child: Child,
    stdin: Option<ChildStdin>,
    heard: String,
    name: String,
}

impl Talk {
    pub fn start(program: &str, args: &[&str]) -> anyhow::Result<Talk> {
        let mut command = command(program, args);
        command.stdin(Stdio::piped());
        let mut child = spawn(command, program)?;
        let stdin = child.stdin.take();
        Ok(Talk { child, stdin, heard: String::new(), name: format!("{program} {args:?}") })
    }

    pub async fn say(&mut self, text: &str) -> anyhow::Result<()> {
        let stdin = self.stdin.as_mut().context("its input is closed")?;
        stdin.write_all(text.as_bytes()).await?;
        Ok(stdin.flush().await?)
    }

    /// Reads its standard output until this was in it, and answers all that was read until now.
    pub async fn until(&mut self, awaited: &str) -> anyhow::Result<&str> {
        let stdout = self.child.stdout.as_mut().context("its output")?;
        let reading = read_until(stdout, &mut self.heard, awaited);
        let found = tokio::time::timeout(PATIENCE, reading).await;
        ensure!(matches!(found, Ok(true)), "{}: no {awaited:?} in {}", self.name, self.heard);
        Ok(&self.heard)
    }

    /// Closes its input and waits for its end; answers all that it ever said.
    pub async fn end(mut self) -> anyhow::Result<Told> {
        drop(self.stdin.take());
        let output = tokio::time::timeout(PATIENCE, self.child.wait_with_output()).await;
        let mut told = Told::of(&output.with_context(|| format!("{} does not end", self.name))??);
        told.out.insert_str(0, &self.heard);
        Ok(told)
    }
}

async fn read_until(from: &mut (impl AsyncRead + Unpin), heard: &mut String, awaited: &str) -> bool {
    let mut chunk = [0; 4096];
    while !heard.contains(awaited) {
        match from.read(&mut chunk).await {
            Ok(0) | Err(_) => return false,
            Ok(read) => heard.push_str(&String::from_utf8_lossy(&chunk[..read])),
        }
    }
    true
}
