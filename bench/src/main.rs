// SPDX-License-Identifier: Apache-2.0
//! Ferrogate beside its peers, on the same work in the same run. `compare` starts every
//! proxy pinned to one core, loads them in interleaved rounds from another, and writes
//! medians of per-round ratios; the other commands are what it starts. It sees Ferrogate as
//! a user does, over sockets only; `cargo xtask bench` builds and installs what it needs.

mod backend;
mod compare;
mod count;
mod ext_proc;
mod figure;
mod load;
mod peers;
mod process;
mod report;
mod scenario;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Ferrogate beside its peers: cost per request, latency, memory")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure every proxy in interleaved rounds and write the tables and the plot
    Compare(compare::Options),
    /// Count the instructions of a request under callgrind
    Count(count::Options),
    /// Answer every request with 1 KiB, `…/big` with 1 MiB, on one thread
    Backend {
        /// Where to listen
        address: std::net::SocketAddr,
    },
    /// Serve Envoy's external-processing protocol: one header each way
    ExtProc {
        /// The Unix socket
        socket: PathBuf,
    },
    /// Hold idle connections until standard input ends
    Idle {
        /// The proxy
        address: std::net::SocketAddr,
        /// How many connections
        count: usize,
    },
}

fn main() -> anyhow::Result<()> {
    process::raise_file_limit();
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("note: a TLS provider is installed already");
    }
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    executor.block_on(async {
        match Cli::parse().command {
            Command::Compare(options) => compare::run(&options).await,
            Command::Count(options) => count::run(&options).await,
            Command::Backend { address } => backend::serve(address).await,
            Command::ExtProc { socket } => ext_proc::serve(&socket).await,
            Command::Idle { address, count } => load::idle::hold(address, count).await,
        }
    })
}
