// SPDX-License-Identifier: Apache-2.0
//! One header line of a head as it came: where its name and value stand in the bytes, and
//! which of the names that the gateway itself acts on it has. Classified once, while the
//! head is parsed, so that nothing on the hot path compares names again. `parse` makes
//! lines; `fields` offers them to policies; `compose` writes those that are left.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// A header line. Offsets are those of the head's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Where the name and the line begin.
    pub start: u32,
    /// Where the name ends: the colon.
    pub name_end: u32,
    /// The value, without the white space around it.
    pub value_start: u32,
    /// Where the value ends.
    pub value_end: u32,
    /// Where the next line begins.
    pub end: u32,
    /// It reads `name: value` with nothing to spare, so that its bytes can go out as they came.
    pub plain: bool,
    /// Which name it is.
    pub known: Known,
    /// What became of it.
    pub fate: Fate,
}

/// What became of a header line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Kept,
    /// The gateway took it out on arrival: policies never see it.
    Settled,
    /// A policy took it out: it stays visible as what the client sent.
    Removed,
}

/// The names that the gateway acts on itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Any other.
    Other,
    /// `connection`
    Connection,
    /// `content-length`
    ContentLength,
    /// `content-type`
    ContentType,
    /// `cookie`
    Cookie,
    /// `date`
    Date,
    /// `expect`
    Expect,
    /// `forwarded`
    Forwarded,
    /// `host`
    Host,
    /// `keep-alive`
    KeepAlive,
    /// `proxy-connection`
    ProxyConnection,
    /// `server`
    Server,
    /// `te`
    Te,
    /// `trailer`
    Trailer,
    /// `transfer-encoding`
    TransferEncoding,
    /// `upgrade`
    Upgrade,
    /// `user-agent`
    UserAgent,
    /// `via`
    Via,
    /// `x-envoy-expected-rq-timeout-ms`
    ExpectedTimeout,
    /// `x-envoy-original-path`
    OriginalPath,
    /// `x-envoy-upstream-service-time`
    ServiceTime,
    /// `x-forwarded-for`
    ForwardedFor,
    /// `x-forwarded-host`
    ForwardedHost,
    /// `x-forwarded-port`
    ForwardedPort,
    /// `x-forwarded-proto`
    ForwardedProto,
    /// `x-real-ip`
    RealIp,
    /// `x-request-id`
    RequestId,
    /// `x-target-upstream`
    TargetUpstream,
}

/// Which known names a head has, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Present(u32);

impl Known {
    /// The name that this token spells, in whatever case.
    #[must_use]
    pub fn of(name: &[u8]) -> Known {
        match name.len() {
            2 => spelt(name, [(b"te", Known::Te)]),
            3 => spelt(name, [(b"via", Known::Via)]),
            4 => spelt(name, [(b"host", Known::Host), (b"date", Known::Date)]),
            6 => spelt(
                name,
                [(b"cookie", Known::Cookie), (b"expect", Known::Expect), (b"server", Known::Server)],
            ),
            7 => spelt(name, [(b"upgrade", Known::Upgrade), (b"trailer", Known::Trailer)]),
            9 => spelt(name, [(b"forwarded", Known::Forwarded), (b"x-real-ip", Known::RealIp)]),
            10 => spelt(
                name,
                [
                    (b"connection", Known::Connection),
                    (b"keep-alive", Known::KeepAlive),
                    (b"user-agent", Known::UserAgent),
                ],
            ),
            12 => spelt(name, [(b"x-request-id", Known::RequestId), (b"content-type", Known::ContentType)]),
            14 => spelt(name, [(b"content-length", Known::ContentLength)]),
            15 => spelt(name, [(b"x-forwarded-for", Known::ForwardedFor)]),
            16 => spelt(
                name,
                [
                    (b"proxy-connection", Known::ProxyConnection),
                    (b"x-forwarded-host", Known::ForwardedHost),
                    (b"x-forwarded-port", Known::ForwardedPort),
                ],
            ),
            17 => spelt(
                name,
                [
                    (b"transfer-encoding", Known::TransferEncoding),
                    (b"x-forwarded-proto", Known::ForwardedProto),
                    (b"x-target-upstream", Known::TargetUpstream),
                ],
            ),
            21 => spelt(name, [(b"x-envoy-original-path", Known::OriginalPath)]),
            29 => spelt(name, [(b"x-envoy-upstream-service-time", Known::ServiceTime)]),
            30 => spelt(name, [(b"x-envoy-expected-rq-timeout-ms", Known::ExpectedTimeout)]),
            _ => Known::Other,
        }
    }

    /// The name as maps have it; none of [`Known::Other`], which can be any. Made by the compiler,
    /// not anew for each request.
    #[inline]
    #[must_use]
    pub const fn name(self) -> Option<HeaderName> {
        Some(match self {
            Known::Other => return None,
            Known::Connection => header::CONNECTION,
            Known::ContentLength => header::CONTENT_LENGTH,
            Known::ContentType => header::CONTENT_TYPE,
            Known::Cookie => header::COOKIE,
            Known::Date => header::DATE,
            Known::Expect => header::EXPECT,
            Known::Forwarded => header::FORWARDED,
            Known::Host => header::HOST,
            Known::KeepAlive => const { HeaderName::from_static("keep-alive") },
            Known::ProxyConnection => const { HeaderName::from_static("proxy-connection") },
            Known::Server => header::SERVER,
            Known::Te => header::TE,
            Known::Trailer => header::TRAILER,
            Known::TransferEncoding => header::TRANSFER_ENCODING,
            Known::Upgrade => header::UPGRADE,
            Known::UserAgent => header::USER_AGENT,
            Known::Via => header::VIA,
            Known::ExpectedTimeout => const { HeaderName::from_static("x-envoy-expected-rq-timeout-ms") },
            Known::OriginalPath => const { HeaderName::from_static("x-envoy-original-path") },
            Known::ServiceTime => const { HeaderName::from_static("x-envoy-upstream-service-time") },
            Known::ForwardedFor => const { HeaderName::from_static("x-forwarded-for") },
            Known::ForwardedHost => const { HeaderName::from_static("x-forwarded-host") },
            Known::ForwardedPort => const { HeaderName::from_static("x-forwarded-port") },
            Known::RealIp => const { HeaderName::from_static("x-real-ip") },
            Known::ForwardedProto => const { HeaderName::from_static("x-forwarded-proto") },
            Known::RequestId => const { HeaderName::from_static("x-request-id") },
            Known::TargetUpstream => const { HeaderName::from_static("x-target-upstream") },
        })
    }
}

impl Present {
    /// The set of these names.
    #[must_use]
    pub const fn of(names: &[Known]) -> Present {
        let mut bits = 0;
        let mut at = 0;
        while at < names.len() {
            bits |= 1 << names[at] as u32;
            at += 1;
        }
        Present(bits)
    }

    /// Adds a name.
    pub fn add(&mut self, known: Known) {
        self.0 |= 1 << known as u32;
    }

    /// These and `others`.
    #[must_use]
    pub const fn and(self, others: Present) -> Present {
        Present(self.0 | others.0)
    }

    /// Whether any of `others` is here.
    #[must_use]
    pub const fn any(self, others: Present) -> bool {
        self.0 & others.0 != 0
    }

    /// Whether this name is here.
    #[must_use]
    pub const fn has(self, known: Known) -> bool {
        self.0 & (1 << known as u32) != 0
    }
}

impl Line {
    /// The name as it was spelt.
    #[must_use]
    pub fn name<'b>(&self, raw: &'b [u8]) -> &'b [u8] {
        slice(raw, self.start, self.name_end)
    }

    /// The value.
    #[must_use]
    pub fn value<'b>(&self, raw: &'b [u8]) -> &'b [u8] {
        slice(raw, self.value_start, self.value_end)
    }

    /// Whether the line has this name.
    #[must_use]
    pub fn is(&self, raw: &[u8], name: &HeaderName) -> bool {
        self.name(raw).eq_ignore_ascii_case(name.as_str().as_bytes())
    }
}

/// Header lines as a map; the values share the bytes.
///
/// # Errors
/// When a line is none, which `parse` saw to.
pub fn map_of(raw: &Bytes, lines: &[Line]) -> Result<HeaderMap, http::Error> {
    let mut headers = HeaderMap::with_capacity(lines.len());
    for line in lines {
        let name = match line.known.name() {
            Some(name) => name,
            None => HeaderName::from_bytes(line.name(raw))?,
        };
        let value = raw.slice(line.value_start as usize..line.value_end as usize);
        headers.append(name, HeaderValue::from_maybe_shared(value)?);
    }
    Ok(headers)
}

/// Which of some names of one length this token is. Each is compared as a whole, a few words at a
/// time, and not byte by byte. One bit makes letters lower-case and leaves the dash; the only other
/// byte that it makes one of these is a carriage return, which no line has.
fn spelt<const N: usize, const NAMES: usize>(name: &[u8], names: [(&[u8; N], Known); NAMES]) -> Known {
    let Ok(name) = <[u8; N]>::try_from(name) else { return Known::Other };
    let lower = name.map(|byte| byte | 0x20);
    names.iter().find(|(text, _)| lower == **text).map_or(Known::Other, |(_, known)| *known)
}

fn slice(raw: &[u8], start: u32, end: u32) -> &[u8] {
    raw.get(start as usize..end as usize).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{Known, Present};

    /// Every name but [`Known::Other`].
    const ALL: [Known; 27] = [
        Known::Connection,
        Known::ContentLength,
        Known::ContentType,
        Known::Cookie,
        Known::Date,
        Known::Expect,
        Known::Forwarded,
        Known::Host,
        Known::KeepAlive,
        Known::ProxyConnection,
        Known::Server,
        Known::Te,
        Known::Trailer,
        Known::TransferEncoding,
        Known::Upgrade,
        Known::UserAgent,
        Known::Via,
        Known::ExpectedTimeout,
        Known::OriginalPath,
        Known::ServiceTime,
        Known::ForwardedFor,
        Known::ForwardedHost,
        Known::ForwardedPort,
        Known::ForwardedProto,
        Known::RealIp,
        Known::RequestId,
        Known::TargetUpstream,
    ];

    #[test]
    fn names_are_known_in_any_case() {
        for (text, known) in [
            ("TE", Known::Te),
            ("Host", Known::Host),
            ("host ", Known::Other),
            ("CONTENT-LENGTH", Known::ContentLength),
            ("X-Envoy-Upstream-Service-Time", Known::ServiceTime),
            ("x-envoy-expected-rq-timeout-ms", Known::ExpectedTimeout),
            ("x-envoy-original-path", Known::OriginalPath),
            ("content_length", Known::Other),
            ("", Known::Other),
        ] {
            assert_eq!(Known::of(text.as_bytes()), known, "{text}");
        }
        for known in ALL {
            let name = known.name().expect("a name");
            assert_eq!(Known::of(name.as_str().as_bytes()), known, "{name}");
            assert!(Present::of(&[known]).has(known));
        }
        assert_eq!(Known::TargetUpstream as usize, ALL.len(), "the last of them all");
        let mut present = Present::default();
        present.add(Known::TargetUpstream);
        assert!(present.has(Known::TargetUpstream) && !present.has(Known::Host));
        assert!(present.any(Present::of(&[Known::Host, Known::TargetUpstream])));
    }
}
