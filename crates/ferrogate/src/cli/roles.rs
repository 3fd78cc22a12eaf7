// SPDX-License-Identifier: Apache-2.0
//! Flags of the roles and tools. Every role flag is optional, because each setting also
//! has an environment variable, a key in the configuration file and a default.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

/// Flags of every role.
#[derive(Args, Clone, Debug, Default)]
pub struct Common {
    /// Configuration file (TOML); a later one is laid over an earlier one
    #[arg(long, value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// List every problem of the configuration and the effective settings with their origin, and exit
    #[arg(long)]
    pub check: bool,
    /// Where this process keeps its files
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The zone this process runs in; runtimes prefer controllers of their own
    #[arg(long, value_name = "ZONE")]
    pub zone: Option<String>,
    /// error, warn, info, debug or trace, or directives such as info,ferrogate_xds=debug
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// text or json
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

/// Flags of `controller`.
#[derive(Args, Clone, Debug, Default)]
pub struct ControllerFlags {
    /// Flags of every role.
    #[command(flatten)]
    pub common: Common,
    /// The store.
    #[command(flatten)]
    pub store: StoreFlags,
    /// What this controller is called in the cluster view
    #[arg(long, value_name = "ID")]
    pub replica_id: Option<String>,
    /// Management API: IP:PORT (port 0: any free one) or off
    #[arg(long, value_name = "ADDRESS")]
    pub listen_management: Option<String>,
    /// Admin server
    #[arg(long, value_name = "ADDRESS")]
    pub listen_admin: Option<String>,
    /// Metrics
    #[arg(long, value_name = "ADDRESS")]
    pub listen_metrics: Option<String>,
    /// Config stream for the runtimes
    #[arg(long, value_name = "ADDRESS")]
    pub listen_stream: Option<String>,
    /// File with the token that runtimes must present
    #[arg(long, value_name = "FILE")]
    pub join_token_file: Option<PathBuf>,
    /// Certificates of the config stream.
    #[command(flatten)]
    pub stream: StreamTlsFlags,
}

/// The store, and what it is sealed with.
#[derive(Args, Clone, Debug, Default)]
pub struct StoreFlags {
    /// postgres://USER:PASSWORD@HOST/DATABASE or sqlite://PATH
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// Which gateway of the database this is; all of its controllers share it
    #[arg(long, value_name = "ID")]
    pub gateway_id: Option<String>,
    /// File of 32 bytes: the key that seals what is stored, the same on every controller
    #[arg(long, value_name = "FILE")]
    pub encryption_key_file: Option<PathBuf>,
}

/// Flags of `reseal`.
#[derive(Args, Clone, Debug, Default)]
pub struct ResealFlags {
    /// Flags of every role.
    #[command(flatten)]
    pub common: Common,
    /// The store.
    #[command(flatten)]
    pub store: StoreFlags,
}

/// Certificates of one end of the config stream; the same flags at both ends.
#[derive(Args, Clone, Debug, Default)]
pub struct StreamTlsFlags {
    /// Authority that the other end's certificate must come from (PEM)
    #[arg(long, value_name = "FILE")]
    pub stream_ca: Option<PathBuf>,
    /// Certificate of this end of the config stream (PEM)
    #[arg(long, value_name = "FILE")]
    pub stream_cert: Option<PathBuf>,
    /// Key of that certificate (PEM)
    #[arg(long, value_name = "FILE")]
    pub stream_key: Option<PathBuf>,
}

/// Flags of `runtime`.
#[derive(Args, Clone, Debug, Default)]
pub struct RuntimeFlags {
    /// Flags of every role.
    #[command(flatten)]
    pub common: Common,
    /// A controller's config stream; give it once per controller
    #[arg(long, value_name = "URL")]
    pub controller: Vec<String>,
    /// Which gateway to serve; its controllers and runtimes share it
    #[arg(long, value_name = "ID")]
    pub gateway_id: Option<String>,
    /// What this runtime is called in the cluster view
    #[arg(long, value_name = "ID")]
    pub runtime_id: Option<String>,
    /// HTTP traffic: IP:PORT (port 0: any free one) or off
    #[arg(long, value_name = "ADDRESS")]
    pub listen_http: Option<String>,
    /// HTTPS traffic
    #[arg(long, value_name = "ADDRESS")]
    pub listen_https: Option<String>,
    /// Admin server
    #[arg(long, value_name = "ADDRESS")]
    pub listen_admin: Option<String>,
    /// Metrics
    #[arg(long, value_name = "ADDRESS")]
    pub listen_metrics: Option<String>,
    /// Readiness probe
    #[arg(long, value_name = "ADDRESS")]
    pub listen_readiness: Option<String>,
    /// File with the token to present to controllers
    #[arg(long, value_name = "FILE")]
    pub join_token_file: Option<PathBuf>,
    /// Certificates of the config stream.
    #[command(flatten)]
    pub stream: StreamTlsFlags,
    /// Name in the controllers' certificates, when it is not the host of their URLs
    #[arg(long, value_name = "NAME")]
    pub stream_server_name: Option<String>,
    /// Unix socket over which a successor takes the listeners over, and this one its predecessor's
    #[arg(long, value_name = "FILE")]
    pub handover: Option<PathBuf>,
    /// Threads that serve traffic; 0 means one per core
    #[arg(long, value_name = "N")]
    pub workers: Option<u16>,
}

/// Flags of `standalone`.
#[derive(Args, Clone, Debug, Default)]
pub struct StandaloneFlags {
    /// Flags of every role.
    #[command(flatten)]
    pub common: Common,
    /// Management API: IP:PORT (port 0: any free one) or off
    #[arg(long, value_name = "ADDRESS")]
    pub listen_management: Option<String>,
    /// Admin server of the controller
    #[arg(long, value_name = "ADDRESS")]
    pub listen_admin: Option<String>,
    /// Metrics of the controller
    #[arg(long, value_name = "ADDRESS")]
    pub listen_metrics: Option<String>,
    /// Config stream between controller and runtime
    #[arg(long, value_name = "ADDRESS")]
    pub listen_stream: Option<String>,
    /// HTTP traffic
    #[arg(long, value_name = "ADDRESS")]
    pub listen_http: Option<String>,
    /// HTTPS traffic
    #[arg(long, value_name = "ADDRESS")]
    pub listen_https: Option<String>,
    /// Admin server of the runtime
    #[arg(long, value_name = "ADDRESS")]
    pub listen_runtime_admin: Option<String>,
    /// Metrics of the runtime
    #[arg(long, value_name = "ADDRESS")]
    pub listen_runtime_metrics: Option<String>,
    /// Readiness probe of the runtime
    #[arg(long, value_name = "ADDRESS")]
    pub listen_readiness: Option<String>,
    /// Threads that serve traffic; 0 means one per core
    #[arg(long, value_name = "N")]
    pub workers: Option<u16>,
}

/// Flags of `sample-backend`.
#[derive(Args, Clone, Debug)]
pub struct SampleBackendFlags {
    /// Where to listen; port 0 takes any free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8089")]
    pub listen: SocketAddr,
}

/// Flags of `pki`.
#[derive(Args, Clone, Debug)]
pub struct PkiFlags {
    /// Folder for the files; an authority that is there already is used again
    #[arg(long, value_name = "DIR", default_value = "pki")]
    pub out: PathBuf,
    /// A controller: its name, or NAME=HOST,HOST when runtimes reach it by other names; repeatable
    #[arg(long, value_name = "NAME[=HOSTS]")]
    pub controller: Vec<String>,
    /// A runtime's name; repeatable
    #[arg(long, value_name = "NAME")]
    pub runtime: Vec<String>,
    /// How long controller and runtime certificates are valid
    #[arg(long, value_name = "DAYS", default_value_t = 365)]
    pub days: u32,
}

/// Flags of `demo`.
#[derive(Args, Clone, Debug)]
pub struct DemoFlags {
    /// A PostgreSQL database to use instead of a throw-away server; the steps that stop and start the
    /// server are left out then
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// Leave everything running at the end, until interrupted
    #[arg(long)]
    pub keep: bool,
}
