// SPDX-License-Identifier: Apache-2.0
//! Runs the proofs by hand, deeper or longer than the tests do; `cargo xtask model` starts
//! it. What it prints is what `docs/reliability.md` quotes. It fails when a promise breaks.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ferrogate_proof::model::Plant;
use ferrogate_proof::model::report::{check, planted, scenarios, table};

#[derive(Parser)]
#[command(name = "proof", about = "The protocol's model")]
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
}

fn main() -> ExitCode {
    let held = match Cli::parse().task {
        Task::Model { depth } => model(depth),
    };
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
