// SPDX-License-Identifier: Apache-2.0
//! `ferrogate runtime`: the data plane. It needs controllers, or a cache to serve from.

use std::sync::Arc;

use ferrogate_base::config::{Reader, Sources};
use ferrogate_base::tasks::Tasks;
use ferrogate_model::DEFAULT_GATEWAY;
use ferrogate_policy::Registry;
use ferrogate_runtime::access_log::Reopen;
use ferrogate_runtime::config::Config;
use ferrogate_runtime::run::{Addresses, RunningRuntime, Runtime, StartError};

use super::controller::{GATEWAY, GATEWAY_ENV};
use super::fetch::{self, Fetcher};
use super::listeners::{self, Listeners};
use super::settings::{self, Loaded, Role, flag};
use super::signals::{Signals, hangups};
use crate::cli::{Common, Exit, RuntimeFlags};
use crate::output;

/// What a runtime reads of a file.
const SECTIONS: [&str; 4] = ["runtime", "router", "policy_engine", super::POLICY_SECTION];

/// The port of a controller that is named by host only.
const STREAM_PORT: &str = "18000";

/// Runs a runtime until a signal ends it.
pub fn run(flags: &RuntimeFlags) -> anyhow::Result<Exit> {
    let mut sources = settings::sources(&flags.common);
    let dir = settings::data_root().join("runtime");
    layers(&mut sources, &flags.common, flags.workers);
    sources.env_alias("runtime.data_dir", "FERROGATE_DATA_DIR");
    sources.preset("runtime.data_dir", dir.display().to_string());
    flag(
        &mut sources,
        "runtime.data_dir",
        "--data-dir",
        flags.common.data_dir.as_ref().map(|path| path.display()),
    );
    if let Some(host) = sources.env("GATEWAY_CONTROLLER_HOST") {
        let url = format!("http://{host}:{}", sources.env("ROUTER_XDS_PORT").unwrap_or(STREAM_PORT));
        sources.preset("runtime.controllers", url);
    }
    for url in &flags.controller {
        sources.flag("runtime.controllers", "--controller", url.as_str());
    }
    let pairs = [
        ("runtime.gateway_id", "--gateway-id", &flags.gateway_id),
        ("runtime.id", "--runtime-id", &flags.runtime_id),
        ("runtime.tls.server_name", "--stream-server-name", &flags.stream_server_name),
        ("runtime.listen.http", "--listen-http", &flags.listen_http),
        ("runtime.listen.https", "--listen-https", &flags.listen_https),
        ("runtime.listen.admin", "--listen-admin", &flags.listen_admin),
        ("runtime.listen.metrics", "--listen-metrics", &flags.listen_metrics),
        ("runtime.listen.readiness", "--listen-readiness", &flags.listen_readiness),
    ];
    for (key, name, value) in pairs {
        flag(&mut sources, key, name, value.as_ref());
    }
    let handover = flags.handover.as_ref().map(|path| path.display());
    flag(&mut sources, "runtime.handover", "--handover", handover);
    let token = flags.join_token_file.as_ref().map(|path| path.display());
    flag(&mut sources, "runtime.join_token_file", "--join-token-file", token);
    let keys = ["runtime.tls.ca_file", "runtime.tls.cert_file", "runtime.tls.key_file"];
    settings::stream_flags(&mut sources, &flags.stream, keys);
    let role = Role { common: &flags.common, sections: &SECTIONS, logging: "policy_engine" };
    let read = |reader: &mut Reader<'_>| (read(reader), super::registry(reader));
    match settings::load(&role, sources, read)? {
        Loaded::Checked(exit) => Ok(exit),
        Loaded::Ready((config, registry)) => super::executor()?.block_on(serve(config, registry?)),
    }
}

fn read(reader: &mut Reader<'_>) -> Config {
    let config = Config::read(reader);
    if config.stream.controllers.is_empty() {
        reader
            .problem("runtime.controllers", "a runtime needs at least one controller: give --controller URL");
    }
    config
}

/// Flags and presets that a runtime has on its own and inside `standalone`.
pub fn layers(sources: &mut Sources, common: &Common, workers: Option<u16>) {
    sources.env_alias("runtime.gateway_id", "FERROGATE_GATEWAY_ID");
    sources.env_alias("runtime.zone", "FERROGATE_ZONE");
    sources.env_alias("runtime.workers", "ROUTER_CONCURRENCY");
    // One file serves both planes (contract 7.1), and the gateway's name stands in it once.
    sources.stand_in("runtime.gateway_id", GATEWAY);
    sources.env_alias(GATEWAY, GATEWAY_ENV);
    sources.preset("runtime.gateway_id", DEFAULT_GATEWAY);
    sources.preset("runtime.id", settings::host_name());
    flag(sources, "runtime.zone", "--zone", common.zone.as_ref());
    flag(sources, "runtime.workers", "--workers", workers);
}

/// Starts the runtime of this configuration, on its own or inside `standalone`. What its policies
/// need from elsewhere is fetched among `tasks`, which are to end after it.
pub async fn start(
    config: Config,
    registry: Arc<Registry>,
    standalone: bool,
    tasks: &Tasks,
) -> anyhow::Result<RunningRuntime> {
    if let Some(dir) = &config.data_dir.path {
        super::make_dir(dir)?;
    }
    let fetcher = Fetcher::start(tasks);
    let services = ferrogate_policies::catalog::services(&registry, Arc::new(fetcher));
    match Runtime::start(config, registry, services).await {
        Err(StartError::Bind(error)) => Err(listeners::taken(&error, standalone)),
        started => Ok(started?),
    }
}

/// The names of a runtime's listeners; inside `standalone`, admin and metrics are the
/// controller's and the runtime's are told apart.
pub fn named(addresses: Addresses, standalone: bool) -> Listeners {
    let (admin, metrics) =
        if standalone { ("runtime-admin", "runtime-metrics") } else { ("admin", "metrics") };
    listeners::collect(&[
        ("http", addresses.http),
        ("https", addresses.https),
        (admin, addresses.admin),
        (metrics, addresses.metrics),
        ("readiness", addresses.readiness),
    ])
}

async fn serve(config: Config, registry: Arc<Registry>) -> anyhow::Result<Exit> {
    let mut signals = Signals::listen()?;
    let data_dir = config.data_dir.path.clone();
    let (id, zone) = (config.stream.runtime_id.clone(), config.stream.zone.clone());
    let tasks = Tasks::new();
    let running = start(config, registry, false, &tasks).await?;
    let listeners = named(running.addresses(), false);
    // Standard output is the access log's, which programs read line by line.
    output::note(&format!("ferrogate runtime {id} (zone \"{zone}\")\n{}", listeners::lines(&listeners)));
    if let Some(dir) = data_dir {
        listeners::write(&dir, &listeners)?;
    }
    until_stopped(&mut signals, &running).await?;
    tracing::info!("stopping: requests in flight are finished first");
    let exit = drain(&mut signals, running).await;
    let _report = tasks.shutdown(fetch::STOP).await;
    exit
}

/// Waits for the signal to stop, or for a successor that serves. Until then SIGHUP opens the access log's file anew, so that
/// others can rotate it; a process that logs to no file keeps the signal's usual meaning,
/// which is what a closed terminal relies on.
pub async fn until_stopped(signals: &mut Signals, running: &RunningRuntime) -> anyhow::Result<()> {
    let (reopen, replaced) = (running.reopen_log(), running.replaced());
    let mut hangups = reopen.as_ref().map(|_| hangups()).transpose()?;
    loop {
        let hangup = async {
            match &mut hangups {
                Some(hangups) => hangups.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // All arms only wait; a signal stays pending in its stream otherwise.
            () = signals.next() => return Ok(()),
            () = replaced.cancelled() => return Ok(()),
            _received = hangup => reopen.iter().for_each(Reopen::ask),
        }
    }
}

/// Drains; another signal cuts the drain short but still ends it in order.
pub async fn drain(signals: &mut Signals, running: RunningRuntime) -> anyhow::Result<Exit> {
    let force = running.force();
    let shutdown = running.shutdown();
    tokio::pin!(shutdown);
    let drained = match signals.or_forced(&mut shutdown).await {
        Some(drained) => drained,
        None => {
            force.cancel();
            shutdown.await
        }
    };
    Ok(if drained.cut_off == 0 { Exit::Done } else { Exit::Failed })
}
