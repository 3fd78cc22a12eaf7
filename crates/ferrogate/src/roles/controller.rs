// SPDX-License-Identifier: Apache-2.0
//! `ferrogate controller`: management API, store, replication, config stream.

use std::sync::Arc;

use ferrogate_base::config::{Reader, Sources};
use ferrogate_controller::config::Config;
use ferrogate_controller::run::{Addresses, Controller, Parts, RunningController, StartError};
use ferrogate_model::DEFAULT_GATEWAY;
use ferrogate_policy::{Registry, Services};

use super::listeners::{self, Listeners};
use super::settings::{self, Loaded, Role, flag};
use super::signals::Signals;
use crate::cli::{Common, ControllerFlags, Exit, StoreFlags};
use crate::output;

/// What a controller reads of a file.
const SECTIONS: [&str; 3] = ["controller", "immutable_gateway", super::POLICY_SECTION];

/// Which gateway this is, and the variable of contract 7.1 for it.
pub const GATEWAY: &str = "controller.server.gateway_id";
pub const GATEWAY_ENV: &str = "APIP_GW_CONTROLLER_SERVER_GATEWAY_ID";

/// Variables that files written for the contract's origin use, and the keys they stand for.
const COMPATIBLE_ENV: [(&str, &str); 14] = [
    (GATEWAY, GATEWAY_ENV),
    ("controller.storage.type", "APIP_GW_CONTROLLER_STORAGE_TYPE"),
    ("controller.storage.sqlite.path", "APIP_GW_CONTROLLER_STORAGE_SQLITE_PATH"),
    ("controller.storage.postgres.host", "APIP_GW_CONTROLLER_STORAGE_POSTGRES_HOST"),
    ("controller.storage.postgres.port", "APIP_GW_CONTROLLER_STORAGE_POSTGRES_PORT"),
    ("controller.storage.postgres.database", "APIP_GW_CONTROLLER_STORAGE_POSTGRES_DATABASE"),
    ("controller.storage.postgres.user", "APIP_GW_CONTROLLER_STORAGE_POSTGRES_USER"),
    ("controller.storage.postgres.password", "APIP_GW_CONTROLLER_STORAGE_POSTGRES_PASSWORD"),
    ("controller.storage.postgres.sslmode", "APIP_GW_CONTROLLER_STORAGE_POSTGRES_SSLMODE"),
    ("controller.storage.database.dsn", "APIP_GW_CONTROLLER_STORAGE_DATABASE_DSN"),
    ("controller.auth.basic.admin_username", "APIP_GW_CONTROLLER_AUTH_BASIC_ADMIN_USERNAME"),
    ("controller.auth.basic.admin_password_hash", "APIP_GW_CONTROLLER_AUTH_BASIC_ADMIN_PASSWORD_HASH"),
    ("controller.metrics.port", "APIP_GW_CONTROLLER_METRICS_PORT"),
    (GATEWAY, "FERROGATE_GATEWAY_ID"),
];

/// Runs a controller until a signal ends it.
pub fn run(flags: &ControllerFlags) -> anyhow::Result<Exit> {
    let mut sources = settings::sources(&flags.common);
    layers(&mut sources, &flags.common, "controller");
    store_flags(&mut sources, &flags.store);
    let pairs = [
        ("controller.replica_id", "--replica-id", &flags.replica_id),
        ("controller.listen.management", "--listen-management", &flags.listen_management),
        ("controller.listen.admin", "--listen-admin", &flags.listen_admin),
        ("controller.listen.metrics", "--listen-metrics", &flags.listen_metrics),
        ("controller.listen.stream", "--listen-stream", &flags.listen_stream),
    ];
    for (key, name, value) in pairs {
        flag(&mut sources, key, name, value.as_ref());
    }
    let token = flags.join_token_file.as_ref().map(|path| path.display());
    flag(&mut sources, "controller.join_token_file", "--join-token-file", token);
    let keys = [
        "controller.stream.tls.client_ca_file",
        "controller.stream.tls.cert_file",
        "controller.stream.tls.key_file",
    ];
    settings::stream_flags(&mut sources, &flags.stream, keys);
    let role = Role { common: &flags.common, sections: &SECTIONS, logging: "controller" };
    let read = |reader: &mut Reader<'_>| (Config::read(reader), super::registry(reader));
    match settings::load(&role, sources, read)? {
        Loaded::Checked(exit) => Ok(exit),
        Loaded::Ready((config, registry)) => {
            use_small_pages();
            super::executor()?.block_on(serve(config, registry?))
        }
    }
}

/// A controller's memory is small and changes all the time. In pages of 2 MiB the kernel fills up
/// again what the allocator has given back, until most of the process is holes. Runtimes keep such
/// pages: their tables are large, and read for every request.
fn use_small_pages() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "the kernel does not say how to do without large pages");
    }
}

/// Flags and presets that a controller has on its own and inside `standalone`.
pub fn layers(sources: &mut Sources, common: &Common, role: &str) {
    for (key, name) in COMPATIBLE_ENV {
        sources.env_alias(key, name);
    }
    sources.env_alias("controller.admin_password", "FERROGATE_ADMIN_PASSWORD");
    sources.env_alias("controller.data_dir", "FERROGATE_DATA_DIR");
    sources.env_alias("controller.zone", "FERROGATE_ZONE");
    sources.env_alias("controller.database_url", "FERROGATE_DATABASE_URL");
    sources.preset(GATEWAY, DEFAULT_GATEWAY);
    sources.preset("controller.replica_id", settings::host_name());
    sources.preset("controller.data_dir", settings::data_root().join(role).display().to_string());
    flag(sources, "controller.data_dir", "--data-dir", common.data_dir.as_ref().map(|path| path.display()));
    flag(sources, "controller.zone", "--zone", common.zone.as_ref());
}

/// The store's flags.
pub fn store_flags(sources: &mut Sources, flags: &StoreFlags) {
    flag(sources, "controller.database_url", "--database-url", flags.database_url.as_ref());
    flag(sources, GATEWAY, "--gateway-id", flags.gateway_id.as_ref());
    let key = flags.encryption_key_file.as_ref().map(|path| path.display());
    flag(sources, "controller.encryption.key_file", "--encryption-key-file", key);
}

/// Starts the controller of this configuration.
pub async fn start(config: Config, registry: Arc<Registry>) -> anyhow::Result<RunningController> {
    let parts = Parts { registry, services: Services::in_memory(), store: None };
    match Controller::start(config, parts).await {
        Err(StartError::Bind(error)) => Err(listeners::taken(&error, false)),
        started => Ok(started?),
    }
}

/// The names of a controller's listeners.
pub fn named(addresses: Addresses) -> Listeners {
    listeners::collect(&[
        ("management", addresses.management),
        ("admin", addresses.admin),
        ("metrics", addresses.metrics),
        ("stream", addresses.stream),
    ])
}

async fn serve(config: Config, registry: Arc<Registry>) -> anyhow::Result<Exit> {
    let mut signals = Signals::listen()?;
    let (data_dir, deadline) = (config.data_dir.clone(), config.shutdown_timeout);
    let (replica, zone) = (config.replica_id.clone(), config.zone.clone());
    let running = start(config, registry).await?;
    let listeners = named(running.addresses);
    let mut said =
        format!("ferrogate controller {replica} (zone \"{zone}\")\n{}", listeners::lines(&listeners));
    if let Some(file) = &running.password_file {
        said.push_str(&listeners::row("admin password", &file.display().to_string()));
    }
    // Nobody may be reading; that is no reason not to serve.
    output::text(&said).ok();
    listeners::write(&data_dir, &listeners)?;
    signals.next().await;
    tracing::info!("stopping: requests and streams under way are finished first");
    let done = signals.or_forced(running.shutdown(deadline)).await;
    Ok(if done.is_some() { Exit::Done } else { Exit::Failed })
}
