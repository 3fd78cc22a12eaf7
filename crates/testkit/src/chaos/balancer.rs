// SPDX-License-Identifier: Apache-2.0
//! HAProxy as users run it before their runtimes: round robin, health checks on the
//! readiness port, retries of refused connections and of nothing else. Its log says of
//! every failed request which runtime had it and how it ended; the verdict explains
//! failures from that.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::eventually::eventually_async;
use crate::ports;

/// The request header by which a request is found in the log.
pub const ID: &str = "x-chaos-id";
/// The response header that names the runtime.
pub const RUNTIME: &str = "x-chaos-runtime";
const START_DEADLINE: Duration = Duration::from_secs(10);

/// A runtime as the balancer sees it.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Where requests go.
    pub traffic: SocketAddr,
    /// Where its readiness is asked.
    pub readiness: SocketAddr,
}

/// What the log says of a request that did not go as it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// The runtime that had it last.
    pub runtime: String,
    /// HAProxy's termination state, such as `SH--`: the server broke off before the head.
    pub termination: String,
    /// Times it was sent anew.
    pub retries: String,
}

/// A running HAProxy. Dropping it kills it.
pub struct Balancer {
    /// Where clients connect.
    pub address: SocketAddr,
    log: PathBuf,
    _child: Child,
}

impl Balancer {
    /// Starts HAProxy before these runtimes; its files go to this folder.
    ///
    /// # Errors
    /// When it is not there or does not start.
    pub async fn start(folder: &Path, members: &[Member]) -> anyhow::Result<Balancer> {
        let address = SocketAddr::from(([127, 0, 0, 1], ports::fixed()?));
        let (config, log) = (folder.join("haproxy.cfg"), folder.join("haproxy.log"));
        std::fs::write(&config, configuration(address, members))?;
        let output = std::fs::File::create(&log)?;
        let child = Command::new("haproxy")
            .arg("-db")
            .arg("-f")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .context("haproxy cannot be started; Debian has it as package haproxy")?;
        let listening = eventually_async(START_DEADLINE, || async {
            TcpStream::connect(address).await.is_ok().then_some(())
        });
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        listening.await.with_context(|| format!("haproxy does not listen:\n{}", said()))?;
        Ok(Balancer { address, log, _child: child })
    }

    /// Everything that the log tells, by the id of the request.
    ///
    /// # Errors
    /// When there is no log.
    pub fn read_log(&self) -> anyhow::Result<BTreeMap<String, LogLine>> {
        let text = std::fs::read_to_string(&self.log)?;
        Ok(text.lines().filter_map(parse).collect())
    }
}

fn configuration(address: SocketAddr, members: &[Member]) -> String {
    let servers: String = members
        .iter()
        .map(|member| {
            let (name, traffic, check) = (&member.name, member.traffic, member.readiness);
            format!("  server {name} {traffic} check addr {} port {}\n", check.ip(), check.port())
        })
        .collect();
    format!(
        "global\n  log stdout format raw local0\n  maxconn 4000\n\
         defaults\n  mode http\n  log global\n  option dontlog-normal\n\
         \x20 log-format \"chaos id=%[capture.req.hdr(0)] server=%s termination=%ts retries=%rc status=%ST ms=%Ta\"\n\
         \x20 timeout connect 500ms\n  timeout client 30s\n  timeout server 5s\n  timeout queue 2s\n\
         \x20 timeout http-keep-alive 30s\n  timeout check 500ms\n  retries 3\n  option redispatch 1\n\
         frontend clients\n  bind {address}\n  http-request capture req.hdr({ID}) len 40\n\
         \x20 default_backend runtimes\n\
         backend runtimes\n  balance roundrobin\n  option httpchk GET /ready\n\
         \x20 http-response set-header {RUNTIME} %s\n\
         \x20 default-server inter 200ms fall 2 rise 1\n{servers}"
    )
}

fn parse(line: &str) -> Option<(String, LogLine)> {
    let fields: BTreeMap<&str, &str> =
        line.split_once("chaos ")?.1.split(' ').filter_map(|field| field.split_once('=')).collect();
    let field = |name: &str| fields.get(name).map(|value| (*value).to_owned());
    let line =
        LogLine { runtime: field("server")?, termination: field("termination")?, retries: field("retries")? };
    Some((field("id")?, line))
}

#[cfg(test)]
mod tests {
    use super::{LogLine, parse};

    #[test]
    fn a_line_of_the_log_is_read() {
        let line = "chaos id=4711 server=runtime-2 termination=SH-- retries=+1 status=502 ms=12";
        let expected = LogLine {
            runtime: "runtime-2".to_owned(),
            termination: "SH--".to_owned(),
            retries: "+1".to_owned(),
        };
        assert_eq!(parse(line), Some(("4711".to_owned(), expected)));
        assert_eq!(parse("[WARNING] runtimes/runtime-1 is DOWN"), None);
    }
}
