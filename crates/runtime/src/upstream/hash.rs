// SPDX-License-Identifier: Apache-2.0
//! Keys of requests and places of endpoints as numbers, equal on every runtime, worker and
//! release: what is hashed here decides where a client's requests go, and must not change
//! with a restart. It guards against nothing; whoever chooses the key chooses the endpoint.

use std::net::IpAddr;

use ferrogate_model::kinds::rest_api::HashKey;
use http::HeaderName;
use http::header::COOKIE;

use super::pick::Header;

/// What of a request is hashed, ready to be looked up.
#[derive(Clone, Debug)]
pub enum Key {
    /// A header's first value.
    Header(HeaderName),
    /// A cookie's value.
    Cookie(String),
    /// The client's address.
    ClientAddress,
}

impl Key {
    /// From the artifact's; `None` when the name is no header's, which validation excludes.
    #[must_use]
    pub fn new(key: &HashKey) -> Option<Key> {
        match key {
            HashKey::Header(name) => name.parse().ok().map(Key::Header),
            HashKey::Cookie(name) => Some(Key::Cookie(name.clone())),
            HashKey::ClientAddress => Some(Key::ClientAddress),
        }
    }

    /// The request's number; `None` when it lacks what is hashed.
    #[must_use]
    pub fn of(&self, header: Header<'_>, client: IpAddr) -> Option<u64> {
        match self {
            Key::Header(name) => header(name).map(of_bytes),
            Key::Cookie(name) => cookie(header, name).map(of_bytes),
            Key::ClientAddress => Some(match client.to_canonical() {
                IpAddr::V4(address) => of_bytes(&address.octets()),
                IpAddr::V6(address) => of_bytes(&address.octets()),
            }),
        }
    }
}

/// A cookie's value as the client sent it (RFC 6265, 5.4).
#[must_use]
pub fn cookie<'h>(header: Header<'h>, name: &str) -> Option<&'h [u8]> {
    let pairs = header(&COOKIE)?.split(|byte| *byte == b';');
    pairs.map(<[u8]>::trim_ascii).find_map(|pair| {
        let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
    })
}

/// FNV-1a, mixed: short and alike texts must not have alike numbers.
#[must_use]
pub fn of_bytes(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(hash)
}

/// Spreads a number over all 64 bits (the finaliser of MurmurHash3).
#[must_use]
pub const fn mix(mut number: u64) -> u64 {
    number ^= number >> 33;
    number = number.wrapping_mul(0xff51_afd7_ed55_8ccd);
    number ^= number >> 33;
    number = number.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    number ^ (number >> 33)
}

/// A number as a fraction between 0 and 1, neither included.
#[must_use]
pub fn fraction(number: u64) -> f64 {
    ((number >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
}
