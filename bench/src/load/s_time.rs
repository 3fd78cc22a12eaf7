// SPDX-License-Identifier: Apache-2.0
//! `openssl s_time`: one request on each of many resumed TLS sessions, one after the other.

use std::time::Duration;

use anyhow::Context as _;

use super::{Plan, Seen};
use crate::peers::Peer;
use crate::process;

pub(super) async fn run(peer: &Peer, plan: &Plan<'_>) -> anyhow::Result<Seen> {
    let (address, seconds) = (peer.https.to_string(), plan.time.as_secs().to_string());
    // The tool resumes by session id and ticket of TLS 1.2 only.
    let args =
        ["s_time", "-connect", &address, "-www", "/bench-7/items/7", "-reuse", "-time", &seconds, "-tls1_2"]
            .map(str::to_owned);
    let text = process::output(plan.core, "openssl", &args, plan.time + Duration::from_secs(30)).await?;
    parse(&text, plan.time).with_context(|| format!("openssl s_time printed: {text}"))
}

/// "1234 connections in 4 real seconds, 567 bytes read per connection"
fn parse(text: &str, time: Duration) -> Option<Seen> {
    let line =
        text.lines().find(|line| line.contains(" connections in ") && line.contains("real seconds"))?;
    let requests = line.split(' ').next()?.parse().ok()?;
    Some(Seen { requests, seconds: time.as_secs_f64(), ..Seen::default() })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::parse;

    #[test]
    fn the_count_of_connections_is_read() {
        let text = "2000 connections in 1.20s; 1666 connections/user sec, bytes read 0\n\
                    2100 connections in 4 real seconds, 1150 bytes read per connection\n";
        assert_eq!(parse(text, Duration::from_secs(3)).map(|seen| seen.requests), Some(2100));
        assert!(parse("no", Duration::from_secs(3)).is_none());
    }
}
