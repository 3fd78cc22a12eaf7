// SPDX-License-Identifier: Apache-2.0
//! The `ferrogate` binary: it reads the command line and hands over to one role or one
//! client verb. Nothing is decided here; the composition of a process is in [`roles`].

mod cli;
mod client;
mod demo;
mod output;
mod pki;
mod roles;
mod sample_backend;
mod verbs;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use ferrogate_base::config::ConfigError;

use cli::{Cli, Command, Exit};

// Measured on the request path: per-core heaps that do not contend.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse_from(cli::one_dash(std::env::args_os()));
    // Fails only when one is installed already, which is just as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    match run(cli.command) {
        Ok(exit) => exit.into(),
        Err(error) if output::is_closed(&error) => ExitCode::SUCCESS,
        Err(error) => {
            for line in complaints(&error) {
                output::note(&format!("error: {line}\n"));
            }
            Exit::of(&error).into()
        }
    }
}

/// What to tell: one line per problem of a configuration, else one error with its causes.
fn complaints(error: &anyhow::Error) -> Vec<String> {
    match error.downcast_ref::<ConfigError>() {
        Some(ConfigError(problems)) => problems.iter().map(ToString::to_string).collect(),
        None => vec![client::reasons(error.as_ref())],
    }
}

fn run(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Standalone(flags) => roles::standalone::run(&flags),
        Command::Controller(flags) => roles::controller::run(&flags),
        Command::Runtime(flags) => roles::runtime::run(&flags),
        Command::Demo(flags) => demo::run(&flags),
        Command::SampleBackend(flags) => sample_backend::run(&flags),
        Command::Pki(flags) => pki::run(&flags),
        Command::Reseal(flags) => roles::reseal::run(&flags),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "ferrogate", &mut script);
            output::text(&String::from_utf8_lossy(&script))?;
            Ok(Exit::Done)
        }
        Command::Verb(verb) => verbs::run(verb),
    }
}
