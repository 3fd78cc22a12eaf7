// SPDX-License-Identifier: Apache-2.0
//! The controller's configuration: every setting, its default and its limits, under the
//! key names of contract 7.2 where one exists there. The composition root hands in the
//! sources and finishes the reader; nothing else in this crate reads a file's settings
//! or the environment.

mod access;
mod database;
mod encryption;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ferrogate_base::config::{ListenKeys, Reader};
use ferrogate_base::networks::Networks;
use ferrogate_base::secret::Secret;
use ferrogate_model::DEFAULT_GATEWAY;
use ferrogate_model::document::{Defaults, MAX_BUNDLE_BYTES, MAX_DOCUMENT_BYTES};
use ferrogate_model::kinds::rest_api::is_host_pattern;
use ferrogate_model::template::Lookup;

use crate::auth::basic::User;
use crate::auth::jwt::JwtSettings;
use crate::files::certificates::{self, CertificateFiles};
use crate::seal::files::KeyFile;

/// The sections of a configuration file that are the controller's.
pub const SECTIONS: [&str; 2] = ["controller", "immutable_gateway"];

/// Keys of contract 7 that a file may hold and that have no effect here: what they tune
/// does not exist (polling, a separate event pool), or is not built.
const ACCEPTED: [&str; 13] = [
    "controller.admin_server.pprof",
    "controller.policies",
    "controller.llm",
    "controller.event_hub",
    "controller.controlplane",
    "controller.policy_server",
    "controller.server.skip_invalid_deployments_on_startup",
    "controller.storage.postgres.max_idle_conns",
    "controller.storage.postgres.connect_timeout",
    "controller.storage.postgres.conn_max_lifetime",
    "controller.storage.postgres.conn_max_idle_time",
    "controller.storage.postgres.application_name",
    "controller.storage.database.options",
];

/// Variables of the environment that templates do not see: they configure the gateway
/// itself, its passwords included.
const HIDDEN_PREFIXES: [&str; 2] = ["FERROGATE_", "APIP_GW_"];

/// Where the certificates are that upstreams are trusted by (contract 7.3).
const CUSTOM_CERTS: &str = "./certificates";
/// Where an immutable gateway's artifacts are (contract 7.2).
const ARTIFACTS_DIR: &str = "/etc/api-platform-gateway/immutable_gateway/artifacts";

const MAX_KEPT: u64 = 100_000_000;
const HOUR: Duration = Duration::from_secs(3600);

/// The controller's configuration.
#[derive(Clone)]
pub struct Config {
    /// The gateway this controller serves; controllers of one gateway share it.
    pub gateway_id: String,
    /// This controller, unique within the gateway.
    pub replica_id: String,
    /// Where it runs.
    pub zone: String,
    /// Where its files are.
    pub data_dir: PathBuf,
    /// Where the store is; may hold a password.
    pub database_url: Secret,
    /// Connections to the store.
    pub pool_size: u32,
    /// The keys that seal what is stored, the one that seals first; none for the default.
    pub encryption: Vec<KeyFile>,
    /// Where the management API listens.
    pub management: Option<SocketAddr>,
    /// Where the admin server listens.
    pub admin: Option<SocketAddr>,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// Where the config stream listens.
    pub stream: Option<SocketAddr>,
    /// The file with the token that runtimes present.
    pub join_token_file: Option<PathBuf>,
    /// Certificate and key of the config stream.
    pub stream_tls: Option<StreamTls>,
    /// Callers of the admin server by address.
    pub admin_allowed_ips: Networks,
    /// Whether `/config_dump` exists.
    pub config_dump: bool,
    /// Basic authentication; `None` when disabled.
    pub basic: Option<Vec<User>>,
    /// The administrator's password, when no user is configured.
    pub admin_password: Option<Secret>,
    /// JWT authentication.
    pub jwt: Option<JwtSettings>,
    /// Refuse every write, and serve what the files of this directory say.
    pub immutable: Option<PathBuf>,
    /// Certificates in files that upstreams are trusted by.
    pub custom_certs: CertificateFiles,
    /// How long requests under way may take at shutdown.
    pub shutdown_timeout: Duration,
    /// Revisions that stay readable.
    pub keep_revisions: u64,
    /// The values of omitted fields.
    pub defaults: Defaults,
    /// The largest document.
    pub max_document_bytes: usize,
    /// The largest body of `/apply`.
    pub max_bundle_bytes: usize,
    /// The longest a body may take to arrive.
    pub body_timeout: Duration,
}

/// TLS of the config stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamTls {
    /// Its certificates.
    pub certificates: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authority of the runtimes' certificates; with it they must present one.
    pub client_ca: Option<PathBuf>,
}

/// Templates of artifacts look here.
#[derive(Clone, Copy, Debug, Default)]
pub struct Environment;

impl Config {
    /// Reads every setting; problems stay in the reader.
    pub fn read(reader: &mut Reader<'_>) -> Config {
        for key in ACCEPTED {
            reader.accept(key);
        }
        let data_dir = reader.path("controller.data_dir", "./data");
        let join_token_file = reader.optional_path("controller.join_token_file");
        let stream_tls = stream_tls(reader);
        // Without a token or certificates anybody could read every API's configuration.
        let guarded =
            join_token_file.is_some() || stream_tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        let stream_default = if guarded { "0.0.0.0:18000" } else { "127.0.0.1:18000" };
        let config = Config {
            gateway_id: reader.name("controller.server.gateway_id", DEFAULT_GATEWAY),
            replica_id: reader.name("controller.replica_id", "controller-1"),
            zone: reader.string("controller.zone", ""),
            database_url: database::database_url(reader, &data_dir),
            pool_size: database::pool_size(reader),
            encryption: encryption::keys(reader),
            management: listen(
                reader,
                "management",
                "0.0.0.0:9090",
                Some("controller.server.api_port"),
                None,
            ),
            admin: listen(
                reader,
                "admin",
                "0.0.0.0:9092",
                Some("controller.admin_server.port"),
                Some("controller.admin_server.enabled"),
            ),
            metrics: listen(
                reader,
                "metrics",
                "0.0.0.0:9091",
                Some("controller.metrics.port"),
                Some("controller.metrics.enabled"),
            ),
            stream: listen(reader, "stream", stream_default, Some("controller.server.xds_port"), None),
            admin_allowed_ips: reader.networks("controller.admin_server.allowed_ips", &["*"]),
            config_dump: reader.bool("controller.admin_server.config_dump.enabled", false),
            basic: access::basic(reader),
            admin_password: reader.secret(access::ADMIN_PASSWORD),
            jwt: access::jwt(reader),
            immutable: immutable(reader),
            custom_certs: custom_certs(reader),
            shutdown_timeout: reader.duration(
                "controller.server.shutdown_timeout",
                Duration::from_secs(15),
                Duration::ZERO..=HOUR,
            ),
            keep_revisions: reader.integer("controller.history.revisions", 100_000, 1..=MAX_KEPT),
            defaults: defaults(reader),
            max_document_bytes: size(reader, "controller.limits.document_bytes", MAX_DOCUMENT_BYTES),
            max_bundle_bytes: size(reader, "controller.limits.bundle_bytes", MAX_BUNDLE_BYTES),
            body_timeout: body_timeout(reader),
            data_dir,
            join_token_file,
            stream_tls,
        };
        access::overruled_password(reader, config.basic.as_deref());
        // Each controller of a shared database would undo what the files of the others say.
        if config.immutable.is_some() && config.is_shared() {
            reader
                .problem("immutable_gateway.enabled", "needs SQLite: a shared database has several writers");
        }
        config
    }

    /// Whether the database is one that several controllers may share.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        !self.database_url.expose().starts_with("sqlite://")
    }
}

impl Lookup for Environment {
    #[allow(clippy::disallowed_methods, reason = "this is the configuration module")]
    fn env(&self, name: &str) -> Option<String> {
        if HIDDEN_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            return None;
        }
        std::env::var(name).ok()
    }

    fn secret(&self, _handle: &str) -> Option<String> {
        None
    }
}

fn listen(
    reader: &mut Reader<'_>,
    name: &str,
    default: &str,
    port: Option<&str>,
    enabled: Option<&str>,
) -> Option<SocketAddr> {
    reader.listen(&format!("controller.listen.{name}"), default, ListenKeys { port, enabled })
}

fn size(reader: &mut Reader<'_>, key: &str, limit: usize) -> usize {
    let limit = u64::try_from(limit).unwrap_or(u64::MAX);
    usize::try_from(reader.integer(key, limit, 1..=limit)).unwrap_or(usize::MAX)
}

fn body_timeout(reader: &mut Reader<'_>) -> Duration {
    let limits = Duration::from_millis(1)..=HOUR;
    reader.duration("controller.limits.body_timeout", Duration::from_secs(30), limits)
}

fn custom_certs(reader: &mut Reader<'_>) -> CertificateFiles {
    let path = reader.path(certificates::SETTING, CUSTOM_CERTS);
    CertificateFiles { path, required: reader.is_set(certificates::SETTING) }
}

/// What an artifact's omitted hosts are (contract 4.3).
fn defaults(reader: &mut Reader<'_>) -> Defaults {
    let own = Defaults::default();
    let mut hosts = |name: &str, default: &str| {
        let key = |field: &str| format!("router.vhosts.{name}.{field}");
        let (host, domains) = (reader.string(&key("default"), default), reader.strings(&key("domains"), &[]));
        let named = std::iter::once((key("default"), &host));
        for (key, host) in named.chain(domains.iter().map(|domain| (key("domains"), domain))) {
            if !is_host_pattern(host) {
                reader.problem(&key, format!("'{host}' is not a host, '*.example.com', 'name*' or '*'"));
            }
        }
        (host, domains)
    };
    let (main_host, main_domains) = hosts("main", &own.main_host);
    let (sandbox_host, sandbox_domains) = hosts("sandbox", &own.sandbox_host);
    Defaults { main_host, sandbox_host, main_domains, sandbox_domains }
}

fn immutable(reader: &mut Reader<'_>) -> Option<PathBuf> {
    let enabled = reader.bool("immutable_gateway.enabled", false);
    let directory = reader.path("immutable_gateway.artifacts_dir", ARTIFACTS_DIR);
    enabled.then_some(directory)
}

fn stream_tls(reader: &mut Reader<'_>) -> Option<StreamTls> {
    let key = |name: &str| format!("controller.stream.tls.{name}");
    let certificates = reader.optional_path(&key("cert_file"));
    let private = reader.optional_path(&key("key_file"));
    let client_ca = reader.optional_path(&key("client_ca_file"));
    match (certificates, private) {
        (Some(certificates), Some(private)) => Some(StreamTls { certificates, key: private, client_ca }),
        (None, None) => {
            if client_ca.is_some() {
                reader.problem(&key("client_ca_file"), "needs cert_file and key_file beside it");
            }
            None
        }
        (Some(_), None) => {
            reader.problem(&key("cert_file"), "needs key_file beside it");
            None
        }
        (None, Some(_)) => {
            reader.problem(&key("key_file"), "needs cert_file beside it");
            None
        }
    }
}
