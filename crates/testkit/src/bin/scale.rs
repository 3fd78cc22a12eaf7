// SPDX-License-Identifier: Apache-2.0
//! Measures what the number of APIs costs, on real processes. `cargo xtask scale` builds
//! the release binaries and runs this.

use std::path::PathBuf;

use clap::Parser;
use ferrogate_testkit::scale::{Options, report, run};

/// What the number of APIs costs
#[derive(Parser)]
struct Flags {
    /// The ferrogate binary
    #[arg(long)]
    ferrogate: PathBuf,
    /// Numbers of APIs, growing
    #[arg(long, value_delimiter = ',', default_values_t = [10, 1_000, 10_000, 50_000, 100_000])]
    sizes: Vec<usize>,
    /// Changes whose cost is measured at each size
    #[arg(long, default_value_t = 300)]
    changes: usize,
    /// Changes after which memory must be what it was
    #[arg(long, default_value_t = 10_000)]
    soak: usize,
    /// Simulated runtimes that reconnect at each size
    #[arg(long, default_value_t = 1_000)]
    runtimes: usize,
    /// 10, 1,000 and 2,000 APIs, 100 runtimes, 1,000 changes
    #[arg(long)]
    quick: bool,
    /// The document whose marked part is replaced by the tables; printed only without it
    #[arg(long)]
    document: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let flags = Flags::parse();
    let mut options = Options {
        binary: flags.ferrogate,
        sizes: flags.sizes,
        changes: flags.changes,
        soak: flags.soak,
        fleet: flags.runtimes,
    };
    if flags.quick {
        options = Options { sizes: vec![10, 1_000, 2_000], soak: 1_000, fleet: 100, ..options };
    }
    options.sizes.sort_unstable();
    let rows = run(&options).await?;
    print!("{}", report::tables(&rows));
    match flags.document {
        Some(document) => report::write(&document, &rows),
        None => Ok(()),
    }
}
