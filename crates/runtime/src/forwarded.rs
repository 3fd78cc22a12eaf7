// SPDX-License-Identifier: Apache-2.0
//! Who the client is when proxies stand in front of us, and what we tell the upstream about it:
//! `X-Forwarded-For`, `-Proto`, `-Host`, `-Port`, `X-Real-IP`, `Forwarded` (RFC 7239) and `Via`
//! (RFC 9110, 7.6.3). Only entries that a trusted proxy wrote are believed, counted from the near
//! end, because everything further away may be the client's invention. Unconfigured, nothing is
//! read or changed, as contract 4.5 has it. `settle` calls it once per request, whichever codec
//! read it.

use std::fmt::Write;
use std::net::IpAddr;

use http::{HeaderValue, Version};

use crate::config::Forwarding;
use crate::h1::line::{Known, Present};
use crate::settle::{Arrival, Arriving};

/// Settles the headers for policies and upstream, and says who the client is.
pub fn settle(headers: &mut impl Arriving, settings: &Forwarding, arrival: &Arrival<'_>) -> IpAddr {
    if let Some(name) = &settings.via {
        note_via(headers, name, arrival.version);
    }
    let Some(hops) = settings.trusted_hops else { return arrival.peer };
    let told = trusted(headers, Known::ForwardedFor, hops);
    let client = client(&told, arrival.peer, hops);
    let scheme = if arrival.https { "https" } else { "http" };

    // What came before the trusted entries is the client's word; nobody behind us should have to
    // tell it from the rest.
    let mut list = told.join(", ");
    if !list.is_empty() {
        list.push_str(", ");
    }
    write_ip(&mut list, arrival.peer, false);
    set(headers, Known::ForwardedFor, &list);
    if hops == 0 || headers.value(Known::ForwardedProto).is_none() {
        headers.put(Known::ForwardedProto, HeaderValue::from_static(scheme));
    }
    if hops == 0 || headers.value(Known::ForwardedHost).is_none() {
        set(headers, Known::ForwardedHost, arrival.authority);
    }
    if hops == 0 {
        headers.take_out(Present::of(&[Known::ForwardedPort]));
    }
    if headers.value(Known::RealIp).is_some() {
        let mut address = String::new();
        write_ip(&mut address, client, false);
        set(headers, Known::RealIp, &address);
    }
    let mut elements = elements(headers, hops);
    headers.take_out(Present::of(&[Known::Forwarded]));
    if settings.rfc7239 {
        let mut own = String::from("for=");
        write_ip(&mut own, arrival.peer, true);
        // A quoted string holds what a host may be: it has neither quotes nor backslashes.
        let _infallible = write!(own, ";host=\"{}\";proto={scheme}", arrival.authority);
        elements.push(own);
        set(headers, Known::Forwarded, &elements.join(", "));
    }
    client
}

/// The entries that trusted proxies wrote: the last ones, in their order.
fn trusted(headers: &impl Arriving, known: Known, hops: usize) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    if hops > 0 {
        headers.values(known, |value| {
            let entries = text(value).into_iter().flat_map(|text| text.split(','));
            all.extend(entries.map(|entry| entry.trim().to_owned()));
        });
    }
    all.split_off(all.len().saturating_sub(hops))
}

/// The elements of `Forwarded` that trusted proxies wrote. One that is malformed is dropped, for it
/// would spoil the whole field for whoever reads it next, and what is before it as well: nobody
/// can tell where it began.
fn elements(headers: &impl Arriving, hops: usize) -> Vec<String> {
    let mut all = trusted(headers, Known::Forwarded, hops);
    let malformed = all.iter().rposition(|element| !is_element(element));
    all.split_off(malformed.map_or(0, |at| at + 1))
}

/// Whether this is a list of pairs (RFC 7239, 4), none of them empty. A quoted string with commas,
/// semicolons or backslashes, which no name or address needs, is taken for malformed.
fn is_element(text: &str) -> bool {
    let is_token = |text: &str| {
        let mark = |byte: u8| b"!#$%&'*+-.^_`|~".contains(&byte);
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || mark(byte))
    };
    let is_quoted = |text: &str| {
        let inside = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        inside.is_some_and(|inside| !inside.contains(['"', '\\']))
    };
    let is_pair = |pair: &str| {
        pair.trim()
            .split_once('=')
            .is_some_and(|(name, value)| is_token(name) && (is_token(value) || is_quoted(value)))
    };
    text.split(';').all(is_pair)
}

/// A value that is plain text; any other says nothing here.
fn text(value: &[u8]) -> Option<&str> {
    let plain = value.iter().all(|byte| (b' '..0x7F).contains(byte) || *byte == b'\t');
    std::str::from_utf8(value).ok().filter(|_| plain)
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
pub fn note_via(headers: &mut impl Arriving, name: &str, version: Version) {
    let protocol = match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    };
    let mut list = String::new();
    headers.values(Known::Via, |value| {
        if let Some(text) = text(value) {
            list.push_str(text);
            list.push_str(", ");
        }
    });
    list.push_str(protocol);
    list.push(' ');
    list.push_str(name);
    set(headers, Known::Via, &list);
}

fn set(headers: &mut impl Arriving, known: Known, text: &str) {
    match HeaderValue::try_from(text) {
        Ok(value) => headers.put(known, value),
        // Made of what was a header a moment ago; should it not be one, it must not pass either.
        Err(_) => headers.take_out(Present::of(&[known])),
    }
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
        let found = settle(&mut headers, &settings, &arrival());
        assert_eq!(found.to_string(), client, "{hops:?} {sent:?}");
        let mut got: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("text"))).collect();
        got.sort_unstable();
        assert_eq!(got, expected, "{hops:?} {sent:?}");
    }

    fn arrival() -> Arrival<'static> {
        let peer = "10.0.0.9".parse().expect("an address");
        let authority = "books.example:80";
        Arrival { peer, certificate: None, authority, https: true, version: Version::HTTP_11 }
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
            ("x-forwarded-port", "1"),
            ("x-real-ip", "1.1.1.1"),
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
                ("x-real-ip", "10.0.0.9"),
            ],
        );
    }

    #[test]
    fn what_is_no_element_of_forwarded_goes_with_all_before_it() {
        let own = |list: &str| if list.is_empty() { OWN.to_owned() } else { format!("{list}, {OWN}") };
        for (sent, kept) in [
            ("for=_a;;", ""),
            ("for=1.1.1.1, for, for=2.2.2.2", "for=2.2.2.2"),
            ("for=1.1.1.1:80", ""),
            ("for=\"a,b\"", ""),
            ("for=\"1", ""),
            ("", ""),
            ("For=\"[2001:db8::1]:80\";proto=http; by=_x", "For=\"[2001:db8::1]:80\";proto=http; by=_x"),
        ] {
            let expected = own(kept);
            let mut headers = HeaderMap::new();
            headers.append("forwarded", HeaderValue::from_static(sent));
            let settings = Forwarding { trusted_hops: Some(3), rfc7239: true, via: None };
            settle(&mut headers, &settings, &arrival());
            assert_eq!(headers["forwarded"], expected, "{sent}");
        }
    }

    #[test]
    fn a_trusted_proxy_is_believed_and_what_it_was_told_is_not() {
        let forwarded = format!("for=3.3.3.3, {OWN}");
        let sent = [
            ("x-forwarded-for", "1.1.1.1, 2.2.2.2"),
            ("x-forwarded-for", "3.3.3.3"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-port", "8443"),
            ("x-real-ip", "1.1.1.1"),
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
                ("x-forwarded-port", "8443"),
                ("x-forwarded-proto", "http"),
                ("x-real-ip", "3.3.3.3"),
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
            let version = Version::HTTP_2;
            let arrival = Arrival { peer, certificate: None, authority: "h", https: false, version };
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
