// SPDX-License-Identifier: Apache-2.0
//! What a process says about itself: its log, set up once by the composition root, and
//! the text form of its metrics. Each module keeps its own metrics; nothing here
//! names one. The log goes to standard error, because standard output belongs to the
//! access log and to what commands answer.

use std::io::IsTerminal;

use prometheus_client::registry::Registry;
use thiserror::Error;
use tracing_subscriber::EnvFilter;

/// The content type of [`encode_metrics`].
pub const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What may stand alone as a level.
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as
    /// `info,ferrogate_xds=debug`.
    pub level: String,
    /// How a line is written.
    pub format: LogFormat,
}

/// Why telemetry could not be set up or read.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The level is not one.
    #[error(
        "\"{0}\" is not a log level: one of {levels}, or directives such as info,ferrogate_xds=debug",
        levels = LEVELS.join(", ")
    )]
    Level(String),
    /// A log was set up before, in this process.
    #[error("the log is already set up")]
    AlreadySet,
    /// A metric could not be written as text.
    #[error("metrics cannot be encoded")]
    Encode(#[from] std::fmt::Error),
}

/// Whether this is a level, without setting anything up: for checking a configuration.
pub fn check_level(level: &str) -> Result<(), TelemetryError> {
    filter(level).map(drop)
}

/// Sets up the log of this process, once.
pub fn init(settings: &LogSettings) -> Result<(), TelemetryError> {
    let filter = filter(&settings.level)?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would say that a line could not be written where the line could not be written, and
        // panic: a full disk must not end the task that had something to say.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    let installed = match settings.format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    installed.map_err(|_| TelemetryError::AlreadySet)
}

fn filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    let wrong = || TelemetryError::Level(level.to_owned());
    // A word alone that is no level would be taken for a module of which everything is logged, and
    // of everything else nothing.
    let mut words = level.split(',').filter(|directive| !directive.contains(['=', '[']));
    if level.is_empty() || words.any(|word| !LEVELS.contains(&word.to_lowercase().as_str())) {
        return Err(wrong());
    }
    EnvFilter::try_new(level).map_err(|_| wrong())
}

/// A registry in the text form that Prometheus scrapes.
pub fn encode_metrics(registry: &Registry) -> Result<String, TelemetryError> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{LogFormat, LogSettings, TelemetryError, check_level, encode_metrics, init};
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::registry::Registry;

    #[test]
    fn metrics_are_written_as_text() {
        let mut registry = Registry::default();
        let counter: Counter = Counter::default();
        registry.register("requests", "Requests", counter.clone());
        counter.inc();
        assert!(encode_metrics(&registry).unwrap().contains("requests_total 1"));
    }

    #[test]
    fn bad_settings_are_refused() {
        let settings = LogSettings { level: "info,=,".to_owned(), format: LogFormat::Text };
        assert!(matches!(init(&settings), Err(TelemetryError::Level(_))));
        for level in ["loud", "", "info,", "info,ferrogate_xds", "ferrogate_xds=loud", "3"] {
            let told = check_level(level).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(told.contains("error, warn, info, debug, trace"), "{level}: {told}");
        }
        for level in
            ["info", "WARN", "off", "info,ferrogate_xds=debug", "info,hyper=off", "ferrogate_xds=debug"]
        {
            assert!(check_level(level).is_ok(), "{level}");
        }
    }
}
