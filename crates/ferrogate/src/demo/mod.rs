// SPDX-License-Identifier: Apache-2.0
//! `ferrogate demo`: a highly available gateway of real processes on one machine, broken
//! on purpose step by step. Each step says what is promised, what was observed and how
//! long it took; a promise that is not kept makes the exit code non-zero. Everything it
//! starts ends with it.

mod http;
mod parts;
// One supervisor of throw-away servers, written for the tests; it uses nothing of this tree.
#[path = "../../../testkit/src/postgres.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod postgres;
mod process;
mod report;
mod steps;
mod traffic;

use std::time::Duration;

use anyhow::Context;
use ferrogate_base::tasks::Tasks;

use crate::cli::{DemoFlags, Exit};
use crate::output;
use crate::roles::signals::Signals;
use parts::Gateway;
use report::Report;

/// How long the traffic may take to stop at the end.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Runs the walk.
pub fn run(flags: &DemoFlags) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let exit = signals.or_forced(walk(flags)).await;
        let Some(walked) = exit else {
            output::note("interrupted\n");
            return Ok(Exit::Failed);
        };
        let (gateway, exit) = walked?;
        if flags.keep {
            output::text(&gateway.guide())?;
            signals.next().await;
        }
        Ok(exit)
    })
}

async fn walk(flags: &DemoFlags) -> anyhow::Result<(Gateway, Exit)> {
    let backend = Tasks::new();
    let started = Gateway::start(flags.database_url.as_deref(), &backend).await;
    let mut gateway = started.context("the demo cannot start")?;
    output::text(&gateway.introduction())?;
    let tasks = Tasks::new();
    let mut report = Report::default();
    let walked = steps::run(&mut gateway, &tasks, &mut report).await;
    let stopped = tasks.shutdown(STOP_DEADLINE).await;
    walked.with_context(|| format!("the demo cannot go on; logs are in {}", gateway.keep_logs()))?;
    anyhow::ensure!(stopped.aborted.is_empty(), "the traffic did not stop: {:?}", stopped.aborted);
    let kept = report.close()?;
    if !kept {
        output::line(&format!("logs are in {}", gateway.keep_logs()))?;
    }
    Ok((gateway, if kept { Exit::Done } else { Exit::Failed }))
}
