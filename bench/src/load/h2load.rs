// SPDX-License-Identifier: Apache-2.0
//! `h2load` (nghttp2): HTTP/2 over TLS.

use std::time::Duration;

use anyhow::Context as _;

use super::{Plan, Seen};
use crate::peers::Peer;
use crate::process;

pub(super) async fn run(peer: &Peer, plan: &Plan<'_>) -> anyhow::Result<Seen> {
    let seconds = plan.time.as_secs();
    let url = format!("https://{}/bench-7/items/7", peer.https);
    let args =
        ["-t1", "-c16", "-m8", "--warm-up-time=0", "-D", &seconds.to_string(), &url].map(str::to_owned);
    let text = process::output(plan.core, "h2load", &args, plan.time + Duration::from_secs(30)).await?;
    parse(&text).with_context(|| format!("h2load printed: {text}"))
}

fn parse(text: &str) -> Option<Seen> {
    let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    // "requests: 1 total, 1 started, 1 done, 1 succeeded, 0 failed, 0 errored, 0 timeout"
    let requests = line("requests: ")?;
    let count = |word: &str| -> Option<u64> {
        requests.split(", ").find_map(|part| part.strip_suffix(word)?.trim().parse().ok())
    };
    let finished = line("finished in ")?.split(',').next()?.trim();
    Some(Seen {
        requests: count("succeeded")?,
        errors: count("failed")? + count("errored")? + count("timeout")?,
        seconds: seconds(finished)?,
        // h2load prints a mean and its spread, not percentiles.
        ..Seen::default()
    })
}

fn seconds(text: &str) -> Option<f64> {
    let (number, unit) = text.split_at(text.find(|symbol: char| symbol.is_ascii_alphabetic())?);
    let number: f64 = number.parse().ok()?;
    match unit {
        "s" => Some(number),
        "ms" => Some(number / 1e3),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn the_summary_is_read() {
        let text = "finished in 2.50s, 400.00 req/s, 1MB/s\n\
                    requests: 1000 total, 1000 started, 1000 done, 990 succeeded, 10 failed, 2 errored, 1 timeout\n";
        let seen = parse(text).expect("a summary");
        assert_eq!((seen.requests, seen.errors, seen.seconds), (990, 13, 2.5));
        assert!(parse("nothing").is_none());
    }
}
