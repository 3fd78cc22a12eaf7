// SPDX-License-Identifier: Apache-2.0
//! Layered configuration. [`Sources`] gathers files, environment and flags; a role's
//! `config` module asks a [`Reader`] for one typed setting after the other and gets
//! values that cannot be wrong; [`Reader::finish`] then lists every problem at once and
//! the effective value of every setting with its origin. Precedence: flag, environment,
//! file, default. It knows no key: the roles name theirs.

mod effective;
mod reader;
mod sources;
mod suggest;
mod token;

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

pub use effective::{Effective, Setting};
pub use reader::{Finished, ListenKeys, Reader};
pub use sources::Sources;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A configuration file.
    File(PathBuf),
    /// An environment variable, by name.
    Env(String),
    /// A flag, by name.
    Flag(String),
}

/// One thing wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The setting, when it is about one.
    pub key: Option<String>,
    /// Where the wrong value came from.
    pub origin: Option<Origin>,
    /// What is wrong and what to do.
    pub message: String,
}

/// Everything wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}", lines(.0))]
pub struct ConfigError(pub Vec<Problem>);

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => out.write_str("default"),
            Self::File(path) => write!(out, "file {}", path.display()),
            Self::Env(name) => write!(out, "environment {name}"),
            Self::Flag(name) => write!(out, "flag {name}"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(key) = &self.key {
            write!(out, "{key}: ")?;
        }
        out.write_str(&self.message)?;
        match &self.origin {
            Some(origin) => write!(out, " ({origin})"),
            None => Ok(()),
        }
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
