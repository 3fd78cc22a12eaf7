// SPDX-License-Identifier: Apache-2.0
//! Settings of who is at the other end: which controllers are followed, what clients are shown and
//! asked for in TLS, which proxies in front of us are believed, and how upstreams are found, trusted
//! and waited for. `read` calls it for its part of [`super::Config`]; problems are left with the
//! reader as there.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ferrogate_base::config::Reader;
use ferrogate_xds::client::{ClientError, Controller};
use http::HeaderName;

use super::read::{DAY, HOUR, MILLISECOND, ranged, size};
use super::{ClientAuthentication, DownstreamTls, Forwarding, Stream, TlsVersion, Upstream, UpstreamTls};

/// The system's authorities are not asked: a controller's certificate is of one's own making.
const STREAM_CA: &str = "runtime.tls.ca_file";

const DNS_PORT: u16 = 53;
const MAX_NAMESERVERS: usize = 8;

/// More proxies than this stand in front of nobody.
const MAX_TRUSTED_HOPS: u64 = 32;

/// Controllers, and what is shown to them.
pub(super) fn stream(reader: &mut Reader<'_>) -> Stream {
    let default = Stream::default();
    let ca_file = reader.optional_path(STREAM_CA);
    let stream = Stream {
        controllers: controllers(reader, ca_file.is_some()),
        gateway_id: reader.name("runtime.gateway_id", &default.gateway_id),
        runtime_id: reader.name("runtime.id", &default.runtime_id),
        zone: reader.string("runtime.zone", &default.zone),
        join_token_file: reader.optional_path("runtime.join_token_file"),
        join_token: reader.secret("runtime.join_token"),
        ca_file,
        cert_file: reader.optional_path("runtime.tls.cert_file"),
        key_file: reader.optional_path("runtime.tls.key_file"),
        server_name: reader.optional_string("runtime.tls.server_name"),
    };
    if stream.cert_file.is_some() != stream.key_file.is_some() {
        reader.problem("runtime.tls.cert_file", "a certificate and its key are given together or not at all");
    }
    stream
}

/// What could never be dialled is told here: at the first connect it would be too late.
fn controllers(reader: &mut Reader<'_>, trusts: bool) -> Vec<Controller> {
    const KEY: &str = "runtime.controllers";
    let mut controllers = Vec::new();
    for text in reader.strings(KEY, &[]) {
        // Parsing never fails; the check does.
        let Ok(controller) = text.parse::<Controller>();
        if let Err(error) = controller.check(trusts) {
            let key = if matches!(error, ClientError::NoTrust(_)) { STREAM_CA } else { KEY };
            reader.problem(key, error.to_string());
        }
        controllers.push(controller);
    }
    controllers
}

/// TLS with clients.
pub(super) fn downstream_tls(reader: &mut Reader<'_>) -> DownstreamTls {
    let (minimum, maximum) = versions(
        reader,
        "router.downstream_tls.minimum_protocol_version",
        "router.downstream_tls.maximum_protocol_version",
    );
    let tls = DownstreamTls {
        cert_path: reader.optional_path("router.downstream_tls.cert_path"),
        key_path: reader.optional_path("router.downstream_tls.key_path"),
        client_authentication: reader.choice(
            "router.downstream_tls.client_authentication",
            ClientAuthentication::None,
            &[
                ("none", ClientAuthentication::None),
                ("optional", ClientAuthentication::Optional),
                ("required", ClientAuthentication::Required),
            ],
        ),
        client_ca_file: reader.optional_path("router.downstream_tls.client_ca_path"),
        client_certificate_header: certificate_header(reader),
        minimum,
        maximum,
    };
    if tls.cert_path.is_some() != tls.key_path.is_some() {
        reader.problem(
            "router.downstream_tls.cert_path",
            "a certificate and its key are given together or not at all",
        );
    }
    tls
}

/// Upstreams.
pub(super) fn upstream(reader: &mut Reader<'_>) -> Upstream {
    let default = Upstream::default();
    let (minimum, maximum) = versions(
        reader,
        "router.upstream.tls.minimum_protocol_version",
        "router.upstream.tls.maximum_protocol_version",
    );
    let mut extra: Vec<PathBuf> =
        reader.strings("runtime.upstream.ca_files", &[]).into_iter().map(PathBuf::from).collect();
    extra.extend(reader.optional_path("router.upstream.tls.trusted_cert_path"));
    Upstream {
        tls: UpstreamTls {
            system_roots: reader.bool("runtime.upstream.system_roots", true),
            extra_ca_files: extra,
            verify_host_name: reader.bool("router.upstream.tls.verify_host_name", true),
            disable_verification: reader.bool("router.upstream.tls.disable_ssl_verification", false),
            minimum,
            maximum,
        },
        nameservers: nameservers(reader),
        request_timeout: reader.duration(
            "router.upstream.timeouts.route_timeout_ms",
            default.request_timeout,
            MILLISECOND..=HOUR,
        ),
        stream_idle_timeout: reader.duration(
            "router.upstream.timeouts.route_idle_timeout_ms",
            default.stream_idle_timeout,
            MILLISECOND..=HOUR,
        ),
        connect_timeout: reader.duration(
            "router.upstream.timeouts.connect_timeout_ms",
            default.connect_timeout,
            MILLISECOND..=HOUR,
        ),
        max_idle_per_target: size(
            reader,
            "runtime.upstream.max_idle_per_target",
            default.max_idle_per_target,
            100_000,
        ),
        pool_idle_timeout: reader.duration(
            "runtime.upstream.idle_timeout",
            default.pool_idle_timeout,
            MILLISECOND..=DAY,
        ),
        pool_max_age: reader.duration("runtime.upstream.max_age", default.pool_max_age, MILLISECOND..=DAY),
        max_h2_streams: ranged(reader, "runtime.upstream.max_h2_streams", default.max_h2_streams, 1, 100_000),
    }
}

/// Which proxies are believed, and what upstreams are told of them.
pub(super) fn forwarding(reader: &mut Reader<'_>) -> Forwarding {
    let hops = "runtime.forwarded.trusted_hops";
    let trusted_hops = reader
        .is_set(hops)
        .then(|| usize::try_from(reader.integer(hops, 0, 0..=MAX_TRUSTED_HOPS)).unwrap_or(0));
    let via = reader.optional_string("runtime.forwarded.via");
    if via.as_ref().is_some_and(|via| !is_pseudonym(via)) {
        reader.problem("runtime.forwarded.via", "a name of letters, digits and any of - _ . : is needed");
    }
    let rfc7239 = reader.bool("runtime.forwarded.rfc7239", false);
    if rfc7239 && trusted_hops.is_none() {
        reader.problem("runtime.forwarded.rfc7239", "runtime.forwarded.trusted_hops must be set as well");
    }
    Forwarding { trusted_hops, rfc7239, via }
}

/// Addresses with or without a port, for whoever has the name servers' names would need another.
fn nameservers(reader: &mut Reader<'_>) -> Vec<SocketAddr> {
    const KEY: &str = "runtime.upstream.nameservers";
    let texts = reader.strings(KEY, &[]);
    let read = |text: &String| {
        text.parse().ok().or_else(|| text.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, DNS_PORT)))
    };
    let servers: Vec<SocketAddr> = texts.iter().filter_map(read).collect();
    if servers.len() < texts.len() || servers.len() > MAX_NAMESERVERS {
        reader.problem(KEY, "is a list of at most 8 IP addresses, each with or without a port");
    }
    servers
}

/// A header that says something else already cannot say this.
fn certificate_header(reader: &mut Reader<'_>) -> Option<HeaderName> {
    const KEY: &str = "router.downstream_tls.client_certificate_header";
    const TAKEN: [&str; 6] =
        ["host", "connection", "content-length", "transfer-encoding", "authorization", "x-request-id"];
    let text = reader.optional_string(KEY)?;
    let name = HeaderName::try_from(&text).ok().filter(|name| !TAKEN.contains(&name.as_str()));
    if name.is_none() {
        reader.problem(KEY, "is no header name, or one that has another meaning");
    }
    name
}

fn versions(reader: &mut Reader<'_>, minimum: &str, maximum: &str) -> (TlsVersion, TlsVersion) {
    let names = [("TLS1_2", TlsVersion::Tls12), ("TLS1_3", TlsVersion::Tls13)];
    let oldest = reader.choice(minimum, TlsVersion::Tls12, &names);
    let newest = reader.choice(maximum, TlsVersion::Tls13, &names);
    if oldest > newest {
        reader.problem(minimum, format!("is newer than {maximum}"));
    }
    (oldest, newest)
}

/// A host or pseudonym, as `Via` has it (RFC 9110, 7.6.3).
fn is_pseudonym(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
}
