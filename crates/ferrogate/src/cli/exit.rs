// SPDX-License-Identifier: Apache-2.0
//! How the process ends. The numbers are part of the interface that scripts rely on and
//! stand in `ferrogate --help`.

use std::process::ExitCode;

use ferrogate_base::config::ConfigError;

use crate::client::ClientError;

/// An outcome with its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// Failed.
    Failed,
    /// The command line or the configuration is wrong.
    Usage,
    /// Stored, but not live everywhere in time, or nobody there to serve it.
    NotLive,
    /// Something stored is in the way.
    Conflict,
    /// There is no such artifact.
    NotFound,
    /// `diff` found differences.
    Different,
}

/// Flags that are right one by one and make no sense together.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misuse(pub String);

impl Exit {
    /// The code of an error.
    pub fn of(error: &anyhow::Error) -> Self {
        if error.is::<ConfigError>() || error.is::<Misuse>() {
            return Self::Usage;
        }
        match error.downcast_ref::<ClientError>() {
            Some(ClientError::Refused { status, body, .. }) => match status.as_u16() {
                // Without a body of ours it is some other server, and says nothing of artifacts.
                404 if body.is_object() => Self::NotFound,
                409 | 412 => Self::Conflict,
                _ => Self::Failed,
            },
            Some(ClientError::NoCredentials(_) | ClientError::Address { .. }) => Self::Usage,
            Some(ClientError::Unreachable(_) | ClientError::Broken(_)) | None => Self::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::NotLive => 3,
            Exit::Conflict => 4,
            Exit::NotFound => 5,
            Exit::Different => 6,
        })
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::{Value, json};

    use super::{ClientError, Exit};

    #[test]
    fn only_our_own_not_found_means_that_there_is_no_such_artifact() {
        let of = |body: Value| {
            let error = ClientError::Refused { status: StatusCode::NOT_FOUND, message: String::new(), body };
            Exit::of(&error.into())
        };
        assert_eq!(of(json!({"status": "error"})), Exit::NotFound);
        assert_eq!(of(Value::Null), Exit::Failed);
    }
}
