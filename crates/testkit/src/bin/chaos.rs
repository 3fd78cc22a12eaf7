// SPDX-License-Identifier: Apache-2.0
//! Beats a whole gateway of real processes with every fault there is and says which
//! promises it kept. `cargo xtask chaos` builds what is needed and runs this.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use ferrogate_testkit::chaos::{self, Options, report};

const USAGE: &str =
    "usage: chaos FERROGATE-BINARY OUT-FOLDER SECONDS SEED READS-PER-SECOND WRITES-PER-SECOND";

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let mut args = std::env::args().skip(1);
    let mut next = || args.next().context(USAGE);
    let options = Options {
        binary: PathBuf::from(next()?),
        out: PathBuf::from(next()?),
        length: Duration::from_secs(next()?.parse().context(USAGE)?),
        seed: next()?.parse().context(USAGE)?,
        reads: next()?.parse().context(USAGE)?,
        writes: next()?.parse().context(USAGE)?,
    };
    let verdict = chaos::run(&options).await?;
    print!("{}", report::text(&verdict));
    println!("report: {}", options.out.join("index.html").display());
    Ok(if verdict.held() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
