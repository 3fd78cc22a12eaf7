// SPDX-License-Identifier: Apache-2.0
//! Upstream URLs in their parts. A small reader of its own: what it takes is only
//! `http` and `https` with a host, and what it refuses has fixed messages.

use std::net::Ipv6Addr;

use super::{Scheme, TargetUrl};
use crate::route::escape_at;

/// A URL in parts; userinfo is dropped, query and fragment are only noted.
pub(super) struct SplitUrl {
    pub(super) target: TargetUrl,
    pub(super) has_query: bool,
    pub(super) has_fragment: bool,
}

/// Why a URL was refused.
pub(super) enum UrlFault {
    /// Not a URL at all, and why.
    Format(&'static str),
    /// Neither http nor https.
    Scheme,
    /// No host.
    NoHost,
}

/// Splits and checks a URL.
pub(super) fn split(text: &str) -> Result<SplitUrl, UrlFault> {
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(UrlFault::Format("only printable ASCII characters without spaces are allowed"));
    }
    let (scheme, rest) = text.split_once("://").ok_or(UrlFault::Scheme)?;
    let (scheme, default_port) = match scheme.to_ascii_lowercase().as_str() {
        "http" => (Scheme::Http, 80),
        "https" => (Scheme::Https, 443),
        _ => return Err(UrlFault::Scheme),
    };
    let (rest, fragment) = cut(rest, '#');
    let (rest, query) = cut(rest, '?');
    let (authority, path) = match rest.find('/') {
        Some(start) => rest.split_at(start),
        None => (rest, ""),
    };
    let authority = authority.rsplit_once('@').map_or(authority, |(_userinfo, authority)| authority);
    let (host, port) = host_and_port(authority)?;
    if !path.chars().all(|c| c.is_ascii_alphanumeric() || "/-._~!$&'()*+,;=:@%".contains(c)) {
        return Err(UrlFault::Format("the path has a character that must be percent-encoded"));
    }
    if !path.match_indices('%').all(|(at, _)| path.get(at..).and_then(escape_at).is_some()) {
        return Err(UrlFault::Format("two hexadecimal digits must follow each percent sign of the path"));
    }
    Ok(SplitUrl {
        target: TargetUrl {
            scheme,
            host,
            port: port.unwrap_or(default_port),
            base_path: path.trim_end_matches('/').to_owned(),
        },
        has_query: query.is_some(),
        has_fragment: fragment.is_some(),
    })
}

fn host_and_port(authority: &str) -> Result<(String, Option<u16>), UrlFault> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or(UrlFault::Format("the bracket is not closed"))?;
        if address.parse::<Ipv6Addr>().is_err() {
            return Err(UrlFault::Format("the brackets do not hold an IPv6 address"));
        }
        let port = match port {
            "" => None,
            _ => Some(port.strip_prefix(':').ok_or(UrlFault::Format("a port follows a colon"))?),
        };
        (address, port)
    } else {
        let (host, port) = cut(authority, ':');
        if host.is_empty() {
            return Err(UrlFault::NoHost);
        }
        if host.len() > 253
            || !host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        {
            return Err(UrlFault::Format("the host is neither a host name nor an IP address"));
        }
        (host, port)
    };
    let port = match port {
        None | Some("") => None,
        Some(port) => {
            Some(port_number(port).ok_or(UrlFault::Format("the port is not a number from 1 to 65535"))?)
        }
    };
    Ok((host.to_ascii_lowercase(), port))
}

/// A port number other than 0, written in digits only.
pub(super) fn port_number(text: &str) -> Option<u16> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|port| *port != 0)
}

fn cut(text: &str, at: char) -> (&str, Option<&str>) {
    match text.split_once(at) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}
