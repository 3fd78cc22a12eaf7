// SPDX-License-Identifier: Apache-2.0
//! The project's own tasks, run as `cargo xtask NAME`. `test` runs everything that
//! proves the project and is what continuous integration runs, so that a green run
//! means the same thing on every machine.

mod bench;
mod chaos;
mod cost;
mod fuzz;
mod measure;
mod postgres;
mod programs;
mod proof;
mod scale;
mod schema_fuzz;
mod soak;
mod stage;
mod test;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own tasks")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run everything that proves the project, the slow parts included
    Test,
    /// Check the rules that no other tool checks: crate edges, sizes, licence lines, paths
    Tidy,
    /// Run the highly available demo and fail if it breaks a promise
    Demo {
        /// Passed on to `ferrogate demo`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure cost per request beside nginx, HAProxy and Envoy; writes docs/performance.md
    Bench {
        /// Passed on to the comparison: --rounds N, --seconds S, --only SCENARIO
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Count the instructions of a request on the release build; fail at 5 % over the record
    Cost {
        /// Record what is counted instead
        #[arg(long)]
        record: bool,
    },
    /// Measure what the number of APIs costs; without flags it writes docs/performance.md
    Scale {
        /// Passed on: --quick, --sizes 10,1000, --changes N, --soak N, --runtimes N
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Walk every path of the protocol's model; with `--depth N` by so many actions deeper
    Model {
        /// How many more actions each path may have than in the tests
        #[arg(long, default_value_t = 0)]
        depth: usize,
    },
    /// Beat a whole gateway with every fault of a seeded schedule and judge every promise
    Chaos(chaos::Flags),
    /// Run whole gateways in simulation, one for each seed
    Simulate {
        /// How many seeds
        #[arg(long, default_value_t = 200)]
        seeds: u64,
        /// The first one
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// Print what happened in every seed instead of adding them up
        #[arg(long)]
        history: bool,
    },
    /// Fuzz every decoder under libFuzzer, guided by coverage
    Fuzz {
        /// Only these targets: the names of the folders in fuzz/corpus
        targets: Vec<String>,
        /// How long each target runs
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Run the management API against requests that schemathesis makes from its description
    SchemaFuzz {
        /// Requests to each operation, at most
        #[arg(long, default_value_t = 200)]
        examples: u32,
        /// The same seed makes the same requests
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Change a gateway of real processes without end and see that its memory comes back
    Soak {
        /// How long
        #[arg(long, default_value_t = 30)]
        minutes: u32,
        /// How many changes a second
        #[arg(long, default_value_t = 10)]
        changes: u32,
    },
    /// Measure the figures of docs/reliability.md on the release build and print them as a table
    Measure {
        /// A tenth of everything, for a quick look
        #[arg(long)]
        quick: bool,
    },
}

fn main() -> ExitCode {
    let done = root().and_then(|root| match Cli::parse().task {
        Task::Test => test::run(&root),
        Task::Tidy => tidy::run(&root),
        Task::Demo { arguments } => {
            postgres::ensure()?;
            test::build(&root)?;
            test::demo(&root, &arguments)
        }
        Task::Cost { record } => cost::run(&root, record),
        Task::Bench { arguments } => bench::run(&root, &arguments),
        Task::Scale { arguments } => scale::run(&root, &arguments),
        Task::Model { depth } => proof::model(&root, depth),
        Task::Simulate { seeds, from, history } => {
            let (seeds, from) = (seeds.to_string(), from.to_string());
            let mut arguments = vec!["--seeds", &seeds, "--from", &from];
            arguments.extend(history.then_some("--history"));
            proof::simulate(&root, &arguments)
        }
        Task::Chaos(flags) => chaos::run(&root, &flags),
        Task::Fuzz { targets, seconds } => fuzz::run(&root, &targets, seconds),
        Task::SchemaFuzz { examples, seed } => schema_fuzz::run(&root, examples, seed),
        Task::Soak { minutes, changes } => soak::run(&root, minutes, changes),
        Task::Measure { quick } => measure::run(&root, quick),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's folder: this package's parent.
fn root() -> anyhow::Result<PathBuf> {
    let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    Ok(package.parent().context("xtask lies inside the workspace")?.to_owned())
}
