// SPDX-License-Identifier: Apache-2.0
//! Why a controller cannot start. A database that is down is none of the reasons.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use ferrogate_base::listen::BindError;
use ferrogate_store::OpenError;
use ferrogate_xds::tls::TlsError;

use crate::auth::admin_password::AdminPasswordError;
use crate::files::FilesError;
use crate::seal::files::KeyFileError;

/// Why a controller cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Two controllers would write the same files.
    #[error(
        "another controller runs in the data directory {0}: stop it first, or give this one a directory and \
         ports of its own"
    )]
    InUse(PathBuf),
    /// The database URL cannot be used.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// A file cannot be read.
    #[error("{what} {path} cannot be read: {source}")]
    File {
        /// What it is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The join token file is empty.
    #[error("the join token file {0} is empty")]
    EmptyToken(PathBuf),
    /// The keys that seal what is stored cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    /// The files that hold artifacts cannot be used.
    #[error(transparent)]
    Artifacts(#[from] FilesError),
    /// The stream's certificates cannot be used.
    #[error("{setting}: {source}")]
    Tls {
        /// What names the file.
        setting: &'static str,
        /// What is wrong with it.
        source: TlsError,
    },
    /// The stream would be open to anybody.
    #[error(
        "the config stream on {0} needs a join token file or client certificates: without either it may listen on loopback only"
    )]
    Unprotected(SocketAddr),
    /// There is no administrator.
    #[error(transparent)]
    AdminPassword(#[from] AdminPasswordError),
    /// No HTTP client for the identity provider.
    #[error("the client for the identity provider cannot be made: {0}")]
    Idp(#[source] reqwest::Error),
}
