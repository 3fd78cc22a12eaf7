// SPDX-License-Identifier: Apache-2.0
//! The headers of a request as policies first see them (contract 4.5): what belongs to the
//! client's connection or is not the client's to say is taken out, what must be there is put in,
//! and who the client is gets settled. The rules stand here once, over [`Arriving`], which
//! hyper's maps and the hot path's lines both are; a test holds the two to the same outcome.
//! `request` and `h1::arrival` call [`request`].

use std::net::IpAddr;

use ferrogate_policy::ClientCertificate;
use http::{HeaderMap, HeaderName, HeaderValue, Version};

use crate::config::Config;
use crate::h1::line::{Known, Present};
use crate::tls::identity;
use crate::{forwarded, hop};

/// A longer request id is replaced: it stands in every log line on the way.
const MAX_REQUEST_ID_BYTES: usize = 256;

/// What clients may not set: the gateway tells it to upstreams, `x-target-upstream` stands for it
/// where policies live in another process, and `expect` was answered here.
const NOT_FOR_CLIENTS: Present =
    Present::of(&[Known::OriginalPath, Known::ExpectedTimeout, Known::TargetUpstream, Known::Expect]);

/// The headers of a message before any policy sees them, as its codec keeps them.
pub trait Arriving {
    /// The first value.
    fn value(&self, known: Known) -> Option<&[u8]>;

    /// Calls `visit` with every value, in order.
    fn values(&self, known: Known, visit: impl FnMut(&[u8]));

    /// Takes out every value of these.
    fn take_out(&mut self, gone: Present);

    /// Takes out what `connection` lists (RFC 9110, 7.6.1), but for what frames or addresses the
    /// message, which is not the sender's to hide.
    fn take_out_listed(&mut self);

    /// Puts this in the place of every value.
    fn put(&mut self, known: Known, value: HeaderValue);

    /// Puts this, or nothing, in the place of every value of a header that the operator named.
    fn put_named(&mut self, name: &HeaderName, value: Option<HeaderValue>);
}

/// What is known of a request besides its headers.
pub struct Arrival<'a> {
    /// The other end of the connection.
    pub peer: IpAddr,
    /// Who it has proved to be, if it has.
    pub certificate: Option<&'a ClientCertificate>,
    /// Host and port as the client wrote them.
    pub authority: &'a str,
    /// The connection is TLS.
    pub https: bool,
    /// What the client spoke.
    pub version: Version,
}

/// What was settled beside the headers.
pub struct Settled {
    /// Who the client is, as far as can be verified.
    pub client: IpAddr,
    /// The request id made here; without one the client's stands in the headers.
    pub made_id: Option<MadeId>,
}

/// A request id of our own: the text of a UUID.
#[derive(Clone, Copy)]
pub struct MadeId([u8; 36]);

/// Settles a request's headers.
pub fn request(headers: &mut impl Arriving, config: &Config, arrival: &Arrival<'_>) -> Settled {
    hop::strip(headers, NOT_FOR_CLIENTS);
    join_cookies(headers);
    let scheme = headers.value(Known::ForwardedProto);
    if !scheme.is_some_and(|scheme| scheme == b"http" || scheme == b"https") {
        let scheme = HeaderValue::from_static(if arrival.https { "https" } else { "http" });
        headers.put(Known::ForwardedProto, scheme);
    }
    let made_id = request_id(headers);
    let client = forwarded::settle(headers, &config.forwarding, arrival);
    if let Some(name) = &config.downstream_tls.client_certificate_header {
        headers.put_named(name, arrival.certificate.and_then(identity::header));
    }
    Settled { client, made_id }
}

impl MadeId {
    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Digits and hyphens.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// One cookie header: HTTP/2 may split cookies to compress them, and HTTP/1.1 upstreams expect
/// one (RFC 6265, 5.4; RFC 9113, 8.2.3).
fn join_cookies(headers: &mut impl Arriving) {
    if headers.value(Known::Cookie).is_none() {
        return;
    }
    let mut count = 0;
    headers.values(Known::Cookie, |_| count += 1);
    if count < 2 {
        return;
    }
    let mut joined = Vec::new();
    headers.values(Known::Cookie, |value| {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(value);
    });
    if let Ok(joined) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        headers.put(Known::Cookie, joined);
    }
}

/// Keeps the client's `x-request-id` if it is good for a log, and makes one otherwise.
fn request_id(headers: &mut impl Arriving) -> Option<MadeId> {
    let good = |id: &[u8]| {
        (1..=MAX_REQUEST_ID_BYTES).contains(&id.len())
            && id.iter().all(|byte| *byte == b'\t' || (b' '..0x7f).contains(byte))
    };
    if let Some(sent) = headers.value(Known::RequestId).filter(|id| good(id)) {
        let mut count = 0;
        headers.values(Known::RequestId, |_| count += 1);
        // Of several the first names the request here, so it is the one that goes on.
        if count > 1
            && let Ok(first) = HeaderValue::from_bytes(sent)
        {
            headers.put(Known::RequestId, first);
        }
        return None;
    }
    // It names a request and protects nothing, so a fast generator does.
    let made = uuid::Builder::from_random_bytes(fastrand::u128(..).to_be_bytes()).into_uuid();
    let mut text = [0; 36];
    made.hyphenated().encode_lower(&mut text);
    if let Ok(value) = HeaderValue::from_bytes(&text) {
        headers.put(Known::RequestId, value);
    }
    Some(MadeId(text))
}

impl Arriving for HeaderMap {
    fn value(&self, known: Known) -> Option<&[u8]> {
        self.get(known.name()?).map(HeaderValue::as_bytes)
    }

    fn values(&self, known: Known, visit: impl FnMut(&[u8])) {
        let all = known.name().into_iter().flat_map(|name| self.get_all(name));
        all.map(HeaderValue::as_bytes).for_each(visit);
    }

    fn take_out(&mut self, gone: Present) {
        // To tell a name costs less than to hash one, and few heads have any of these.
        let found = self.keys().filter(|name| gone.has(Known::of(name.as_str().as_bytes())));
        let found: smallvec::SmallVec<[HeaderName; 4]> = found.cloned().collect();
        for name in found {
            self.remove(name);
        }
    }

    fn take_out_listed(&mut self) {
        let mut listed: smallvec::SmallVec<[HeaderName; 4]> = smallvec::SmallVec::new();
        for value in self.get_all(http::header::CONNECTION) {
            listed.extend(hop::listed(value.as_bytes()).filter_map(|name| HeaderName::from_bytes(name).ok()));
        }
        for name in listed {
            self.remove(name);
        }
    }

    fn put(&mut self, known: Known, value: HeaderValue) {
        if let Some(name) = known.name() {
            self.insert(name, value);
        }
    }

    fn put_named(&mut self, name: &HeaderName, value: Option<HeaderValue>) {
        match value {
            Some(value) => self.insert(name, value),
            None => self.remove(name),
        };
    }
}

#[cfg(test)]
mod tests {
    use ferrogate_policy::ClientCertificate;
    use http::{HeaderMap, HeaderName, HeaderValue, Version};
    use proptest::{prop_assert, prop_assert_eq, proptest};

    use super::{Arrival, Settled, request};
    use crate::config::{Config, Forwarding};
    use crate::h1::fields::{Fields, Lists};
    use crate::h1::parse::{self, HeadLimits};

    fn map(sent: &[(String, String)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in sent {
            let name = HeaderName::try_from(name.as_str()).expect("a name");
            map.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
        }
        map
    }

    fn arrival(https: bool) -> Arrival<'static> {
        let peer = "10.0.0.9".parse().expect("an address");
        Arrival { peer, certificate: None, authority: "books.example", https, version: Version::HTTP_11 }
    }

    #[test]
    fn clients_cannot_set_what_the_gateway_tells_upstreams() {
        let mut headers = HeaderMap::new();
        for name in ["x-envoy-original-path", "x-envoy-expected-rq-timeout-ms", "x-target-upstream", "expect"]
        {
            headers.insert(name, HeaderValue::from_static("1"));
        }
        headers.append("cookie", HeaderValue::from_static("a=1"));
        headers.append("cookie", HeaderValue::from_static("b=2"));
        headers.insert("x-forwarded-proto", HeaderValue::from_static("gopher"));
        let config = Config::default();
        let made = request(&mut headers, &config, &arrival(true)).made_id.expect("an id of our own");
        assert_eq!(headers["x-request-id"], made.as_str());
        assert_eq!(made.as_str().len(), 36);
        assert_eq!(headers["cookie"], "a=1; b=2");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers.len(), 3, "{headers:?}");

        headers.insert("x-request-id", HeaderValue::from_static("mine"));
        headers.append("x-request-id", HeaderValue::from_static("another"));
        assert!(request(&mut headers, &config, &arrival(true)).made_id.is_none());
        assert!(headers.get_all("x-request-id").iter().eq(["mine"]));
    }

    proptest! {
        /// The rules are one; what they work on is two.
        #[test]
        fn both_codecs_leave_the_same_headers(
            sent in proptest::collection::vec(
                (
                    "(Host|Connection|connection|Keep-Alive|TE|Upgrade|Expect|Cookie|cookie|X-A|x-b|\
                      X-Request-Id|X-Forwarded-Proto|X-Forwarded-For|x-forwarded-for|X-Forwarded-Host|\
                      X-Forwarded-Port|X-Real-IP|x-real-ip|Forwarded|Via|X-Client-Cert|Proxy-Connection|x-target-upstream|close|\
                      x-envoy-original-path|X-Envoy-Expected-Rq-Timeout-Ms|Content-Length|User-Agent)",
                    "(close|keep-alive, X-A|x-b,,te|host, content-length, via|x-forwarded-for|http|https|\
                      gopher|a=1|7|\u{e9}|::1|2::2, 3::3|for=2::2|for=_a;by=\"b\"|for=_a;;|1 inner|)",
                ),
                0..12,
            ),
            trusted_hops in proptest::option::of(0_usize..3),
            rfc7239: bool,
            via: bool,
            tells: bool,
            proven: bool,
            https: bool,
        ) {
            let via = via.then(|| "edge".to_owned());
            let mut config =
                Config { forwarding: Forwarding { trusted_hops, rfc7239, via }, ..Config::default() };
            config.downstream_tls.client_certificate_header =
                tells.then(|| HeaderName::from_static("x-client-cert"));
            let certificate = ClientCertificate { subject: "CN=ann".into(), ..ClientCertificate::default() };
            let arrival = Arrival { certificate: proven.then_some(&certificate), ..arrival(https) };
            let mut sent = sent;
            sent.insert(0, ("X-Request-Id".to_owned(), "fixed".to_owned()));

            let mut lines = String::from("GET / HTTP/1.1\r\n");
            lines.extend(sent.iter().map(|(name, value)| format!("{name}: {value}\r\n")));
            lines.push_str("\r\n");
            let mut lists = Lists::default();
            let limits = HeadLimits { max_fields: 64 };
            let head = parse::request(lines.as_bytes(), limits, &mut lists.lines);
            let head = head.expect("a head").expect("all of it");
            let mut own = Fields::new(lines.as_bytes(), head.present, lists);
            let Settled { client, made_id } = request(&mut own, &config, &arrival);
            let mut ours = Vec::new();
            own.all(&mut |name, value| {
                ours.push((name.to_owned(), String::from_utf8_lossy(value).into_owned()));
            });

            let mut map = map(&sent);
            let settled = request(&mut map, &config, &arrival);
            let theirs = map.iter().map(|(name, value)| {
                (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
            });
            let mut theirs: Vec<(String, String)> = theirs.collect();
            ours.sort();
            theirs.sort();
            prop_assert_eq!(ours, theirs);
            prop_assert_eq!(client, settled.client);
            prop_assert!(made_id.is_none() && settled.made_id.is_none());
        }
    }
}
