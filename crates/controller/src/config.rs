// SPDX-License-Identifier: Apache-2.0
//! The controller's configuration: every setting, its default and its limits, under the
//! key names of contract 7.2 where one exists there. The composition root hands in the
//! sources and finishes the reader; nothing else in this crate reads a file's settings
//! or the environment.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ferrogate_base::config::{ListenKeys, Reader};
use ferrogate_base::secret::Secret;
use ferrogate_model::document::{Defaults, MAX_BUNDLE_BYTES, MAX_DOCUMENT_BYTES};
use ferrogate_model::template::Lookup;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use crate::auth::admin_password::ADMIN_NAME;
use crate::auth::basic::{Password, User};
use crate::auth::jwt::JwtSettings;
use crate::auth::roles::ADMIN;
use crate::seal::files::{DEFAULT_VERSION, KeyFile};

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
    /// Callers of the admin server by address; `*` is anybody.
    pub admin_allowed_ips: Vec<String>,
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

/// `controller.auth.basic.users[]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfiguredUser {
    username: String,
    password: String,
    #[serde(default)]
    password_hashed: bool,
    #[serde(default)]
    roles: Vec<String>,
}

/// `controller.encryption.providers[]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfiguredProvider {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    keys: Vec<ConfiguredKey>,
}

/// `controller.encryption.providers[].keys[]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfiguredKey {
    version: String,
    file: PathBuf,
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
        let defaults = Defaults::default();
        let config = Config {
            gateway_id: reader.string("controller.server.gateway_id", "platform-gateway-id"),
            replica_id: reader.string("controller.replica_id", "controller-1"),
            zone: reader.string("controller.zone", ""),
            database_url: database_url(reader, &data_dir),
            pool_size: pool_size(reader),
            encryption: encryption(reader),
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
            admin_allowed_ips: reader.strings("controller.admin_server.allowed_ips", &["*"]),
            config_dump: reader.bool("controller.admin_server.config_dump.enabled", false),
            basic: basic(reader),
            admin_password: reader.secret("controller.admin_password"),
            jwt: jwt(reader),
            immutable: immutable(reader),
            shutdown_timeout: reader.duration(
                "controller.server.shutdown_timeout",
                Duration::from_secs(15),
                Duration::ZERO..=HOUR,
            ),
            keep_revisions: reader.integer("controller.history.revisions", 100_000, 1..=MAX_KEPT),
            defaults: Defaults {
                main_host: reader.string("router.vhosts.main.default", &defaults.main_host),
                sandbox_host: reader.string("router.vhosts.sandbox.default", &defaults.sandbox_host),
            },
            max_document_bytes: size(reader, "controller.limits.document_bytes", MAX_DOCUMENT_BYTES),
            max_bundle_bytes: size(reader, "controller.limits.bundle_bytes", MAX_BUNDLE_BYTES),
            data_dir,
            join_token_file,
            stream_tls,
        };
        // Each controller of a shared database would undo what the files of the others say.
        if config.immutable.is_some() && config.is_shared() {
            reader
                .problem("immutable_gateway.enabled", "needs SQLite: a shared database has several writers");
        }
        config
    }
}

impl Config {
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

fn pool_size(reader: &mut Reader<'_>) -> u32 {
    let size = reader.integer("controller.storage.postgres.max_open_conns", 10, 1..=1_000);
    u32::try_from(size).unwrap_or(10)
}

/// `controller.database_url` wins; otherwise it is put together from the keys of contract 7.2,
/// of which the generic `storage.database` wins over the one of the kind.
fn database_url(reader: &mut Reader<'_>, data_dir: &Path) -> Secret {
    const URL: &str = "controller.database_url";
    let configured = reader.secret(URL);
    let postgres = postgres_url(reader);
    let generic = reader.optional_path("controller.storage.database.path");
    let path = reader.optional_path("controller.storage.sqlite.path");
    let kind = reader.choice(
        "controller.storage.type",
        Kind::Sqlite,
        &[("sqlite", Kind::Sqlite), ("postgres", Kind::Postgres)],
    );
    if let Some(url) = configured {
        let schemes = ["postgres://", "postgresql://", "sqlite://"];
        if !schemes.iter().any(|scheme| url.expose().starts_with(scheme)) {
            reader.problem(URL, "must begin with postgres:// or sqlite://");
        }
        return url;
    }
    match kind {
        Kind::Sqlite => {
            let path = generic.or(path).unwrap_or_else(|| data_dir.join("gateway.db"));
            Secret::new(format!("sqlite://{}", path.display()))
        }
        Kind::Postgres => postgres.unwrap_or_else(|| {
            reader.problem("controller.storage.postgres.host", "is needed for storage.type = \"postgres\"");
            Secret::new("postgres://localhost")
        }),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sqlite,
    Postgres,
}

fn postgres_url(reader: &mut Reader<'_>) -> Option<Secret> {
    let dsn = secret_of(reader, "dsn", "dsn");
    let host = text_of(reader, "host", "host", "");
    let port = port(reader);
    let database = text_of(reader, "name", "database", "gateway");
    let user = text_of(reader, "user", "user", "gateway");
    let password = secret_of(reader, "password", "password");
    let sslmode = text_of(reader, "options.sslmode", "sslmode", "require");
    if dsn.is_some() {
        return dsn;
    }
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let password = password.map(|one| format!(":{}", encode(one.expose()))).unwrap_or_default();
    let (user, database) = (encode(&user), encode(&database));
    if host.is_empty() {
        return None;
    }
    Some(Secret::new(format!(
        "postgres://{user}{password}@{host}:{port}/{database}?sslmode={}",
        encode(&sslmode)
    )))
}

/// A setting under its generic name, else under the one of PostgreSQL. Both are read: a key
/// that loses is still a known key.
fn text_of(reader: &mut Reader<'_>, generic: &str, specific: &str, default: &str) -> String {
    let generic = reader.optional_string(&format!("controller.storage.database.{generic}"));
    let specific = reader.string(&format!("controller.storage.postgres.{specific}"), default);
    generic.unwrap_or(specific)
}

fn secret_of(reader: &mut Reader<'_>, generic: &str, specific: &str) -> Option<Secret> {
    let generic = reader.secret(&format!("controller.storage.database.{generic}"));
    let specific = reader.secret(&format!("controller.storage.postgres.{specific}"));
    generic.or(specific)
}

fn port(reader: &mut Reader<'_>) -> u64 {
    const GENERIC: &str = "controller.storage.database.port";
    let range = 1..=u64::from(u16::MAX);
    let specific = reader.integer("controller.storage.postgres.port", 5432, range.clone());
    let generic = reader.integer(GENERIC, 5432, range);
    if reader.is_set(GENERIC) { generic } else { specific }
}

fn immutable(reader: &mut Reader<'_>) -> Option<PathBuf> {
    let enabled = reader.bool("immutable_gateway.enabled", false);
    let directory = reader.path("immutable_gateway.artifacts_dir", ARTIFACTS_DIR);
    enabled.then_some(directory)
}

/// One key by its file, or providers as contract 7.2 has them.
fn encryption(reader: &mut Reader<'_>) -> Vec<KeyFile> {
    const PROVIDERS: &str = "controller.encryption.providers";
    const FILE: &str = "controller.encryption.key_file";
    let single = reader.optional_path(FILE);
    let providers: Vec<ConfiguredProvider> = reader.tables(PROVIDERS);
    for provider in &providers {
        if provider.kind != "aesgcm" {
            reader.problem(PROVIDERS, "every type must be \"aesgcm\"");
        }
        if provider.keys.is_empty() {
            reader.problem(PROVIDERS, "every provider needs keys");
        }
    }
    if single.is_some() && !providers.is_empty() {
        reader.problem(FILE, "cannot stand beside encryption.providers: name the file there");
    }
    let single = single.map(|path| KeyFile { version: DEFAULT_VERSION.to_owned(), path });
    let configured = providers.into_iter().flat_map(|provider| provider.keys);
    let configured = configured.map(|key| KeyFile { version: key.version, path: key.file });
    single.into_iter().chain(configured).collect()
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

fn basic(reader: &mut Reader<'_>) -> Option<Vec<User>> {
    const USERS: &str = "controller.auth.basic.users";
    let enabled = reader.bool("controller.auth.basic.enabled", true);
    let configured: Vec<ConfiguredUser> = reader.tables(USERS);
    if configured.iter().any(|user| user.username.is_empty() || user.password.is_empty()) {
        reader.problem(USERS, "every user needs a username and a password");
    }
    // The variables that the contract's shipped file wires to its first user work without a file too.
    let name = reader.string("controller.auth.basic.admin_username", ADMIN_NAME);
    if let Some(hash) = reader.secret("controller.auth.basic.admin_password_hash")
        && configured.is_empty()
    {
        let roles = vec![ADMIN.to_owned()];
        return enabled.then(|| vec![User { name, password: Password::Hashed(hash), roles }]);
    }
    if configured.iter().any(|user| user.username.contains(':')) {
        reader.problem(USERS, "a username cannot contain a colon");
    }
    let user = |user: ConfiguredUser| {
        let password = Secret::new(user.password);
        let password =
            if user.password_hashed { Password::Hashed(password) } else { Password::Plain(password) };
        User { name: user.username, password, roles: user.roles }
    };
    enabled.then(|| configured.into_iter().map(user).collect())
}

fn jwt(reader: &mut Reader<'_>) -> Option<JwtSettings> {
    let key = |name: &str| format!("controller.auth.idp.{name}");
    let enabled = reader.bool(&key("enabled"), false);
    let settings = JwtSettings {
        jwks_url: reader.string(&key("jwks_url"), ""),
        issuer: reader.string(&key("issuer"), ""),
        audience: reader.strings(&key("audience"), &[]),
        roles_claim: reader.string(&key("roles_claim"), "roles"),
        role_mapping: role_mapping(reader, &key("role_mapping")),
    };
    if !enabled {
        return None;
    }
    for (name, value) in [
        ("jwks_url", &settings.jwks_url),
        ("issuer", &settings.issuer),
        ("roles_claim", &settings.roles_claim),
    ] {
        if value.is_empty() {
            reader.problem(&key(name), "is needed when auth.idp.enabled is true");
        }
    }
    Some(settings)
}

fn role_mapping(reader: &mut Reader<'_>, key: &str) -> BTreeMap<String, Vec<String>> {
    let subtree = reader.subtree(key);
    let mapping: BTreeMap<String, Vec<String>> = serde_json::from_value(subtree).unwrap_or_else(|_| {
        reader.problem(key, "must map each local role to a list of the provider's values");
        BTreeMap::new()
    });
    if mapping.values().filter(|values| values.iter().any(|value| value == "*")).count() > 1 {
        reader.problem(key, "only one role can be mapped from \"*\"");
    }
    mapping
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use ferrogate_base::config::{Problem, Reader, Sources};
    use ferrogate_model::template::Lookup as _;

    use super::{Config, Environment, SECTIONS};

    fn read(env: &[(&str, &str)], file: &str) -> (Config, Vec<Problem>) {
        let env: BTreeMap<String, String> =
            env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut sources = Sources::new(env);
        sources.read_text(Path::new("test.toml"), file);
        let mut reader = Reader::new(&sources);
        let config = Config::read(&mut reader);
        (config, reader.finish(&SECTIONS, &["router", "policy_engine"]).problems)
    }

    #[test]
    fn the_defaults_are_the_contract_s_and_have_no_problem() {
        let (config, problems) = read(&[], "");
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(config.management.map(|address| address.port()), Some(9090));
        assert_eq!(config.stream.map(|address| address.to_string()).as_deref(), Some("127.0.0.1:18000"));
        assert_eq!(config.gateway_id, "platform-gateway-id");
        assert_eq!(config.database_url.expose(), "sqlite://./data/gateway.db");
        assert!(config.basic.is_some_and(|users| users.is_empty()) && config.jwt.is_none());
    }

    #[test]
    fn a_file_with_the_contract_s_keys_works() {
        let file = r#"
            [controller.server]
            api_port = 7090
            gateway_id = "gw"
            [controller.storage]
            type = "postgres"
            [controller.storage.postgres]
            host = "db.example"
            user = "u@x"
            password = "p:/?"
            database = "gateways"
            sslmode = "verify-full"
            [controller.event_hub]
            poll_interval = "3s"
            [[controller.encryption.providers]]
            type = "aesgcm"
            keys = [{version = "new", file = "/keys/new.bin"}, {version = "old", file = "/keys/old.bin"}]
            [[controller.auth.basic.users]]
            username = "ops"
            password = "secret"
            roles = ["admin"]
            [controller.auth.idp]
            enabled = true
            jwks_url = "https://idp.example/keys"
            issuer = "https://idp.example"
            [controller.auth.idp.role_mapping]
            admin = ["ops", "*"]
            [router.vhosts.main]
            default = "*.example.com"
        "#;
        let (config, problems) = read(&[("FERROGATE_CONTROLLER_ADMIN_PASSWORD", "mine")], file);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(config.management.map(|address| address.port()), Some(7090));
        assert_eq!(
            config.database_url.expose(),
            "postgres://u%40x:p%3A%2F%3F@db.example:5432/gateways?sslmode=verify%2Dfull"
        );
        assert_eq!(config.basic.map(|users| users.len()), Some(1));
        assert_eq!(config.defaults.main_host, "*.example.com");
        assert_eq!(config.admin_password.map(|password| password.matches("mine")), Some(true));
        assert!(config.immutable.is_none() && config.jwt.is_some());
        let keys = config.encryption.iter().map(|key| (key.version.as_str(), key.path.to_str()));
        let wanted = [("new", Some("/keys/new.bin")), ("old", Some("/keys/old.bin"))];
        assert_eq!(keys.collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn an_immutable_gateway_has_a_directory_and_a_database_of_its_own() {
        let file = "[immutable_gateway]\nenabled = true\n";
        let (config, problems) = read(&[], file);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(config.immutable.as_deref(), Some(Path::new(super::ARTIFACTS_DIR)));
        let (_, problems) = read(&[("FERROGATE_CONTROLLER_DATABASE_URL", "postgres://x/y")], file);
        assert_eq!(problems.len(), 1, "{problems:?}");
    }

    #[test]
    fn the_generic_database_keys_win_over_those_of_the_kind() {
        let file = r#"
            [controller.storage]
            type = "postgres"
            [controller.storage.postgres]
            host = "old.example"
            user = "kept"
            [controller.storage.database]
            host = "db.example"
            port = 6432
            name = "g"
            path = "unused.db"
            [controller.storage.database.options]
            sslmode = "disable"
            application_name = "x"
        "#;
        let (config, problems) = read(&[], file);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(config.database_url.expose(), "postgres://kept@db.example:6432/g?sslmode=disable");
        let (config, _) = read(&[], "[controller.storage.database]\npath = \"/x/y.db\"");
        assert_eq!(config.database_url.expose(), "sqlite:///x/y.db");
        let (_, problems) = read(&[("FERROGATE_CONTROLLER_DATABASE_URL", "mysql://x")], "");
        assert_eq!(problems.len(), 1, "{problems:?}");
    }

    #[test]
    fn the_stream_s_older_key_and_a_disabled_listener_s_port_are_read() {
        let file = "[controller.server]\nxds_port = 7000\n[controller.metrics]\nenabled = false\nport = 9091";
        let (config, problems) = read(&[], file);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(config.stream.map(|address| address.to_string()).as_deref(), Some("127.0.0.1:7000"));
        assert_eq!(config.metrics, None);
    }

    #[test]
    fn an_administrator_can_be_given_by_name_and_hash() {
        let env = [
            ("FERROGATE_CONTROLLER_AUTH_BASIC_ADMIN_USERNAME", "root"),
            ("FERROGATE_CONTROLLER_AUTH_BASIC_ADMIN_PASSWORD_HASH", "$2y$hash"),
        ];
        let names = |file| {
            let users = read(&env, file).0.basic.unwrap_or_default();
            users.into_iter().map(|user| (user.name, user.roles)).collect::<Vec<_>>()
        };
        assert_eq!(names(""), [("root".to_owned(), vec!["admin".to_owned()])]);
        let file = "[[controller.auth.basic.users]]\nusername = \"ops\"\npassword = \"x\"";
        assert_eq!(names(file), [("ops".to_owned(), Vec::new())]);
    }

    #[test]
    fn every_problem_is_told_at_its_key() {
        let file = r#"
            [controller.storage]
            type = "postgres"
            [controller.stream.tls]
            cert_file = "a.pem"
            [controller.encryption]
            key_file = "k"
            providers = [{type = "vault"}]
            [[controller.auth.basic.users]]
            username = ""
            password = "x"
            [controller.auth.idp]
            enabled = true
            [controller.auth.idp.role_mapping]
            admin = ["*"]
            developer = ["*"]
            [controller.sever]
            api_port = 1
        "#;
        let (_, problems) = read(&[], file);
        let keys: Vec<&str> = problems.iter().filter_map(|problem| problem.key.as_deref()).collect();
        for key in [
            "controller.storage.postgres.host",
            "controller.stream.tls.cert_file",
            "controller.auth.basic.users",
            "controller.encryption.key_file",
            "controller.encryption.providers",
            "controller.auth.idp.jwks_url",
            "controller.auth.idp.issuer",
            "controller.auth.idp.role_mapping",
        ] {
            assert!(keys.contains(&key), "{key} is missing in {problems:?}");
        }
        assert!(keys.iter().any(|key| key.starts_with("controller.sever")), "{problems:?}");
    }

    #[test]
    fn templates_do_not_see_the_gateway_s_own_settings() {
        assert_eq!(Environment.env("FERROGATE_ADMIN_PASSWORD"), None);
        assert_eq!(Environment.env("APIP_GW_CONTROLLER_STORAGE_POSTGRES_PASSWORD"), None);
        assert!(Environment.env("PATH").is_some());
    }
}
