// SPDX-License-Identifier: Apache-2.0
//! Runs `http1.txt`.

use crate::cases::{self, Case, Want};
use crate::gateway::{CODECS, Gateway};
use crate::upstream::{Arrived, Seen};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_ambiguous_is_forwarded() -> anyhow::Result<()> {
    let cases = cases::read(include_str!("http1.txt"));
    assert!(cases.len() > 90, "{} cases", cases.len());
    for codec in CODECS {
        let gateway = Gateway::start(codec).await?;
        let mut failed = Vec::new();
        for case in &cases {
            let answer = gateway.send(&case.bytes).await?;
            if let Err(why) = judge(case, &answer, &gateway.upstream.take()) {
                let answer = String::from_utf8_lossy(&answer).into_owned();
                failed.push(format!("{case} with {codec}: {why}\n    answered {answer:?}"));
            }
        }
        assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), cases.len(), failed.join("\n"));
    }
    Ok(())
}

/// Whether the outcome is one that is right.
fn judge(case: &Case, answer: &[u8], seen: &[Seen]) -> Result<(), String> {
    let mut whole = Vec::new();
    for one in seen {
        match one {
            Seen::Whole(arrived) => whole.push(arrived),
            Seen::Partial => {}
            Seen::Ambiguous(why, bytes) => return Err(format!("{why} arrived upstream in {bytes:?}")),
        }
    }
    if let Some(smuggled) = whole.iter().find(|arrived| arrived.path.contains("smuggled")) {
        return Err(format!("smuggled: {smuggled:?}"));
    }
    let outcome = outcome(answer, whole.first().copied());
    if whole.len() <= 1 && case.want.contains(&outcome) {
        return Ok(());
    }
    Err(format!("{outcome:?} is none of {:?}; {} arrived", case.want, whole.len()))
}

fn outcome(answer: &[u8], arrived: Option<&Arrived>) -> Want {
    if let Some(Arrived { method, path, body, .. }) = arrived {
        return Want::Arrives { method: method.clone(), path: path.clone(), body: body.clone() };
    }
    let status = answer.strip_prefix(b"HTTP/1.1 ").or_else(|| answer.strip_prefix(b"HTTP/1.0 "));
    match status.and_then(|rest| std::str::from_utf8(rest.get(..3)?).ok()?.parse().ok()) {
        Some(status) => Want::Status(status),
        None => Want::Closed,
    }
}
