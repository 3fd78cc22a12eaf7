// SPDX-License-Identifier: Apache-2.0
//! The command line: every flag with its help, and nothing else. Flags of roles become
//! a configuration layer in `roles`; flags of verbs are read by the verbs. Flag names
//! are part of the interface that scripts rely on.

mod exit;
mod roles;
mod verbs;

use std::ffi::OsString;

use clap::{Parser, Subcommand};

pub use exit::{Exit, Misuse};
pub use roles::{
    Common, ControllerFlags, DemoFlags, PkiFlags, ResealFlags, RuntimeFlags, SampleBackendFlags,
    StandaloneFlags, StoreFlags, StreamTlsFlags,
};
pub use verbs::{ApplyFlags, Connection, Filters, Output, Verb, Waiting};

/// A self-hosted, highly available API gateway.
#[derive(Parser)]
#[command(
    name = "ferrogate",
    version,
    max_term_width = 100,
    after_help = "Start with `ferrogate standalone`; it prints what to do next.\n\n\
                  Exit codes: 0 done · 1 failed · 2 wrong usage or configuration · \
                  3 stored, but not live everywhere in time, or on no runtime · 4 conflict with what is stored · \
                  5 no such artifact · 6 differences found"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Roles, tools and client verbs.
#[derive(Subcommand)]
pub enum Command {
    /// Run controller and runtime in one process over an embedded database
    Standalone(StandaloneFlags),
    /// Run a controller: management API, store, replication, config stream
    Controller(ControllerFlags),
    /// Run a runtime: the data plane that serves traffic
    Runtime(RuntimeFlags),
    /// Run a highly available gateway on this machine and break it, step by step
    Demo(DemoFlags),
    /// Run a small books service with an echo, to have something behind the gateway
    SampleBackend(SampleBackendFlags),
    /// Make a certificate authority and certificates for controllers and runtimes
    Pki(PkiFlags),
    /// Seal everything that a gateway has stored anew under the first of its keys, while its
    /// controllers go on; it takes a controller's configuration
    Reseal(ResealFlags),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// A verb of the client.
    #[command(flatten)]
    Verb(Verb),
}

/// The words of a command line, with the one flag of contract 7.1 that has a single dash there.
pub fn one_dash(words: impl IntoIterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    words.into_iter().map(|word| if word == "-config" { OsString::from("--config") } else { word })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{Cli, Command, one_dash};
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_that_scripts_rely_on_are_there() {
        let lines = [
            "controller --config a --config b --database-url sqlite://x --gateway-id g --replica-id r --zone z \
             --data-dir d --listen-management off --listen-admin off --listen-metrics off --listen-stream off \
             --join-token-file t --stream-ca a --stream-cert c --stream-key k --check",
            "runtime --config a --controller http://a --controller http://b --runtime-id r --zone z --data-dir d \
             --listen-http off --listen-https off --listen-admin off --listen-metrics off --listen-readiness off \
             --gateway-id g --join-token-file t --stream-ca a --stream-cert c --stream-key k \
             --stream-server-name n --handover h --workers 2",
            "standalone --config a --data-dir d --zone z --workers 2 --listen-management off --listen-admin off \
             --listen-metrics off --listen-stream off --listen-http off --listen-https off --listen-readiness off \
             --listen-runtime-admin off --listen-runtime-metrics off",
            "reseal --config a --database-url postgres://x --gateway-id g --encryption-key-file k --check",
            "apply -f x -f y --wait --dry-run --controller http://a --controller http://b --data-dir d",
            "rollback reading-list --to 7 -o json",
            "rollback --all --to 7",
            "completions bash",
        ];
        for line in lines {
            let words = std::iter::once("ferrogate").chain(line.split_whitespace());
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn wrong_values_are_wrong_usage() {
        for (words, part) in [
            (&["apply", "-f", "x", "--wait", "--scope", "foo"][..], "zone:NAME"),
            (&["delete", "x", "--wait", "--timeout", "soon"], "--timeout"),
            (&["get", ""], "a name is missing"),
            (&["get", "secrets/"], "a name is missing"),
            (&["rollback", "--to", "3"], "<NAME|--all>"),
            (&["rollback", "x", "--all", "--to", "3"], "cannot be used with"),
        ] {
            let error = Cli::try_parse_from([&["ferrogate"], words].concat()).err();
            let told = error.map(|error| error.to_string()).unwrap_or_default();
            assert!(told.contains(part), "{words:?}: {told}");
        }
    }

    #[test]
    fn a_file_is_named_with_one_dash_as_well() {
        for word in ["-config", "--config"] {
            let cli = Cli::try_parse_from(one_dash(["ferrogate", "runtime", word, "x"].map(Into::into)));
            let Ok(Cli { command: Command::Runtime(flags) }) = cli else { panic!("{word} is refused") };
            assert_eq!(flags.common.config, [PathBuf::from("x")], "{word}");
        }
    }
}
