// SPDX-License-Identifier: Apache-2.0
//! Flags of the client verbs.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use ferrogate_controller::status::live::Scope;
use ferrogate_model::duration::parse_go;

/// How a verb reaches the gateway and shows its answer.
#[derive(Args, Clone, Debug)]
pub struct Connection {
    /// A controller's management API; give it once per controller, the next is tried when one does not
    /// answer [env: FERROGATE_CONTROLLER, comma separated] [default: the one running from the data
    /// directory, else http://127.0.0.1:9090]
    #[arg(long, value_name = "URL")]
    pub controller: Vec<String>,
    /// Where a controller of this user keeps its files, its generated password among them
    /// [env: FERROGATE_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// User name [env: FERROGATE_USERNAME] [default: admin]
    #[arg(long, value_name = "NAME")]
    pub username: Option<String>,
    /// Password; safer in FERROGATE_ADMIN_PASSWORD, because other users can see flags
    #[arg(long, value_name = "PASSWORD")]
    pub password: Option<String>,
    /// Bearer token instead of a password [env: FERROGATE_TOKEN]
    #[arg(long, value_name = "JWT", conflicts_with_all = ["username", "password"])]
    pub token: Option<String>,
    /// How to show the answer [default: table, for `get` yaml]
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Output>,
}

/// How an answer is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// JSON
    Json,
    /// YAML
    Yaml,
    /// For people
    Table,
}

/// Whether and how long to wait for runtimes.
#[derive(Args, Clone, Debug)]
pub struct Waiting {
    /// Return only when every connected runtime serves the change; exit code 3 when not in time, or when
    /// no runtime is connected
    #[arg(long)]
    pub wait: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = timeout, requires = "wait")]
    pub timeout: String,
    /// Whom to wait for: all, or zone:NAME
    #[arg(long, value_name = "SCOPE", default_value = "all", value_parser = scope, requires = "wait")]
    pub scope: String,
}

/// Flags of `apply`.
#[derive(Args, Clone, Debug)]
pub struct ApplyFlags {
    /// File, folder (its *.yaml, *.yml and *.json, in path order) or - for standard input; repeatable
    #[arg(short, long = "file", value_name = "FILE|DIR|-", required = true)]
    pub files: Vec<PathBuf>,
    /// Validate and compile, but store nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Refuse fields that have no effect instead of warning about them
    #[arg(long)]
    pub strict: bool,
    /// Whether to wait.
    #[command(flatten)]
    pub waiting: Waiting,
    /// How to reach the gateway.
    #[command(flatten)]
    pub connection: Connection,
}

/// Which REST APIs to list.
#[derive(Args, Clone, Debug)]
pub struct Filters {
    /// Only those with this display name
    #[arg(long)]
    pub display_name: Option<String>,
    /// Only those of this version
    #[arg(long)]
    pub version: Option<String>,
    /// Only those with this context
    #[arg(long)]
    pub context: Option<String>,
    /// Only those that are deployed or undeployed
    #[arg(long, value_parser = ["deployed", "undeployed"])]
    pub status: Option<String>,
}

/// The client verbs.
#[derive(Subcommand)]
pub enum Verb {
    /// Create or replace artifacts from files: all of them or, if one is refused, none
    Apply(ApplyFlags),
    /// Show one artifact
    Get {
        /// Its name (`metadata.name`) for a REST API, secrets/NAME for a secret
        #[arg(value_parser = name)]
        name: String,
        /// As of this revision
        #[arg(long, value_name = "N")]
        revision: Option<u64>,
        /// How to reach the gateway.
        #[command(flatten)]
        connection: Connection,
    },
    /// List artifacts
    List {
        /// What to list; the filters are for REST APIs
        #[arg(value_name = "KIND", value_parser = ["rest-apis", "secrets", "certificates"])]
        kind: Option<String>,
        /// Which of them.
        #[command(flatten)]
        filters: Filters,
        /// How to reach the gateway.
        #[command(flatten)]
        connection: Connection,
    },
    /// Delete artifacts, one after the other; none when one of several does not exist
    Delete {
        /// Their names; secrets/NAME for a secret
        #[arg(required = true, value_parser = name)]
        names: Vec<String>,
        /// Whether to wait.
        #[command(flatten)]
        waiting: Waiting,
        /// How to reach the gateway.
        #[command(flatten)]
        connection: Connection,
    },
    /// Show what apply would change; exit code 6 when there are differences
    Diff {
        /// File, folder or - for standard input; repeatable
        #[arg(short, long = "file", value_name = "FILE|DIR|-", required = true)]
        files: Vec<PathBuf>,
        /// How to reach the gateway.
        #[command(flatten)]
        connection: Connection,
    },
    /// Show the cluster: controllers, runtimes, revisions, lag and rejects
    Status {
        /// How to reach the gateway.
        #[command(flatten)]
        connection: Connection,
    },
    /// List the revisions of one artifact, or of the whole gateway
    History {
        /// The artifact's name, secrets/NAME for a secret; without it, every change of the gateway
        #[arg(value_parser = name)]
        name: Option<String>,
        /// How many revisions, newest first
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: u16,
        /// Only revisions below this one
        #[arg(long, value_name = "REVISION")]
        before: Option<u64>,
        /// How to reach the gateway.
        #[command(flatten)]
        connection: Connection,
    },
    /// Make a new revision with the content of an old one
    #[command(group(ArgGroup::new("what").args(["name", "all"]).required(true)))]
    Rollback {
        /// The artifact's name, secrets/NAME for a secret
        #[arg(value_parser = name)]
        name: Option<String>,
        /// The revision whose content is wanted
        #[arg(long, value_name = "REVISION")]
        to: u64,
        /// Roll the whole gateway back
        #[arg(long)]
        all: bool,
        /// Whether to wait.
        #[command(flatten)]
        waiting: Waiting,
        /// How to reach the gateway.
        #[command(flatten)]
        connection: Connection,
    },
}

/// An artifact's name, with its kind before a slash or without: what it names is for the controller to
/// know, but nothing is not a name.
fn name(text: &str) -> Result<String, String> {
    match text.rsplit('/').next() {
        None | Some("") => Err("a name is missing".to_owned()),
        Some(_) => Ok(text.to_owned()),
    }
}

fn scope(text: &str) -> Result<String, String> {
    match Scope::parse(text) {
        Some(_) if !text.is_empty() => Ok(text.to_owned()),
        Some(_) | None => Err("write all, or zone:NAME".to_owned()),
    }
}

fn timeout(text: &str) -> Result<String, String> {
    parse_go(text)
        .map(|_| text.to_owned())
        .ok_or_else(|| "write a duration such as 500ms, 5s or 1m30s".to_owned())
}
