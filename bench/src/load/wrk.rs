// SPDX-License-Identifier: Apache-2.0
//! `wrk`: HTTP/1.1 over plain and TLS connections, closed loop.

use std::time::Duration;

use anyhow::Context as _;

use super::{Plan, Seen};
use crate::peers::Peer;
use crate::process;
use crate::scenario::{APIS, Traffic};

const SCRIPT: &str = include_str!("wrk.lua");
const UPLOAD_BYTES: usize = 1024 * 1024;

pub(super) async fn run(traffic: Traffic, peer: &Peer, plan: &Plan<'_>) -> anyhow::Result<Seen> {
    let script = plan.dir.join("wrk.lua");
    std::fs::write(&script, SCRIPT)?;
    let connections = match traffic {
        Traffic::KeepAlive(connections) => connections,
        Traffic::BigResponse | Traffic::Upload => 16,
        _ => 64,
    };
    let tls = matches!(traffic, Traffic::TlsKeepAlive | Traffic::TlsNew);
    let base = if tls { format!("https://{}", peer.https) } else { format!("http://{}", peer.http) };
    let (suffix, method, body) = match traffic {
        Traffic::BigResponse => ("/big", "GET", 0),
        Traffic::Upload => ("", "POST", UPLOAD_BYTES),
        _ => ("", "GET", 0),
    };
    let close = matches!(traffic, Traffic::NewConnection | Traffic::TlsNew);
    let args = [
        "-t1".to_owned(),
        format!("-c{connections}"),
        format!("-d{}s", plan.time.as_secs()),
        "--latency".to_owned(),
        "-s".to_owned(),
        script.display().to_string(),
        base,
        "--".to_owned(),
        APIS.to_string(),
        suffix.to_owned(),
        method.to_owned(),
        body.to_string(),
        if close { "close" } else { "keep" }.to_owned(),
        plan.token.unwrap_or_default().to_owned(),
    ];
    let text = process::output(plan.core, "wrk", &args, plan.time + Duration::from_secs(30)).await?;
    parse(&text).with_context(|| format!("wrk printed: {text}"))
}

fn parse(text: &str) -> Option<Seen> {
    let line = text.lines().find_map(|line| line.strip_prefix("RESULT "))?;
    let numbers: Vec<u64> = line.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [requests, micros, errors, p50, p99, p999] = numbers.try_into().ok()?;
    let micro = |value: u64| u32::try_from(value).map_or(f64::NAN, f64::from);
    Some(Seen {
        requests,
        errors,
        seconds: micro(micros) / 1e6,
        p50: micro(p50),
        p99: micro(p99),
        p999: micro(p999),
    })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn the_result_line_is_read() {
        let seen = parse("Running 1s test\nRESULT 1000 2000000 3 10 20 30\n").expect("a result");
        assert_eq!((seen.requests, seen.errors, seen.seconds), (1000, 3, 2.0));
        assert_eq!((seen.p50, seen.p99, seen.p999), (10.0, 20.0, 30.0));
        assert!(parse("Requests/sec: 12").is_none());
    }
}
