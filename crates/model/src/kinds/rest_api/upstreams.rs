// SPDX-License-Identifier: Apache-2.0
//! `spec.upstreamDefinitions` and `spec.upstream` (contract 3.3).

use std::collections::HashSet;
use std::time::Duration;

use serde_json::Value;

use super::url::{self, UrlFault};
use super::{
    Endpoints, HostRewrite, Scheme, TargetUrl, Upstream, UpstreamDefinition, UpstreamProtocol,
    UpstreamTarget, WeightedTarget,
};
use super::{balancing, health, protection, steering, upstream_tls};
use crate::duration;
use crate::fields::{Fields, Findings};

/// The most entries of `spec.upstreamDefinitions`.
pub const MAX_UPSTREAM_DEFINITIONS: usize = 100;
/// The most targets of one definition.
pub const MAX_TARGETS: usize = 100;

const MAX_NAME_CHARS: usize = 100;
const MAX_WEIGHT: u64 = 100;

const BASE_PATH: &str = "Invalid basePath (must start with '/' and must not end with '/'; omit for root)";
const TIMEOUT: &str = "Invalid timeout format (expected a single-unit duration like '30s', '1m', '500ms')";

pub(super) struct Upstreams {
    /// `None` when a violation was recorded.
    pub(super) main: Option<Upstream>,
    pub(super) sandbox: Option<Upstream>,
    pub(super) definitions: Vec<UpstreamDefinition>,
}

pub(super) fn read(spec: &Fields<'_>, found: &mut Findings) -> Upstreams {
    let mut names = HashSet::new();
    let mut definitions = Vec::new();
    for (path, value) in spec.list("upstreamDefinitions", MAX_UPSTREAM_DEFINITIONS, found) {
        definitions.extend(definition(&Fields::of(value, path, found), &mut names, found));
    }
    let slots = spec.fields("upstream", found);
    slots.only(&["main", "sandbox"], found);
    let main = upstream(&slots.fields("main", found), &names, found);
    let sandbox =
        slots.has("sandbox").then(|| upstream(&slots.fields("sandbox", found), &names, found)).flatten();
    Upstreams { main, sandbox, definitions }
}

fn upstream(fields: &Fields<'_>, names: &HashSet<String>, found: &mut Findings) -> Option<Upstream> {
    let own = ["url", "ref", "split", "hostRewrite", "protocol", "mirror", "hashOn", "name"];
    fields.only(&own, found);
    for name in ["hashOn", "name"] {
        if fields.has(name) && !fields.has("split") {
            found.violations.push(fields.path(name), "Has no meaning without 'split'");
        }
    }
    let host_rewrite = match fields.text("hostRewrite", found).as_deref() {
        None | Some("auto") => HostRewrite::Auto,
        Some("manual") => HostRewrite::Manual,
        Some(_) => {
            found.violations.push(fields.path("hostRewrite"), "Host rewrite must be 'auto' or 'manual'");
            HostRewrite::Auto
        }
    };
    let protocol = protocol(fields, found);
    if fields.has("protocol") && !fields.has("url") {
        let message = "Set the protocol in the upstream definition that is referred to";
        found.violations.push(fields.path("protocol"), message);
    }
    let given = ["url", "ref", "split"].map(|name| fields.has(name));
    let target = match given {
        [false, false, false] => {
            found.violations.push(fields.own_path(), "Must specify either 'url' or 'ref'");
            None
        }
        [true, false, false] => direct(fields, found).map(UpstreamTarget::Url),
        [false, true, false] => reference(fields, names, found).map(UpstreamTarget::Ref),
        [false, false, true] => steering::split(fields, names, found).map(UpstreamTarget::Split),
        [_, _, false] => {
            found.violations.push(fields.own_path(), "Specify exactly one of 'url' or 'ref'");
            None
        }
        [_, _, true] => {
            found.violations.push(fields.own_path(), "Specify exactly one of 'url', 'ref' or 'split'");
            None
        }
    };
    let mirror = steering::mirror(fields, names, found);
    Some(Upstream { target: target?, host_rewrite, mirror, protocol })
}

fn direct(fields: &Fields<'_>, found: &mut Findings) -> Option<TargetUrl> {
    let text = fields.text("url", found)?;
    let path = fields.path("url");
    if text.is_empty() {
        found.violations.push(path, "Upstream URL is required");
        return None;
    }
    match url::split(&text) {
        Ok(split) => {
            if split.has_query {
                found.warn(path, "the query string of an upstream URL is ignored");
            }
            Some(split.target)
        }
        Err(fault) => {
            found.violations.push(path, fault_message(&fault, "Upstream URL"));
            None
        }
    }
}

fn reference(fields: &Fields<'_>, names: &HashSet<String>, found: &mut Findings) -> Option<String> {
    let name = fields.text("ref", found)?;
    let message = if name.is_empty() {
        "Upstream reference is required".to_owned()
    } else if names.is_empty() {
        format!("Referenced upstream definition '{name}' not found: no upstreamDefinitions provided")
    } else if !names.contains(&name) {
        format!("Referenced upstream definition '{name}' not found in upstreamDefinitions")
    } else {
        return Some(name);
    };
    found.violations.push(fields.path("ref"), message);
    None
}

/// One definition. Its name counts as defined even when the rest is wrong, so that a
/// reference to it is not reported as well.
fn definition(
    fields: &Fields<'_>,
    names: &mut HashSet<String>,
    found: &mut Findings,
) -> Option<UpstreamDefinition> {
    fields.only(
        &[
            "name",
            "basePath",
            "timeout",
            "upstreams",
            "protocol",
            "endpoints",
            "loadBalancing",
            "outlierDetection",
            "circuitBreaker",
            "healthCheck",
            "tls",
        ],
        found,
    );
    let name = definition_name(fields, names, found);
    let base_path = fields.text("basePath", found).unwrap_or_default();
    if fields.has("basePath") && !is_base_path(&base_path) {
        found.violations.push(fields.path("basePath"), BASE_PATH);
    }
    let connect_timeout = connect_timeout(fields, found);
    let protocol = protocol(fields, found);
    let mut targets = Vec::new();
    let elements = fields.list("upstreams", MAX_TARGETS, found);
    if elements.is_empty() {
        found.violations.push(fields.path("upstreams"), "At least one upstream target is required");
    }
    for (path, value) in elements {
        targets.extend(target(&Fields::of(value, path, found), found));
    }
    if targets.windows(2).any(|pair| matches!(pair, [a, b] if a.url.scheme != b.url.scheme)) {
        let message = "All targets of a definition must use the same scheme, http or https";
        found.violations.push(fields.path("upstreams"), message);
    }
    if !targets.is_empty() && targets.iter().all(|target| target.weight == Some(0)) {
        found.warn(
            fields.path("upstreams"),
            "every weight is 0, so each request that goes to this definition is answered 503",
        );
    }
    let tls = upstream_tls::read(fields, found);
    if tls.is_some() && targets.iter().any(|target| target.url.scheme == Scheme::Http) {
        found.violations.push(fields.path("tls"), "Has no meaning for http targets");
    }
    let load_balancing = balancing::read(fields, found);
    Some(UpstreamDefinition {
        name,
        base_path,
        connect_timeout,
        targets,
        protocol,
        endpoints: endpoints(fields, found),
        load_balancing,
        outlier_detection: protection::outlier_detection(fields, found),
        circuit_breaker: protection::circuit_breaker(fields, found),
        health_check: health::read(fields, found),
        tls,
    })
}

/// An addition to the contract, whose targets are endpoints whatever their names resolve to.
fn endpoints(fields: &Fields<'_>, found: &mut Findings) -> Endpoints {
    match fields.text("endpoints", found).as_deref() {
        None | Some("per-target") => Endpoints::PerTarget,
        Some("per-address") => Endpoints::PerAddress,
        Some(_) => {
            let message = "Endpoints must be 'per-target' or 'per-address'";
            found.violations.push(fields.path("endpoints"), message);
            Endpoints::PerTarget
        }
    }
}

/// An addition to the contract, whose upstreams all speak HTTP/1.1.
fn protocol(fields: &Fields<'_>, found: &mut Findings) -> UpstreamProtocol {
    match fields.text("protocol", found).as_deref() {
        None | Some("http1") => UpstreamProtocol::Http1,
        Some("http2") => UpstreamProtocol::Http2,
        Some("auto") => UpstreamProtocol::Auto,
        Some(_) => {
            found
                .violations
                .push(fields.path("protocol"), "Upstream protocol must be 'http1', 'http2' or 'auto'");
            UpstreamProtocol::Http1
        }
    }
}

fn definition_name(fields: &Fields<'_>, names: &mut HashSet<String>, found: &mut Findings) -> String {
    let name = fields.text("name", found).unwrap_or_default();
    let path = fields.path("name");
    if name.is_empty() {
        found.violations.push(path, "Upstream definition name is required");
        return name;
    }
    if name.chars().count() > MAX_NAME_CHARS {
        found.violations.push(path.clone(), "Upstream definition name must be 1-100 characters");
    }
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')) {
        found.violations.push(
            path.clone(),
            "Upstream definition name must match ^[a-zA-Z0-9\\-_]+$ (letters, numbers, hyphens, underscores)",
        );
    }
    if !names.insert(name.clone()) {
        found.violations.push(path, format!("Duplicate upstream definition name '{name}'"));
    }
    name
}

/// `^/[a-zA-Z0-9\-._~!$&'()*+,;=:@%/]*[^/]$`, the last character being of the same set.
fn is_base_path(text: &str) -> bool {
    text.len() > 1
        && text.starts_with('/')
        && !text.ends_with('/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@%/".contains(c))
}

fn connect_timeout(fields: &Fields<'_>, found: &mut Findings) -> Option<Duration> {
    let timeout = fields.fields("timeout", found);
    timeout.only(&["connect"], found);
    let text = timeout.text("connect", found)?;
    match duration::parse_single(&text) {
        None => found.violations.push(timeout.path("connect"), TIMEOUT),
        Some(Duration::ZERO) => {
            found.violations.push(timeout.path("connect"), "Connect timeout must be positive");
        }
        Some(duration) => return Some(duration::whole_millis(duration)),
    }
    None
}

fn target(fields: &Fields<'_>, found: &mut Findings) -> Option<WeightedTarget> {
    fields.only(&["url", "weight", "zone"], found);
    let weight = weight(fields, found);
    let zone = zone(fields, found);
    let text = fields.text("url", found).unwrap_or_default();
    let path = fields.path("url");
    if text.is_empty() {
        found.violations.push(path, "URL is required");
        return None;
    }
    let split = match url::split(&text) {
        Ok(split) => split,
        Err(fault) => {
            found.violations.push(path, fault_message(&fault, "URL"));
            return None;
        }
    };
    for (wrong, message) in [
        (
            !split.target.base_path.is_empty(),
            "URL must not include a path; set the base path in upstreamDefinitions[].basePath instead",
        ),
        (split.has_query, "URL must not include a query string; only host[:port] is used"),
        (split.has_fragment, "URL must not include a fragment; only host[:port] is used"),
    ] {
        if wrong {
            found.violations.push(path.clone(), message);
        }
    }
    Some(WeightedTarget { url: split.target, weight, zone })
}

fn zone(fields: &Fields<'_>, found: &mut Findings) -> Option<String> {
    let zone = fields.text("zone", found)?;
    let fits = (1..=MAX_NAME_CHARS).contains(&zone.chars().count())
        && zone.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:".contains(c));
    if !fits {
        found.violations.push(fields.path("zone"), "Zone must be 1-100 letters, digits or any of - _ . / :");
        return None;
    }
    Some(zone)
}

fn weight(fields: &Fields<'_>, found: &mut Findings) -> Option<u8> {
    let value = fields.get("weight")?;
    let path = fields.path("weight");
    if !matches!(value, Value::Number(number) if !number.is_f64()) {
        found.mismatch(&path, "a whole number", value);
        return None;
    }
    match value.as_u64().filter(|weight| *weight <= MAX_WEIGHT).and_then(|weight| u8::try_from(weight).ok()) {
        Some(weight) => Some(weight),
        None => {
            found.violations.push(path, "Weight must be between 0 and 100");
            None
        }
    }
}

fn fault_message(fault: &UrlFault, subject: &str) -> String {
    match fault {
        UrlFault::Format(why) => format!("Invalid URL format: {why}"),
        UrlFault::Scheme => format!("{subject} must use http or https scheme"),
        UrlFault::NoHost => format!("{subject} must include a host"),
    }
}
