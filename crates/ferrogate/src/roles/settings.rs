// SPDX-License-Identifier: Apache-2.0
//! From flags, environment and files to a checked configuration. Which flag stands for
//! which key is said in each role; what all roles have in common is said here. It is the
//! binary's configuration module, and so may read the environment.

use std::path::PathBuf;

use ferrogate_base::config::{ConfigError, Origin, Reader, Sources};
use ferrogate_base::telemetry::{self, LogFormat, LogSettings};

use crate::cli::{Common, Exit, StreamTlsFlags};
use crate::output;

/// Where `{{ file }}` may read from, unless the environment says otherwise.
const TOKEN_DIRS: [&str; 4] = [
    "/etc/gateway-controller",
    "/secrets/gateway-controller",
    "/etc/gateway-runtime",
    "/secrets/gateway-runtime",
];
/// Sections of the file format that not every role of this build reads, and that a file
/// written for others may have.
const FOREIGN: [&str; 8] = [
    "api_key",
    "subscriptions",
    "mcp",
    super::POLICY_SECTION,
    "tracing",
    "analytics",
    "collector",
    "traffic_logging",
];
/// Sections of the roles.
const ROLES: [&str; 5] = ["controller", "immutable_gateway", "runtime", "router", "policy_engine"];

/// How a role's configuration is put together.
pub struct Role<'a> {
    /// The flags every role has.
    pub common: &'a Common,
    /// The sections the role reads.
    pub sections: &'a [&'a str],
    /// The section of its `logging` keys.
    pub logging: &'a str,
}

/// A role's configuration, or the reason to stop here.
pub enum Loaded<T> {
    /// It is right; the log is set up.
    Ready(T),
    /// `--check` was asked for; everything has been printed.
    Checked(Exit),
}

/// Flags, environment and files, with the layers that every role has.
pub fn sources(common: &Common) -> Sources {
    let mut sources = Sources::from_process();
    sources.allow_files_in(&TOKEN_DIRS);
    for file in &common.config {
        sources.read_file(file);
    }
    sources
}

/// Puts a flag over the key it stands for, if the user gave it.
pub fn flag(sources: &mut Sources, key: &str, name: &str, value: Option<impl ToString>) {
    if let Some(value) = value {
        sources.flag(key, name, value.to_string());
    }
}

/// The certificates of one end of the config stream, whose keys are `[authority, certificate, key]`.
pub fn stream_flags(sources: &mut Sources, flags: &StreamTlsFlags, keys: [&str; 3]) {
    let given = [
        ("--stream-ca", &flags.stream_ca),
        ("--stream-cert", &flags.stream_cert),
        ("--stream-key", &flags.stream_key),
    ];
    for (key, (name, path)) in keys.into_iter().zip(given) {
        flag(sources, key, name, path.as_ref().map(|path| path.display()));
    }
}

/// Reads the configuration, reports every problem at once, sets up the log.
pub fn load<T>(
    role: &Role<'_>,
    mut sources: Sources,
    read: impl FnOnce(&mut Reader<'_>) -> T,
) -> anyhow::Result<Loaded<T>> {
    let (level_key, format_key) =
        (format!("{}.logging.level", role.logging), format!("{}.logging.format", role.logging));
    for name in ["FERROGATE_LOG_LEVEL", "LOG_LEVEL", "APIP_GW_CONTROLLER_LOGGING_LEVEL"] {
        sources.env_alias(&level_key, name);
    }
    sources.env_alias(&format_key, "FERROGATE_LOG_FORMAT");
    flag(&mut sources, &level_key, "--log-level", role.common.log_level.as_ref());
    flag(&mut sources, &format_key, "--log-format", role.common.log_format.as_ref());

    let mut reader = Reader::new(&sources);
    let config = read(&mut reader);
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let log = LogSettings {
        level: reader.string(&level_key, "info"),
        format: reader.choice(&format_key, LogFormat::Text, &formats),
    };
    let others: Vec<&str> =
        ROLES.iter().chain(&FOREIGN).copied().filter(|one| !role.sections.contains(one)).collect();
    if let Err(error) = telemetry::check_level(&log.level) {
        reader.problem(&level_key, error.to_string());
    }
    for section in FOREIGN.iter().filter(|section| !role.sections.contains(section)) {
        reader.accept(section);
    }
    let finished = reader.finish(role.sections, &others);
    let idle = finished.without_effect.join(", ");
    if role.common.check {
        output::text(&finished.effective.to_string())?;
        if !idle.is_empty() {
            output::note(&format!("note: accepted, without effect: {idle}\n"));
        }
        for problem in &finished.problems {
            output::note(&format!("error: {problem}\n"));
        }
        return Ok(Loaded::Checked(if finished.problems.is_empty() { Exit::Done } else { Exit::Usage }));
    }
    let effective = finished.into_result()?;
    telemetry::init(&log).map_err(|error| {
        let problem = ferrogate_base::config::Problem {
            key: Some(level_key),
            origin: None,
            message: error.to_string(),
        };
        ConfigError(vec![problem])
    })?;
    if !idle.is_empty() {
        tracing::warn!(keys = idle, "accepted, without effect");
    }
    for (key, setting) in effective.iter().filter(|(_, setting)| setting.origin != Origin::Default) {
        tracing::info!(key, value = setting.value, origin = %setting.origin, "configured");
    }
    Ok(Loaded::Ready(config))
}

/// Where roles keep their files when nobody says otherwise.
pub fn data_root() -> PathBuf {
    // `Sources` is the one reader of the environment; an empty variable counts as unset.
    let environment = Sources::from_process();
    if let Some(dir) = environment.env("XDG_DATA_HOME") {
        return PathBuf::from(dir).join("ferrogate");
    }
    match environment.env("HOME") {
        Some(home) => PathBuf::from(home).join(".local/share/ferrogate"),
        None => PathBuf::from("ferrogate-data"),
    }
}

/// The machine's name, for replicas that nobody named: two machines must not share one.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}
