// SPDX-License-Identifier: Apache-2.0
//! The PROXY protocol, versions 1 and 2: the client's address, as the load balancer in front
//! saw it, told before the first byte of TLS or HTTP. Where it is configured every connection
//! must begin with it, because whoever may leave it out may also make it up. Parsing is pure and
//! bounded; [`read`] takes exactly the header's bytes off the socket. `conn` calls it first.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};

/// What version 2 begins with; no HTTP method and no TLS record does.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The longest line of version 1, its end included.
const MAX_LINE: usize = 107;

/// The longest addresses and attributes of version 2 that are read; longer ones are refused. The
/// attributes of the known load balancers take some hundred bytes.
const MAX_V2_BYTES: usize = 4096;

/// What a header says of the client: its address, or that the proxy speaks for itself.
pub type Client = Option<IpAddr>;

/// Why a connection's beginning is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Neither version begins so.
    #[error("no PROXY header")]
    Missing,
    /// Version 1, but not as it must be.
    #[error("a malformed PROXY line")]
    Line,
    /// Version 2, but not as it must be.
    #[error("a malformed binary PROXY header")]
    Binary,
    /// Version 2 with more than we read.
    #[error("a PROXY header of more than {MAX_V2_BYTES} bytes")]
    TooLong,
}

/// Reads the header from the beginning of a connection, and nothing beyond it.
///
/// # Errors
/// When the connection ends, the time is over or what comes is no header.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S, limit: Duration) -> io::Result<Client> {
    tokio::time::timeout(limit, read_header(stream)).await.map_err(|_| io::ErrorKind::TimedOut)?
}

async fn read_header<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Client> {
    let bad = |error: HeaderError| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut header = Vec::with_capacity(MAX_LINE);
    header.resize(SIGNATURE.len(), 0);
    stream.read_exact(&mut header).await?;
    if header == SIGNATURE {
        let mut rest = [0; 4];
        stream.read_exact(&mut rest).await?;
        let [command, family, high, low] = rest;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > MAX_V2_BYTES {
            return Err(bad(HeaderError::TooLong));
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        return parse_v2(command, family, &body).map_err(bad);
    }
    if !header.starts_with(b"PROXY ") {
        return Err(bad(HeaderError::Missing));
    }
    // Byte by byte, for the first byte after the line is not ours; once per connection.
    while !header.ends_with(b"\n") {
        if header.len() >= MAX_LINE {
            return Err(bad(HeaderError::Line));
        }
        header.push(stream.read_u8().await?);
    }
    parse_v1(&header).map_err(bad)
}

/// `PROXY TCP4 source destination source-port destination-port\r\n`
///
/// # Errors
/// When the line is anything else.
pub fn parse_v1(line: &[u8]) -> Result<Client, HeaderError> {
    let line = line.strip_suffix(b"\r\n").and_then(|line| std::str::from_utf8(line).ok());
    let mut words = line.ok_or(HeaderError::Line)?.split(' ');
    if words.next() != Some("PROXY") {
        return Err(HeaderError::Missing);
    }
    let family = words.next().ok_or(HeaderError::Line)?;
    if family == "UNKNOWN" {
        // What follows is to be ignored; the proxy speaks for itself, for example to check health.
        return Ok(None);
    }
    let rest: Vec<&str> = words.collect();
    let [source, destination, source_port, destination_port] = rest.as_slice() else {
        return Err(HeaderError::Line);
    };
    let address = |text: &str| -> Result<IpAddr, HeaderError> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| HeaderError::Line),
            "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| HeaderError::Line),
            _ => Err(HeaderError::Line),
        }
    };
    let port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok();
    let client = address(source)?;
    address(destination)?;
    if !port(source_port) || !port(destination_port) {
        return Err(HeaderError::Line);
    }
    Ok(Some(client))
}

/// What follows the signature: version and command, family and transport, addresses.
///
/// # Errors
/// When version or command is unknown, or the addresses are shorter than their family's.
pub fn parse_v2(version_command: u8, family: u8, body: &[u8]) -> Result<Client, HeaderError> {
    match version_command {
        // LOCAL: the proxy speaks for itself; addresses are to be ignored.
        0x20 => return Ok(None),
        0x21 => {}
        _ => return Err(HeaderError::Binary),
    }
    match family {
        // TCP over IPv4: two addresses, two ports.
        0x11 => match body.first_chunk::<4>() {
            Some(source) if body.len() >= 12 => Ok(Some(IpAddr::V4(Ipv4Addr::from(*source)))),
            _ => Err(HeaderError::Binary),
        },
        // TCP over IPv6.
        0x21 => match body.first_chunk::<16>() {
            Some(source) if body.len() >= 36 => Ok(Some(IpAddr::V6(Ipv6Addr::from(*source)))),
            _ => Err(HeaderError::Binary),
        },
        // Unspecified, or a family that carries no client we could name.
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => Ok(None),
        _ => Err(HeaderError::Binary),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{HeaderError, SIGNATURE, parse_v1, parse_v2, read};

    fn v2(version_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).expect("a short body").to_be_bytes();
        [&SIGNATURE[..], &[version_command, family], &length, body].concat()
    }

    #[test]
    fn lines_are_read_as_they_must_be_or_not_at_all() {
        for (line, expected) in [
            ("PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n", Ok(Some("192.0.2.7"))),
            ("PROXY TCP6 2001:db8::7 2001:db8::1 56324 443\r\n", Ok(Some("2001:db8::7"))),
            ("PROXY UNKNOWN\r\n", Ok(None)),
            ("PROXY UNKNOWN ff:: ff:: 1 2\r\n", Ok(None)),
            ("PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\n", Err(HeaderError::Line)),
            ("PROXY TCP4 192.0.2.7 198.51.100.1 56324\r\n", Err(HeaderError::Line)),
            ("PROXY TCP4 192.0.2.7 198.51.100.1 56324 443 9\r\n", Err(HeaderError::Line)),
            ("PROXY TCP4  192.0.2.7 198.51.100.1 56324 443\r\n", Err(HeaderError::Line)),
            ("PROXY TCP4 2001:db8::7 198.51.100.1 56324 443\r\n", Err(HeaderError::Line)),
            ("PROXY TCP4 192.0.2.7 198.51.100.1 +1 443\r\n", Err(HeaderError::Line)),
            ("PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n", Err(HeaderError::Line)),
            ("PROXY UDP4 192.0.2.7 198.51.100.1 1 2\r\n", Err(HeaderError::Line)),
            ("PROXY\r\n", Err(HeaderError::Line)),
            ("GET / HTTP/1.1\r\n", Err(HeaderError::Missing)),
        ] {
            let found = parse_v1(line.as_bytes());
            let expected = expected.map(|client| client.map(|text: &str| text.parse().expect("an address")));
            assert_eq!(found, expected, "{line:?}");
        }
    }

    #[test]
    fn binary_headers_are_read_by_their_family() {
        let mut v4 = vec![192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 4, 1, 0xbb];
        assert_eq!(parse_v2(0x21, 0x11, &v4), Ok(Some("192.0.2.7".parse().expect("an address"))));
        // Attributes may follow.
        v4.extend([4, 0, 1, 0]);
        assert!(parse_v2(0x21, 0x11, &v4).is_ok());
        let mut v6 = [0_u8; 36];
        v6[15] = 1;
        assert_eq!(parse_v2(0x21, 0x21, &v6), Ok(Some("::1".parse().expect("an address"))));
        assert_eq!(parse_v2(0x20, 0x11, &v4), Ok(None));
        assert_eq!(parse_v2(0x21, 0x00, &[]), Ok(None));
        for (version_command, family, length) in
            [(0x21, 0x11, 11), (0x21, 0x21, 35), (0x22, 0x11, 12), (0x11, 0x11, 12), (0x21, 0x41, 12)]
        {
            assert_eq!(parse_v2(version_command, family, &vec![1; length]), Err(HeaderError::Binary));
        }
    }

    #[tokio::test]
    async fn exactly_the_header_is_taken_from_the_socket() {
        let lines = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\nGET / ".to_vec();
        let binary =
            [v2(0x21, 0x11, &[192, 0, 2, 7, 1, 1, 1, 1, 0, 1, 0, 2, 9, 9]), b"GET / ".to_vec()].concat();
        for bytes in [lines, binary] {
            let mut left = bytes.as_slice();
            let client = read(&mut left, Duration::from_secs(5)).await.expect("a header");
            assert_eq!(client, Some("192.0.2.7".parse().expect("an address")));
            assert_eq!(left, b"GET / ");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_that_does_not_come_ends_the_connection() {
        let (mut ours, theirs) = tokio::io::duplex(64);
        let error = read(&mut ours, Duration::from_secs(5)).await.expect_err("silence");
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
        drop(theirs);
        let long = [SIGNATURE.to_vec(), vec![0x21, 0x11, 0xff, 0xff]].concat();
        for bytes in
            [long, vec![b'P'; 200], [b"PROXY ".to_vec(), vec![b'x'; 200]].concat(), SIGNATURE.to_vec()]
        {
            assert!(read(&mut bytes.as_slice(), Duration::from_secs(5)).await.is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0_u8..3) {
            let _any = parse_v1(&bytes);
            let _any = parse_v2(0x20 + kind, 0x11 * kind, &bytes);
        }
    }
}
