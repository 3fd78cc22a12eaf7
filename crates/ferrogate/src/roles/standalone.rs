// SPDX-License-Identifier: Apache-2.0
//! `ferrogate standalone`: controller and runtime in one process over embedded SQLite.
//! They talk over the same config stream as two processes would, on loopback: there is
//! no second path that could behave differently.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use ferrogate_base::config::Reader;
use ferrogate_base::tasks::Tasks;
use ferrogate_controller::config::Config as ControllerConfig;
use ferrogate_controller::run::RunningController;
use ferrogate_policy::Registry;
use ferrogate_runtime::config::Config as RuntimeConfig;
use ferrogate_runtime::run::RunningRuntime;

use super::listeners::{self, Listeners, reachable};
use super::settings::{self, Loaded, Role, flag};
use super::signals::Signals;
use super::{controller, fetch, runtime};
use crate::cli::{Exit, StandaloneFlags};
use crate::output;

/// Controller sections first, then the runtime's.
const SECTIONS: [&str; 6] =
    ["controller", "immutable_gateway", "runtime", "router", "policy_engine", super::POLICY_SECTION];
/// The first sync takes milliseconds; after this the banner is printed all the same.
const READY_DEADLINE: Duration = Duration::from_secs(20);
const READY_POLL: Duration = Duration::from_millis(10);

/// What a newcomer deploys and calls first; a test holds them to the example.
const EXAMPLE: &str = "examples/reading-list.yaml";
const EXAMPLE_PATH: &str = "/reading-list/v1/books";

/// Runs both until a signal ends them.
pub fn run(flags: &StandaloneFlags) -> anyhow::Result<Exit> {
    let mut sources = settings::sources(&flags.common);
    controller::layers(&mut sources, &flags.common, "standalone");
    runtime::layers(&mut sources, &flags.common, flags.workers);
    // A first try must not open the management side to the network; flags and files can.
    sources.preset("controller.listen.management", "127.0.0.1:9090");
    sources.preset("controller.listen.admin", "127.0.0.1:9092");
    sources.preset("controller.listen.metrics", "127.0.0.1:9091");
    let pairs = [
        ("controller.listen.management", "--listen-management", &flags.listen_management),
        ("controller.listen.admin", "--listen-admin", &flags.listen_admin),
        ("controller.listen.metrics", "--listen-metrics", &flags.listen_metrics),
        ("controller.listen.stream", "--listen-stream", &flags.listen_stream),
        ("runtime.listen.http", "--listen-http", &flags.listen_http),
        ("runtime.listen.https", "--listen-https", &flags.listen_https),
        ("runtime.listen.admin", "--listen-runtime-admin", &flags.listen_runtime_admin),
        ("runtime.listen.metrics", "--listen-runtime-metrics", &flags.listen_runtime_metrics),
        ("runtime.listen.readiness", "--listen-readiness", &flags.listen_readiness),
    ];
    for (key, name, value) in pairs {
        flag(&mut sources, key, name, value.as_ref());
    }
    let role = Role { common: &flags.common, sections: &SECTIONS, logging: "controller" };
    let read = |reader: &mut Reader<'_>| (read(reader), super::registry(reader));
    match settings::load(&role, sources, read)? {
        Loaded::Checked(exit) => Ok(exit),
        Loaded::Ready(((control, data), registry)) => {
            let default_dir = settings::data_root().join("standalone");
            super::executor()?.block_on(serve(control, data, registry?, &default_dir))
        }
    }
}

fn read(reader: &mut Reader<'_>) -> (ControllerConfig, RuntimeConfig) {
    let control = ControllerConfig::read(reader);
    let mut data = RuntimeConfig::read(reader);
    if control.stream.is_none() {
        reader.problem(
            "controller.listen.stream",
            "standalone cannot do without it: controller and runtime talk over it",
        );
    }
    // Whoever configures both sides apart means to run them apart.
    if !data.stream.controllers.is_empty() {
        reader.problem(
            "runtime.controllers",
            "standalone brings its own controller: use the roles apart instead",
        );
    }
    if data.handover.is_some() {
        reader.problem("runtime.handover", "only a runtime of its own can be handed over");
    }
    if data.stream.gateway_id != control.gateway_id {
        let other = &control.gateway_id;
        reader.problem(
            "runtime.gateway_id",
            format!("the controller beside it serves the gateway \"{other}\""),
        );
    }
    data.stream.join_token_file.clone_from(&control.join_token_file);
    if !reader.is_set("runtime.data_dir") {
        data.data_dir.path = Some(control.data_dir.join("runtime"));
    }
    (control, data)
}

async fn serve(
    control: ControllerConfig,
    mut data: RuntimeConfig,
    registry: Arc<Registry>,
    default_dir: &Path,
) -> anyhow::Result<Exit> {
    let mut signals = Signals::listen()?;
    let (data_dir, deadline) = (control.data_dir.clone(), control.shutdown_timeout);
    let scheme = if control.stream_tls.is_some() { "https" } else { "http" };
    let controller = controller::start(control, Arc::clone(&registry)).await?;
    let stream = controller.addresses.stream.context("the config stream does not listen")?;
    let Ok(url) = format!("{scheme}://{}", reachable(stream)).parse();
    data.stream.controllers = vec![url];
    let tasks = Tasks::new();
    let runtime = runtime::start(data, registry, true, &tasks).await?;
    let mut listeners = controller::named(controller.addresses);
    listeners.extend(runtime::named(runtime.addresses(), true));
    listeners::write(&data_dir, &listeners)?;
    let ready = wait_ready(&controller, &runtime).await;
    let said = banner(&controller, &listeners, &ready, (data_dir != default_dir).then_some(&data_dir));
    // Nobody may be reading; that is no reason not to serve.
    output::text(&said).ok();
    runtime::until_stopped(&mut signals, &runtime).await?;
    tracing::info!("stopping: requests in flight are finished first");
    // Traffic first: the controller may still be asked how far the drain is.
    let exit = runtime::drain(&mut signals, runtime).await?;
    let _report = tasks.shutdown(fetch::STOP).await;
    let done = signals.or_forced(controller.shutdown(deadline)).await;
    Ok(if done.is_some() { exit } else { Exit::Failed })
}

/// Waits until both are ready; answers what is still missing at the deadline.
async fn wait_ready(controller: &RunningController, runtime: &RunningRuntime) -> Vec<String> {
    let began = Instant::now();
    loop {
        let mut missing = controller.readiness.reasons();
        missing.extend(runtime.readiness().reasons());
        if missing.is_empty() || began.elapsed() > READY_DEADLINE {
            return missing;
        }
        tokio::time::sleep(READY_POLL).await;
    }
}

fn banner(
    controller: &RunningController,
    listeners: &Listeners,
    missing: &[String],
    data_dir: Option<&PathBuf>,
) -> String {
    let state = if missing.is_empty() {
        "ready".to_owned()
    } else {
        format!("not ready yet: {}", missing.join(", "))
    };
    let mut said = format!("\nferrogate {} standalone, {state}\n", env!("CARGO_PKG_VERSION"));
    said.push_str(&listeners::lines(listeners));
    let administrator = controller.administrator.as_ref();
    if let Some(admin) = administrator {
        let password = match (&admin.file, admin.generated) {
            (Some(file), true) => format!("{} (kept in {})", admin.password.expose(), file.display()),
            (Some(file), false) => format!("in {}", file.display()),
            (None, _) => "as configured".to_owned(),
        };
        said.push_str(&listeners::row("user", "admin"));
        said.push_str(&listeners::row("password", &password));
    }
    let at = data_dir.map_or_else(String::new, |dir| format!(" --data-dir {}", dir.display()));
    // The verbs find a password in the data directory alone by themselves.
    let finds_password = administrator.is_some_and(|admin| admin.file.is_some());
    said.push_str(&first_steps(&program(), listeners, &at, finds_password));
    said
}

/// What to type next, as far as it would work.
fn first_steps(program: &str, listeners: &Listeners, at: &str, finds_password: bool) -> String {
    if !listeners.contains_key("management") {
        return "\nThe management API is off: what is deployed stays as it is.\n\n".to_owned();
    }
    let mut said = format!("\nSomething to call, in a terminal of its own:\n  {program} sample-backend\n");
    let password = if finds_password {
        ""
    } else {
        ", where FERROGATE_ADMIN_PASSWORD (and FERROGATE_USERNAME, unless it is admin) is set"
    };
    said.push_str(&format!(
        "Deploy an API in front of it{password}, and call it:\n  {program} apply -f {EXAMPLE} --wait{at}\n"
    ));
    if let Some(http) = listeners.get("http") {
        said.push_str(&format!("  curl http://{}{EXAMPLE_PATH}\n", reachable(*http)));
    }
    said.push('\n');
    said
}

/// This program as one would type it here.
fn program() -> String {
    let Ok(path) = std::env::current_exe() else { return "ferrogate".to_owned() };
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(&path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::{EXAMPLE, EXAMPLE_PATH, Listeners, first_steps};
    use serde_json::Value;

    #[test]
    fn the_banner_says_only_what_would_work() {
        let listeners = |names: &[&'static str]| -> Listeners {
            names.iter().map(|name| (*name, ([127, 0, 0, 1], 1).into())).collect()
        };
        let all = first_steps("fg", &listeners(&["management", "http"]), " --data-dir d", true);
        assert!(all.contains("fg apply -f") && all.contains("--data-dir d") && all.contains("curl"), "{all}");
        assert!(!all.contains("FERROGATE_ADMIN_PASSWORD"), "{all}");
        let unknown = first_steps("fg", &listeners(&["management", "http"]), "", false);
        assert!(unknown.contains("where FERROGATE_ADMIN_PASSWORD"), "{unknown}");
        let closed = first_steps("fg", &listeners(&["http"]), "", true);
        assert!(closed.contains("is off") && !closed.contains("apply"), "{closed}");
    }

    #[test]
    fn the_example_answers_at_the_address_the_banner_prints() {
        let file = format!("{}/../../{EXAMPLE}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(file).unwrap();
        let format = ferrogate_model::document::Format::Yaml;
        let api = ferrogate_model::document::parse(&text, format).unwrap();
        let field = |pointer: &str| api.pointer(pointer).and_then(Value::as_str).unwrap().to_owned();
        let context = field("/spec/context").replace("$version", &field("/spec/version"));
        assert_eq!(format!("{context}/books"), EXAMPLE_PATH);
        assert_eq!(field("/spec/upstream/main/url"), "http://127.0.0.1:8089");
    }
}
