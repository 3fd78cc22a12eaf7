// SPDX-License-Identifier: Apache-2.0
//! Runs the proofs by hand, deeper or longer than the tests do; `cargo xtask model` and
//! `cargo xtask simulate` start it. What it prints is what `docs/reliability.md` quotes. It fails when a promise breaks.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ferrogate_proof::model::Plant;
use ferrogate_proof::model::report::{check, planted, scenarios, table};
use ferrogate_proof::sim::{report, run};

#[derive(Parser)]
#[command(name = "proof", about = "The protocol's model and the simulation")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Walk every path of the protocol's model
    Model {
        /// How many more actions each path may have than in the tests
        #[arg(long, default_value_t = 0)]
        depth: usize,
    },
    /// Run whole gateways in simulation
    Simulate {
        /// How many seeds
        #[arg(long, default_value_t = 200)]
        seeds: u64,
        /// The first one
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// Print the history of every seed, not only of those that break a promise
        #[arg(long)]
        history: bool,
    },
}

fn main() -> ExitCode {
    let held = match Cli::parse().task {
        Task::Model { depth } => model(depth),
        Task::Simulate { seeds, from, history } => simulate(seeds, from, history),
    };
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn simulate(seeds: u64, from: u64, history: bool) -> bool {
    if history {
        for outcome in (from..from.saturating_add(seeds)).filter_map(|seed| run(seed).ok()) {
            println!("seed {}, trace {:016x}\n{}", outcome.seed, outcome.trace, outcome.history);
        }
        return true;
    }
    match report::run_all(from, seeds) {
        Ok(totals) => {
            for outcome in &totals.failed {
                println!("seed {}\n{}\n", outcome.seed, outcome.history);
            }
            println!("{totals}");
            totals.failed.is_empty() && totals.diverged.is_empty()
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            false
        }
    }
}

fn model(deeper: usize) -> bool {
    let mut held = true;
    let mut findings = Vec::new();
    for scenario in scenarios(deeper) {
        let finding = check(scenario);
        for (promise, path) in &finding.broken {
            held = false;
            println!("BROKEN {}\n{path}", promise.text());
        }
        findings.push(finding);
    }
    println!("{}", table(&findings));
    for plant in Plant::ALL {
        let finding = check(planted(plant));
        let broken: Vec<_> = finding.broken.iter().map(|(promise, _)| promise.text()).collect();
        held &= !broken.is_empty();
        let found = if broken.is_empty() { "NOT FOUND".to_owned() } else { broken.join(", ") };
        println!("planted {plant:?}: {found}, in {} states", finding.states);
    }
    held
}
