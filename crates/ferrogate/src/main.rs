// SPDX-License-Identifier: Apache-2.0
//! The `ferrogate` binary: it reads the command line and hands over to one role or one
//! client verb. Nothing is decided here; the composition of a process is in [`roles`].

mod cli;
mod client;
mod pki;
mod roles;
mod sample_backend;
mod verbs;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use cli::{Cli, Command, Exit};

// Measured on the request path: per-core heaps that do not contend.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Fails only when one is installed already, which is just as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    match run(cli.command) {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("error: {}", client::reasons(error.as_ref()));
            Exit::of(&error).into()
        }
    }
}

fn run(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Standalone(flags) => roles::standalone::run(&flags),
        Command::Controller(flags) => roles::controller::run(&flags),
        Command::Runtime(flags) => roles::runtime::run(&flags),
        Command::SampleBackend(flags) => sample_backend::run(&flags),
        Command::Pki(flags) => pki::run(&flags),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "ferrogate", &mut std::io::stdout());
            Ok(Exit::Done)
        }
        Command::Verb(verb) => verbs::run(verb),
    }
}
