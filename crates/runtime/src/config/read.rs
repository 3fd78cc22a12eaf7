// SPDX-License-Identifier: Apache-2.0
//! Settings from their keys. `router.*` and `policy_engine.*` are those of contract 7.3 and
//! 7.4, so that a file written for that system works; `runtime.*` is ours. Every problem is
//! left with the reader, which lists them all at once.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_base::config::{ListenKeys, Reader};
use http::HeaderValue;

use super::peers::{downstream_tls, forwarding, stream, upstream};
use super::{
    AccessLog, AccessLogTarget, Admin, Config, DataDir, Http1Codec, Limits, Listen, PathRules, ServerHeader,
    ServerHeaderMode,
};
use crate::access_log::Format;
use crate::access_log::format::DEFAULT_TEXT;
use crate::router::EscapedSlashes;

pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

pub(super) const MILLISECOND: Duration = Duration::from_millis(1);

/// Keys of that file format that have no effect here: there is no Envoy to tune, no socket
/// between router and policies, and tracing and Lua do not exist.
const WITHOUT_EFFECT: [&str; 17] = [
    "router.gateway_host",
    "router.vhosts",
    "router.upstream.tls.ciphers",
    "router.upstream.tls.custom_certs_path",
    "router.downstream_tls.ciphers",
    "router.http_listener.timeouts.request_timeout",
    "router.policy_engine",
    "router.tracing_service_name",
    "router.lua",
    "policy_engine.server",
    "policy_engine.config_mode",
    "policy_engine.xds",
    "policy_engine.tracing_service_name",
    "policy_engine.admin.pprof",
    "policy_engine.logging",
    "policy_engine.python_executor",
    "policy_engine.file_config",
];

impl Config {
    /// The sections a runtime reads; an unknown key in them is a mistake.
    pub const SECTIONS: [&str; 3] = ["runtime", "router", "policy_engine"];

    /// Reads every setting. Whether controllers must be given is for the role to say: a
    /// runtime needs some, a standalone process brings its own.
    pub fn read(reader: &mut Reader<'_>) -> Config {
        for key in WITHOUT_EFFECT {
            reader.accept(key);
        }
        let default = Config::default();
        Config {
            listen: listen(reader),
            stream: stream(reader),
            data_dir: DataDir {
                path: reader.optional_path("runtime.data_dir"),
                key_file: reader.optional_path("runtime.cache.key_file"),
                write_deadline: reader.duration(
                    "runtime.cache.write_deadline",
                    default.data_dir.write_deadline,
                    MILLISECOND..=HOUR,
                ),
            },
            workers: size(reader, "runtime.workers", default.workers, 1024),
            limits: limits(reader),
            downstream_tls: downstream_tls(reader),
            upstream: upstream(reader),
            server_header: server_header(reader),
            http1_codec: reader.choice(
                "runtime.http1_codec",
                default.http1_codec,
                &[("own", Http1Codec::Own), ("hyper", Http1Codec::Hyper)],
            ),
            path: path_rules(reader),
            forwarding: forwarding(reader),
            access_log: access_log(reader),
            admin: Admin {
                config_dump: reader
                    .bool("policy_engine.admin.config_dump.enabled", default.admin.config_dump),
                allowed_ips: reader.networks("policy_engine.admin.allowed_ips", &["*"]),
            },
            handover: reader.optional_path("runtime.handover"),
            drain_delay: reader.duration("runtime.drain_delay", default.drain_delay, Duration::ZERO..=HOUR),
            drain_deadline: reader.duration(
                "runtime.drain_deadline",
                default.drain_deadline,
                Duration::ZERO..=HOUR,
            ),
        }
    }
}

fn listen(reader: &mut Reader<'_>) -> Listen {
    let keys = |port, enabled| ListenKeys { port: Some(port), enabled };
    Listen {
        http: reader.listen("runtime.listen.http", "0.0.0.0:8080", keys("router.listener_port", None)),
        https: reader.listen(
            "runtime.listen.https",
            "0.0.0.0:8443",
            keys("router.https_port", Some("router.https_enabled")),
        ),
        proxy_protocol: reader.bool("runtime.listen.proxy_protocol", false),
        admin: reader.listen(
            "runtime.listen.admin",
            "127.0.0.1:9002",
            keys("policy_engine.admin.port", Some("policy_engine.admin.enabled")),
        ),
        metrics: reader.listen(
            "runtime.listen.metrics",
            "127.0.0.1:9003",
            keys("policy_engine.metrics.port", Some("policy_engine.metrics.enabled")),
        ),
        readiness: reader.listen("runtime.listen.readiness", "127.0.0.1:9901", ListenKeys::default()),
    }
}

fn limits(reader: &mut Reader<'_>) -> Limits {
    let default = Limits::default();
    Limits {
        max_connections: size(reader, "runtime.limits.max_connections", default.max_connections, 10_000_000),
        // hyper needs 8 KiB to work with.
        max_head_bytes: ranged(
            reader,
            "runtime.limits.max_head_bytes",
            default.max_head_bytes,
            8192,
            1 << 24,
        ),
        max_headers: ranged(reader, "runtime.limits.max_headers", default.max_headers, 1, 10_000),
        max_uri_bytes: ranged(reader, "runtime.limits.max_uri_bytes", default.max_uri_bytes, 256, 65_534),
        max_request_body_bytes: number_or_off(reader, "runtime.limits.max_request_body_bytes"),
        max_requests_per_connection: number_or_off(reader, "runtime.limits.max_requests_per_connection"),
        max_requests_in_flight: ranged(
            reader,
            "runtime.limits.max_requests_in_flight",
            default.max_requests_in_flight,
            1,
            10_000_000,
        ),
        max_lag: max_lag(reader, default.max_lag),
        max_h2_resets: streams(reader, "runtime.limits.max_h2_resets", default.max_h2_resets),
        max_h2_streams: streams(reader, "runtime.limits.max_h2_streams", default.max_h2_streams),
        body_buffer_bytes: ranged(
            reader,
            "router.http_listener.per_connection_buffer_limit_bytes",
            default.body_buffer_bytes,
            1,
            104_857_600,
        ),
        request_decompressed_bytes: ranged(
            reader,
            "policy_engine.request_body.max_decompressed_bytes",
            default.request_decompressed_bytes,
            1,
            1 << 30,
        ),
        response_decompressed_bytes: ranged(
            reader,
            "policy_engine.response_body.max_decompressed_bytes",
            default.response_decompressed_bytes,
            1,
            1 << 30,
        ),
        head_timeout: time_or_day(
            reader,
            "router.http_listener.timeouts.request_headers_timeout",
            default.head_timeout,
        ),
        idle_timeout: time_or_day(reader, "router.http_listener.timeouts.idle_timeout", default.idle_timeout),
        write_stall_timeout: time_or_day(
            reader,
            "router.http_listener.timeouts.stream_idle_timeout",
            default.write_stall_timeout,
        ),
        tls_handshake_timeout: reader.duration(
            "runtime.limits.tls_handshake_timeout",
            default.tls_handshake_timeout,
            MILLISECOND..=HOUR,
        ),
    }
}

/// So many of a connection's streams.
fn streams(reader: &mut Reader<'_>, key: &str, default: u32) -> u32 {
    u32::try_from(reader.integer(key, default.into(), 1..=100_000)).unwrap_or(default)
}

/// Zero switches it off.
fn max_lag(reader: &mut Reader<'_>, default: Option<Duration>) -> Option<Duration> {
    let key = "runtime.limits.max_lag";
    Some(reader.duration(key, default.unwrap_or_default(), Duration::ZERO..=HOUR))
        .filter(|lag| !lag.is_zero())
}

fn server_header(reader: &mut Reader<'_>) -> ServerHeader {
    let modes = [
        ("OVERWRITE", ServerHeaderMode::Overwrite),
        ("APPEND_IF_ABSENT", ServerHeaderMode::AppendIfAbsent),
        ("PASS_THROUGH", ServerHeaderMode::PassThrough),
    ];
    let key = "router.http_listener.server_header_transformation";
    let default = Config::default().server_header;
    let mode = reader.choice(key, default.mode, &modes);
    let value = reader.string("router.http_listener.server_header_value", &default.value);
    if HeaderValue::try_from(value.as_str()).is_err() {
        reader.problem("router.http_listener.server_header_value", "this text cannot stand in a header");
    }
    ServerHeader { mode, value }
}

fn path_rules(reader: &mut Reader<'_>) -> PathRules {
    let actions = [
        ("KEEP_UNCHANGED", EscapedSlashes::KeepUnchanged),
        ("REJECT_REQUEST", EscapedSlashes::Reject),
        ("UNESCAPE_AND_REDIRECT", EscapedSlashes::UnescapeAndRedirect),
        ("UNESCAPE_AND_FORWARD", EscapedSlashes::UnescapeAndForward),
    ];
    let default = Config::default().path;
    PathRules {
        disable_normalisation: reader
            .bool("router.http_listener.disable_path_normalization", default.disable_normalisation),
        escaped_slashes: reader.choice(
            "router.http_listener.path_with_escaped_slashes_action",
            default.escaped_slashes,
            &actions,
        ),
    }
}

fn access_log(reader: &mut Reader<'_>) -> AccessLog {
    let enabled = reader.bool("router.access_logs.enabled", true);
    let target = match reader.string("runtime.access_log", "stdout").as_str() {
        "off" => AccessLogTarget::Off,
        "stdout" => AccessLogTarget::Stdout,
        path => AccessLogTarget::File(PathBuf::from(path)),
    };
    let default = Config::default().access_log;
    AccessLog {
        target: if enabled { target } else { AccessLogTarget::Off },
        format: log_format(reader),
        rotate_bytes: reader.integer("runtime.access_log_rotate_bytes", default.rotate_bytes, 0..=1 << 40),
        keep_files: ranged(reader, "runtime.access_log_keep_files", default.keep_files, 1, 1000),
        queue_blocks: ranged(reader, "runtime.access_log_queue_blocks", default.queue_blocks, 1, 1 << 20),
    }
}

/// Both kinds are read, so that a mistake in the one not chosen is told as well.
fn log_format(reader: &mut Reader<'_>) -> Arc<Format> {
    const TEXT: &str = "router.access_logs.text_format";
    const FIELDS: &str = "router.access_logs.json_fields";
    let is_text = reader.choice("router.access_logs.format", false, &[("json", false), ("text", true)]);
    let text = reader.string(TEXT, DEFAULT_TEXT);
    let text = Format::of_text(&text).unwrap_or_else(|error| {
        reader.problem(TEXT, error);
        Format::json()
    });
    let fields = reader.subtree(FIELDS);
    let fields = fields.as_object().filter(|fields| !fields.is_empty());
    let json = fields.map_or_else(
        || Ok(Format::json()),
        |fields| {
            let texts = fields.iter().map(|(key, value)| (key.as_str(), value.as_str().unwrap_or("%")));
            Format::of_json(texts)
        },
    );
    let json = json.unwrap_or_else(|(key, error)| {
        reader.problem(FIELDS, format!("{key}: a text with operators is wanted: {error}"));
        Format::json()
    });
    if is_text { text } else { json }
}

/// Zero is the longest there is, a day: a limit that nobody wants still frees what is forgotten.
fn time_or_day(reader: &mut Reader<'_>, key: &str, default: Duration) -> Duration {
    let time = reader.duration(key, default, Duration::ZERO..=DAY);
    if time.is_zero() { DAY } else { time }
}

/// No limit unless set; zero is none as well.
fn number_or_off(reader: &mut Reader<'_>, key: &str) -> Option<u64> {
    Some(reader.integer(key, 0, 0..=1 << 50)).filter(|number| *number > 0)
}

pub(super) fn size(reader: &mut Reader<'_>, key: &str, default: usize, most: u64) -> usize {
    ranged(reader, key, default, 0, most)
}

pub(super) fn ranged(reader: &mut Reader<'_>, key: &str, default: usize, least: u64, most: u64) -> usize {
    let standard = u64::try_from(default).unwrap_or(u64::MAX);
    usize::try_from(reader.integer(key, standard, least..=most)).unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::time::Duration;

    use ferrogate_base::config::{Reader, Sources};

    use crate::access_log::Format;
    use crate::access_log::format::DEFAULT_TEXT;
    use crate::config::{Config, Limits, Listen, ServerHeaderMode, Upstream};
    use crate::router::EscapedSlashes;

    fn read(text: &str) -> (Config, Vec<String>) {
        let mut sources = Sources::new(BTreeMap::new());
        sources.read_text(Path::new("gateway.toml"), text);
        let mut reader = Reader::new(&sources);
        let config = Config::read(&mut reader);
        let finished = reader.finish(&Config::SECTIONS, &["controller"]);
        (config, finished.problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn nothing_configured_is_the_default() {
        let (config, problems) = read("");
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(config.listen, Listen::default());
        assert_eq!(config.limits, Limits::default());
        assert_eq!(config.upstream, Upstream::default());
    }

    #[test]
    fn a_file_of_the_contract_is_understood() {
        let (config, problems) = read(
            r#"
            [router]
            listener_port = 8081
            https_enabled = false
            tracing_service_name = "router"
            [router.http_listener]
            server_header_transformation = "APPEND_IF_ABSENT"
            server_header_value = "edge"
            path_with_escaped_slashes_action = "REJECT_REQUEST"
            [router.http_listener.timeouts]
            idle_timeout = "10m"
            request_headers_timeout = "0s"
            [router.upstream.timeouts]
            route_timeout_ms = 1500
            [runtime.upstream]
            nameservers = ["10.0.0.53", "[::1]:5353"]
            [router.policy_engine]
            mode = "uds"
            [router.lua.request_transformation]
            script_path = "x.lua"
            [policy_engine.metrics]
            enabled = false
            [runtime]
            controllers = ["http://127.0.0.1:18000", "b=http://10.0.0.2:18000"]
            "#,
        );
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(config.listen.http.map(|address| address.port()), Some(8081));
        assert_eq!((config.listen.https, config.listen.metrics), (None, None));
        assert_eq!(config.server_header.mode, ServerHeaderMode::AppendIfAbsent);
        assert_eq!(config.path.escaped_slashes, EscapedSlashes::Reject);
        assert_eq!(config.limits.idle_timeout, Duration::from_secs(600));
        assert_eq!(config.limits.head_timeout, Duration::from_secs(86_400));
        assert_eq!(config.upstream.request_timeout, Duration::from_millis(1500));
        let servers = config.upstream.nameservers.iter().map(ToString::to_string);
        assert!(servers.eq(["10.0.0.53:53", "[::1]:5353"]), "{:?}", config.upstream.nameservers);
        assert_eq!(config.stream.controllers.len(), 2);
        assert_eq!(config.stream.controllers[1].zone.as_deref(), Some("b"));
    }

    #[test]
    fn access_log_lines_are_chosen_by_the_contracts_keys() {
        let (config, problems) = read("[router.access_logs]\nformat = \"text\"");
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(Ok(&config.access_log.format), Format::of_text(DEFAULT_TEXT).as_ref());
        let text = "text_format = \"%START_TIME% %REQ(:METHOD)%\\n\"";
        let (config, problems) = read(&format!("[router.access_logs]\nformat = \"text\"\n{text}"));
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(Ok(&config.access_log.format), Format::of_text("%START_TIME% %REQ(:METHOD)%").as_ref());
        let (config, problems) = read("[router.access_logs.json_fields]\ncode = \"%RESPONSE_CODE%\"");
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(Ok(&config.access_log.format), Format::of_json([("code", "%RESPONSE_CODE%")]).as_ref());
    }

    #[test]
    fn every_mistake_is_told() {
        let (_, problems) = read(
            r#"
            [runtime]
            controllers = ["10.0.0.1:18000"]
            [runtime.tls]
            cert_file = "a.pem"
            [runtime.upstream]
            nameservers = ["dns.example"]
            [router.downstream_tls]
            key_path = "k.pem"
            client_authentication = "always"
            client_certificate_header = "Host"
            minimum_protocol_version = "TLS1_3"
            maximum_protocol_version = "TLS1_2"
            [router]
            listener_prot = 1
            [router.access_logs]
            text_format = "%NONSENSE%"
            json_fields = { a = 1 }
            "#,
        );
        for part in [
            "access_logs.text_format",
            "access_logs.json_fields",
            "runtime.controllers: '10.0.0.1:18000' must begin with http:// or https://",
            "runtime.tls.cert_file",
            "runtime.upstream.nameservers",
            "downstream_tls.cert_path",
            "downstream_tls.client_authentication",
            "downstream_tls.client_certificate_header",
            "is newer",
            "listener_prot",
        ] {
            assert!(problems.iter().any(|problem| problem.contains(part)), "{part} in {problems:#?}");
        }
    }

    #[test]
    fn a_controller_that_cannot_be_dialled_is_told_at_the_setting_to_mend() {
        for (url, part) in [
            ("http://", "runtime.controllers: 'http://' is not a URL"),
            ("b=http://h:1:2", "runtime.controllers: 'http://h:1:2' is not a URL"),
            ("http://c1:99999", "runtime.controllers: 'http://c1:99999' is not a URL"),
            ("http://:18000", "runtime.controllers: 'http://:18000' is not a URL"),
            ("https://c1:18000", "runtime.tls.ca_file: 'https://c1:18000' needs"),
        ] {
            let controllers = format!("[runtime]\ncontrollers = [\"http://good:1\", \"{url}\"]\n");
            let (_, problems) = read(&controllers);
            assert!(matches!(problems.as_slice(), [only] if only.starts_with(part)), "{url}: {problems:#?}");
        }
        let secure = "[runtime]\ncontrollers = [\"https://c1:1\"]\n[runtime.tls]\nca_file = \"ca.pem\"\n";
        assert_eq!(read(secure).1, Vec::<String>::new());
    }
}
