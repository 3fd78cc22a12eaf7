// SPDX-License-Identifier: Apache-2.0
//! Who the client is when proxies stand in front of us, and what we tell the upstream about it:
//! `X-Forwarded-For`, `-Proto`, `-Host`, `Forwarded` (RFC 7239) and `Via` (RFC 9110, 7.6.3). Only
//! entries that a trusted proxy wrote are believed, counted from the near end, because everything
//! further away may be the client's invention. Unconfigured, nothing is read or changed, as
//! contract 4.5 has it. `request` calls it once per request.

use std::fmt::Write;
use std::net::IpAddr;

use http::header::{FORWARDED, VIA};
use http::{HeaderMap, HeaderName, HeaderValue, Version};

use crate::config::Forwarding;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What is known of a request besides its headers.
pub struct Arrival<'a> {
    /// The other end of the connection.
    pub peer: IpAddr,
    /// Host and port as the client wrote them.
    pub authority: &'a str,
    /// The connection is TLS.
    pub https: bool,
    /// What the client spoke.
    pub version: Version,
}

/// Settles the headers for policies and upstream, and says who the client is.
pub fn settle(headers: &mut HeaderMap, settings: &Forwarding, arrival: &Arrival<'_>) -> IpAddr {
    if let Some(name) = &settings.via {
        note_via(headers, name, arrival.version);
    }
    let Some(hops) = settings.trusted_hops else { return arrival.peer };
    let told = trusted(headers, &X_FORWARDED_FOR, hops);
    let client = client(&told, arrival.peer, hops);
    let scheme = if arrival.https { "https" } else { "http" };

    // What came before the trusted entries is the client's word; nobody behind us should have to
    // tell it from the rest.
    let mut list = told.join(", ");
    if !list.is_empty() {
        list.push_str(", ");
    }
    write_ip(&mut list, arrival.peer, false);
    set(headers, X_FORWARDED_FOR, &list);
    if hops == 0 || !headers.contains_key(&X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
    }
    if hops == 0 || !headers.contains_key(&X_FORWARDED_HOST) {
        set(headers, X_FORWARDED_HOST, arrival.authority);
    }
    let mut elements = trusted(headers, &FORWARDED, hops);
    headers.remove(FORWARDED);
    if settings.rfc7239 {
        let mut own = String::from("for=");
        write_ip(&mut own, arrival.peer, true);
        // A quoted string holds what a host may be: it has neither quotes nor backslashes.
        let _infallible = write!(own, ";host=\"{}\";proto={scheme}", arrival.authority);
        elements.push(own);
        set(headers, FORWARDED, &elements.join(", "));
    }
    client
}

/// The entries that trusted proxies wrote: the last ones, in their order.
fn trusted(headers: &HeaderMap, name: &HeaderName, hops: usize) -> Vec<String> {
    if hops == 0 {
        return Vec::new();
    }
    let texts = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    let all: Vec<&str> = texts.flat_map(|text| text.split(',')).map(str::trim).collect();
    all.iter().skip(all.len().saturating_sub(hops)).map(|entry| (*entry).to_owned()).collect()
}

/// With `hops` proxies in front, the nearest of which is the peer, the client stands `hops`
/// entries before the end. An entry that is no address ends the search: what is before it was
/// said by somebody we cannot name.
fn client(told: &[String], peer: IpAddr, hops: usize) -> IpAddr {
    let mut client = peer;
    for entry in told.iter().rev().take(hops) {
        match address(entry) {
            Some(address) => client = address,
            None => break,
        }
    }
    client
}

/// An address with or without port and brackets.
fn address(entry: &str) -> Option<IpAddr> {
    let bare = entry.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(inside, _)| inside);
    let bare = bare.unwrap_or(entry);
    bare.parse().ok().or_else(|| entry.parse::<std::net::SocketAddr>().ok().map(|socket| socket.ip()))
}

fn write_ip(text: &mut String, ip: IpAddr, quoted: bool) {
    // Writing to a string cannot fail.
    let _infallible = match (ip, quoted) {
        (IpAddr::V6(ip), true) => write!(text, "\"[{ip}]\""),
        (ip, _) => write!(text, "{ip}"),
    };
}

/// Adds ourselves to the proxies that a message went through.
pub fn note_via(headers: &mut HeaderMap, name: &str, version: Version) {
    let protocol = match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    };
    let mut list = String::new();
    for value in headers.get_all(VIA) {
        if let Ok(text) = value.to_str() {
            list.push_str(text);
            list.push_str(", ");
        }
    }
    list.push_str(protocol);
    list.push(' ');
    list.push_str(name);
    set(headers, VIA, &list);
}

fn set(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    match HeaderValue::try_from(text) {
        Ok(value) => headers.insert(name, value),
        // Made of what was a header a moment ago; should it not be one, it must not pass either.
        Err(_) => headers.remove(name),
    };
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue, Version};

    use super::{Arrival, settle};
    use crate::config::Forwarding;

    fn check(
        hops: Option<usize>,
        sent: &[(&'static str, &'static str)],
        client: &str,
        expected: &[(&str, &str)],
    ) {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let settings = Forwarding { trusted_hops: hops, rfc7239: true, via: None };
        let peer = "10.0.0.9".parse().expect("an address");
        let arrival = Arrival { peer, authority: "books.example:80", https: true, version: Version::HTTP_11 };
        let found = settle(&mut headers, &settings, &arrival);
        assert_eq!(found.to_string(), client, "{hops:?} {sent:?}");
        let mut got: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("text"))).collect();
        got.sort_unstable();
        assert_eq!(got, expected, "{hops:?} {sent:?}");
    }

    const OWN: &str = "for=10.0.0.9;host=\"books.example:80\";proto=https";

    #[test]
    fn unconfigured_nothing_is_believed_or_changed() {
        let sent = [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-host", "x"), ("forwarded", "for=1.1.1.1")];
        let mut same = sent;
        same.sort_unstable();
        check(None, &sent, "10.0.0.9", &same);
    }

    #[test]
    fn without_trusted_proxies_the_peer_is_the_client_and_claims_are_dropped() {
        let sent = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "evil"),
            ("forwarded", "for=1.1.1.1"),
        ];
        check(
            Some(0),
            &sent,
            "10.0.0.9",
            &[
                ("forwarded", OWN),
                ("x-forwarded-for", "10.0.0.9"),
                ("x-forwarded-host", "books.example:80"),
                ("x-forwarded-proto", "https"),
            ],
        );
    }

    #[test]
    fn a_trusted_proxy_is_believed_and_what_it_was_told_is_not() {
        let forwarded = format!("for=3.3.3.3, {OWN}");
        let sent = [
            ("x-forwarded-for", "1.1.1.1, 2.2.2.2"),
            ("x-forwarded-for", "3.3.3.3"),
            ("x-forwarded-proto", "http"),
            ("forwarded", "for=9.9.9.9, for=3.3.3.3"),
        ];
        check(
            Some(1),
            &sent,
            "3.3.3.3",
            &[
                ("forwarded", &forwarded),
                ("x-forwarded-for", "3.3.3.3, 10.0.0.9"),
                ("x-forwarded-host", "books.example:80"),
                ("x-forwarded-proto", "http"),
            ],
        );
    }

    #[test]
    fn the_client_is_as_far_away_as_can_be_verified() {
        for (hops, list, client) in [
            (2, "1.1.1.1, 2.2.2.2, 3.3.3.3", "2.2.2.2"),
            (9, "1.1.1.1, 2.2.2.2", "1.1.1.1"),
            (2, "unknown, 3.3.3.3", "3.3.3.3"),
            (2, "2.2.2.2, unknown", "10.0.0.9"),
            (1, "[2001:db8::1]:443", "2001:db8::1"),
            (1, "2001:db8::1", "2001:db8::1"),
            (1, "3.3.3.3:1234", "3.3.3.3"),
            (1, "", "10.0.0.9"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", HeaderValue::from_static(list));
            let settings = Forwarding { trusted_hops: Some(hops), rfc7239: false, via: None };
            let peer = "10.0.0.9".parse().expect("an address");
            let arrival = Arrival { peer, authority: "h", https: false, version: Version::HTTP_2 };
            assert_eq!(settle(&mut headers, &settings, &arrival).to_string(), client, "{hops} {list}");
            assert!(!headers.contains_key("forwarded"));
        }
    }

    #[test]
    fn via_names_the_protocol_a_message_came_in() {
        let mut headers = HeaderMap::new();
        headers.append("via", HeaderValue::from_static("1.0 fred"));
        headers.append("via", HeaderValue::from_static("1.1 barney (x, y)"));
        super::note_via(&mut headers, "edge", Version::HTTP_2);
        let all: Vec<_> = headers.get_all("via").iter().collect();
        assert_eq!(all, ["1.0 fred, 1.1 barney (x, y), 2 edge"]);
    }
}
