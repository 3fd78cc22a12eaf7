// SPDX-License-Identifier: Apache-2.0
//! Every setting of a runtime, with its default. This is the only place of the crate that
//! knows where settings come from: [`Config::read`] takes them from their keys, `run`
//! receives the finished [`Config`]. Each limit says what happens when it is reached.

mod peers;
mod read;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_base::networks::Networks;
use ferrogate_base::secret::Secret;
use ferrogate_model::DEFAULT_GATEWAY;
use ferrogate_xds::client::Controller;
use http::HeaderName;

use crate::access_log::Format;
use crate::router::EscapedSlashes;

/// Everything a runtime can be told.
#[derive(Clone)]
pub struct Config {
    /// Addresses to listen on; `None` is `off`.
    pub listen: Listen,
    /// Where the configuration comes from.
    pub stream: Stream,
    /// Where the last-known-good set is kept.
    pub data_dir: DataDir,
    /// Worker threads; 0 means one per core.
    pub workers: usize,
    /// Limits of client connections and requests.
    pub limits: Limits,
    /// Certificate of the HTTPS listener.
    pub downstream_tls: DownstreamTls,
    /// How upstreams are reached.
    pub upstream: Upstream,
    /// What happens to `server` in responses.
    pub server_header: ServerHeader,
    /// Who speaks HTTP/1 with clients.
    pub http1_codec: Http1Codec,
    /// Path normalisation before routing.
    pub path: PathRules,
    /// Who the client is, and what upstreams are told about it.
    pub forwarding: Forwarding,
    /// The access log.
    pub access_log: AccessLog,
    /// The admin listener's gates.
    pub admin: Admin,
    /// The Unix socket over which a successor takes the listeners over; `None` hands nothing over.
    pub handover: Option<PathBuf>,
    /// How long a shutdown goes on taking requests, not ready any more, so that balancers notice.
    pub drain_delay: Duration,
    /// How long in-flight requests may take once nothing new is taken.
    pub drain_deadline: Duration,
}

/// Addresses to listen on; port 0 takes any free one, `None` switches the listener off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// HTTP traffic.
    pub http: Option<SocketAddr>,
    /// HTTPS traffic.
    pub https: Option<SocketAddr>,
    /// Every connection of the two begins with a PROXY header; one without it is closed.
    pub proxy_protocol: bool,
    /// `/health`, `/status`, `/xds_sync_status`, `/config_dump`.
    pub admin: Option<SocketAddr>,
    /// `/metrics`.
    pub metrics: Option<SocketAddr>,
    /// `/ready`.
    pub readiness: Option<SocketAddr>,
}

/// Where the configuration comes from, and as whom it is asked for.
#[derive(Clone)]
pub struct Stream {
    /// In order of preference; empty when something in the process feeds the sink itself.
    pub controllers: Vec<Controller>,
    /// The gateway to serve.
    pub gateway_id: String,
    /// This runtime's name, unique within the gateway.
    pub runtime_id: String,
    /// Its zone; empty when it has none.
    pub zone: String,
    /// A file with the token presented to controllers.
    pub join_token_file: Option<PathBuf>,
    /// The token itself, instead of the file.
    pub join_token: Option<Secret>,
    /// The authority that controllers' certificates must come from, PEM; needed for `https`.
    pub ca_file: Option<PathBuf>,
    /// This runtime's own certificate chain, PEM.
    pub cert_file: Option<PathBuf>,
    /// Its key, PEM.
    pub key_file: Option<PathBuf>,
    /// The name controllers' certificates carry, when it is not the URL's host.
    pub server_name: Option<String>,
}

/// Where the last-known-good set is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataDir {
    /// The directory; `None` keeps nothing, and a restarted runtime waits for a controller.
    pub path: Option<PathBuf>,
    /// The key that seals it, instead of one made in the directory.
    pub key_file: Option<PathBuf>,
    /// A write that takes longer counts as failed: the update serves, but is not acknowledged.
    pub write_deadline: Duration,
}

/// Limits of client connections and requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Client connections of the process. When full, accepting pauses and the kernel's backlog
    /// holds what comes next.
    pub max_connections: usize,
    /// Bytes of a request's head; more is answered 431.
    pub max_head_bytes: usize,
    /// Headers of a request; more is answered 431.
    pub max_headers: usize,
    /// Bytes of a request's target; more is answered 414.
    pub max_uri_bytes: usize,
    /// Bytes of a request's body, whoever reads it; more is answered 413. `None` is no limit:
    /// bodies pass through and are not held.
    pub max_request_body_bytes: Option<u64>,
    /// Requests of a connection; the last one's answer closes it. `None` is no limit.
    pub max_requests_per_connection: Option<u64>,
    /// Requests in flight of the process, shared evenly between its workers; more are answered
    /// 503 with `Retry-After` before anything is done for them.
    pub max_requests_in_flight: usize,
    /// A worker that comes to its work later than this sheds new requests in the same way until
    /// it has caught up. `None` is never.
    pub max_lag: Option<Duration>,
    /// Requests of an HTTP/2 connection that its client takes back before they are answered; each
    /// answered one allows it another. A client that takes back more makes work and waits for
    /// none of it ("rapid reset"), and loses its connection (`ENHANCE_YOUR_CALM`).
    pub max_h2_resets: u32,
    /// Concurrent HTTP/2 streams of a connection; more are refused with `REFUSED_STREAM`.
    pub max_h2_streams: u32,
    /// Bytes of a body held for a policy that needs it whole. A longer request is answered
    /// 413, a longer response 500 (contract 4.8).
    pub body_buffer_bytes: usize,
    /// What a coded request body that a policy looks into may stand for. More is answered 413.
    pub request_decompressed_bytes: usize,
    /// The same for responses. More is answered 500.
    pub response_decompressed_bytes: usize,
    /// From a head's first byte to its last. A slower one is answered 408.
    pub head_timeout: Duration,
    /// A connection without a request for this long is closed.
    pub idle_timeout: Duration,
    /// A client that takes no byte of a response for this long is disconnected.
    pub write_stall_timeout: Duration,
    /// A TLS handshake that takes longer is given up.
    pub tls_handshake_timeout: Duration,
}

/// TLS protocol versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// Certificate of the HTTPS listener; without both files a self-signed one is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownstreamTls {
    /// PEM chain.
    pub cert_path: Option<PathBuf>,
    /// PEM key.
    pub key_path: Option<PathBuf>,
    /// Whether clients are asked for a certificate.
    pub client_authentication: ClientAuthentication,
    /// PEM of who may issue them, beside the Certificates with usage `clientTrust`.
    pub client_ca_file: Option<PathBuf>,
    /// The header in which upstreams are told of a verified one. Clients cannot set it.
    pub client_certificate_header: Option<HeaderName>,
    /// Oldest version spoken.
    pub minimum: TlsVersion,
    /// Newest version spoken.
    pub maximum: TlsVersion,
}

/// Whether clients are asked for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuthentication {
    /// No.
    None,
    /// One that is shown must be good; who shows none is nobody in particular.
    Optional,
    /// The handshake fails without a good one.
    Required,
}

/// What an `https` upstream's certificate is checked against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    /// Trust the system's certificates.
    pub system_roots: bool,
    /// Trust these PEM files as well.
    pub extra_ca_files: Vec<PathBuf>,
    /// The certificate must carry the host name.
    pub verify_host_name: bool,
    /// Check nothing at all.
    pub disable_verification: bool,
    /// Oldest version spoken.
    pub minimum: TlsVersion,
    /// Newest version spoken.
    pub maximum: TlsVersion,
}

/// How upstreams are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// TLS towards upstreams.
    pub tls: UpstreamTls,
    /// Who is asked for the addresses of names; the system's name servers when there are none.
    pub nameservers: Vec<SocketAddr>,
    /// Whole request, for routes that say nothing (contract 3.4); zero switches it off.
    pub request_timeout: Duration,
    /// Longest silence, for routes that say nothing; zero switches it off.
    pub stream_idle_timeout: Duration,
    /// Connecting, for definitions that say nothing.
    pub connect_timeout: Duration,
    /// Idle connections kept per worker and target; beyond that the oldest is closed.
    pub max_idle_per_target: usize,
    /// An idle connection is closed after this long.
    pub pool_idle_timeout: Duration,
    /// A connection older than this is not used again, so that a changed DNS answer takes effect.
    pub pool_max_age: Duration,
    /// Requests at a time on one HTTP/2 connection, where the upstream allows as many; when full
    /// the next request opens another connection.
    pub max_h2_streams: usize,
}

/// `router.http_listener.server_header_transformation` and `_value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerHeader {
    /// When our value is put.
    pub mode: ServerHeaderMode,
    /// Our value.
    pub value: String,
}

/// When our `server` value is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerHeaderMode {
    /// Always.
    Overwrite,
    /// When the upstream sent none.
    AppendIfAbsent,
    /// Never; the upstream's passes.
    PassThrough,
}

/// Who the client is when proxies stand in front, and what upstreams are told about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// Proxies in front whose word about the client is taken. `None` believes nobody and changes
    /// nothing (contract 4.5); 0 believes nobody and says so to upstreams.
    pub trusted_hops: Option<usize>,
    /// `Forwarded` is written as well (RFC 7239).
    pub rfc7239: bool,
    /// The name under which the gateway stands in `Via`, if it does.
    pub via: Option<String>,
}

/// Who speaks HTTP/1 with clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http1Codec {
    /// The hot path's codec, and hyper for what that does not serve.
    Own,
    /// hyper.
    Hyper,
}

/// Path normalisation before routing (contract 4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathRules {
    /// `router.http_listener.disable_path_normalization`.
    pub disable_normalisation: bool,
    /// `router.http_listener.path_with_escaped_slashes_action`.
    pub escaped_slashes: EscapedSlashes,
}

/// The access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// Where the lines go.
    pub target: AccessLogTarget,
    /// What a line consists of.
    pub format: Arc<Format>,
    /// A file that would become longer than this is moved aside first; 0 is never.
    pub rotate_bytes: u64,
    /// Files moved aside that are kept; an older one is removed.
    pub keep_files: usize,
    /// Blocks of lines (up to 16 KiB each) waiting for the writer. When full, a block is
    /// dropped and counted: traffic never waits for a slow disk.
    pub queue_blocks: usize,
}

/// Where access log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogTarget {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// Appended to this file.
    File(PathBuf),
}

/// The admin listener's gates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// `policy_engine.admin.config_dump.enabled`.
    pub config_dump: bool,
    /// `policy_engine.admin.allowed_ips`.
    pub allowed_ips: Networks,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: Listen::default(),
            stream: Stream::default(),
            data_dir: DataDir { path: None, key_file: None, write_deadline: Duration::from_secs(10) },
            workers: 0,
            limits: Limits::default(),
            downstream_tls: DownstreamTls::default(),
            upstream: Upstream::default(),
            server_header: ServerHeader { mode: ServerHeaderMode::Overwrite, value: "ferrogate".to_owned() },
            http1_codec: Http1Codec::Own,
            path: PathRules { disable_normalisation: false, escaped_slashes: EscapedSlashes::KeepUnchanged },
            forwarding: Forwarding::default(),
            access_log: AccessLog {
                target: AccessLogTarget::Stdout,
                format: Format::json(),
                rotate_bytes: 256 * 1024 * 1024,
                keep_files: 4,
                queue_blocks: 1024,
            },
            admin: Admin { config_dump: false, allowed_ips: Networks::all() },
            handover: None,
            drain_delay: Duration::from_secs(1),
            drain_deadline: Duration::from_secs(15),
        }
    }
}

impl Default for Listen {
    fn default() -> Listen {
        let any = |port| Some(SocketAddr::from(([0, 0, 0, 0], port)));
        let loopback = |port| Some(SocketAddr::from(([127, 0, 0, 1], port)));
        Listen {
            http: any(8080),
            https: any(8443),
            proxy_protocol: false,
            admin: loopback(9002),
            metrics: loopback(9003),
            readiness: loopback(9901),
        }
    }
}

impl Default for Stream {
    fn default() -> Stream {
        Stream {
            controllers: Vec::new(),
            gateway_id: DEFAULT_GATEWAY.to_owned(),
            runtime_id: "runtime".to_owned(),
            zone: String::new(),
            join_token_file: None,
            join_token: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            server_name: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_connections: 100_000,
            max_head_bytes: 64 * 1024,
            max_headers: 100,
            max_uri_bytes: 16 * 1024,
            max_request_body_bytes: None,
            max_requests_per_connection: None,
            max_requests_in_flight: 50_000,
            max_lag: Some(Duration::from_secs(2)),
            max_h2_resets: 100,
            max_h2_streams: 256,
            body_buffer_bytes: 1024 * 1024,
            request_decompressed_bytes: 10 * 1024 * 1024,
            response_decompressed_bytes: 10 * 1024 * 1024,
            head_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(3600),
            write_stall_timeout: Duration::from_secs(300),
            tls_handshake_timeout: Duration::from_secs(10),
        }
    }
}

impl Default for DownstreamTls {
    fn default() -> DownstreamTls {
        DownstreamTls {
            cert_path: None,
            key_path: None,
            client_authentication: ClientAuthentication::None,
            client_ca_file: None,
            client_certificate_header: None,
            minimum: TlsVersion::Tls12,
            maximum: TlsVersion::Tls13,
        }
    }
}

impl Default for UpstreamTls {
    fn default() -> UpstreamTls {
        UpstreamTls {
            system_roots: true,
            extra_ca_files: Vec::new(),
            verify_host_name: true,
            disable_verification: false,
            minimum: TlsVersion::Tls12,
            maximum: TlsVersion::Tls13,
        }
    }
}

impl Default for Upstream {
    fn default() -> Upstream {
        Upstream {
            tls: UpstreamTls::default(),
            nameservers: Vec::new(),
            request_timeout: Duration::from_secs(60),
            stream_idle_timeout: Duration::from_secs(300),
            connect_timeout: Duration::from_secs(5),
            max_idle_per_target: 4096,
            pool_idle_timeout: Duration::from_secs(60),
            pool_max_age: Duration::from_secs(600),
            max_h2_streams: 100,
        }
    }
}
