// SPDX-License-Identifier: Apache-2.0
//! The chunked transfer coding, both ways (RFC 9112, 7.1). The decoder takes bytes as they
//! come, cut anywhere, and tells which of them are data; sizes are plain hexadecimal,
//! extensions are read over within a limit, the trailer section is kept within one. It never
//! panics and allocates for trailers only. `flow` drives it.

use bytes::Bytes;
use http::HeaderMap;

use super::line::{self, Line};
use super::parse::{self, HeadLimits};
use crate::hop;

/// Hexadecimal digits of a chunk's size: beyond that no body can be.
const MAX_SIZE_DIGITS: u8 = 15;

/// Bytes of extensions in all chunks of a message. Nobody uses them; a sender of more means
/// to keep us busy.
const MAX_EXTENSION_BYTES: u16 = 4096;

/// Bytes of a trailer section.
const MAX_TRAILER_BYTES: usize = 8192;

/// Lines of a trailer section.
const TRAILERS: HeadLimits = HeadLimits { max_fields: 64 };

/// Reads chunks.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
    /// Of the size: read so far; of the data: still to come.
    left: u64,
    digits: u8,
    extensions: u16,
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailers,
    Done,
}

/// What some bytes turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes used up before the data.
    pub skip: usize,
    /// Bytes of data after those; they are used up as well.
    pub data: usize,
}

/// The chunks are not acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

impl Decoder {
    /// Whether the last chunk and its trailers have been read.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Uses up bytes until the next data, the end of the body or the end of the input. With
    /// neither data nor the end the input is used up whole.
    ///
    /// # Errors
    /// At the first byte that cannot be.
    pub fn step(&mut self, input: &[u8]) -> Result<Step, Malformed> {
        let mut skip = 0;
        while let Some(byte) = input.get(skip) {
            match self.state {
                State::Done => break,
                State::Data => {
                    let here = input.len() - skip;
                    let data = usize::try_from(self.left).map_or(here, |left| left.min(here));
                    self.left -= data as u64;
                    if self.left == 0 {
                        self.state = State::DataCr;
                    }
                    return Ok(Step { skip, data });
                }
                _ => self.frame(*byte)?,
            }
            skip += 1;
        }
        Ok(Step { skip, data: 0 })
    }

    fn frame(&mut self, byte: u8) -> Result<(), Malformed> {
        self.state = match (self.state, byte) {
            (State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                self.digits += 1;
                if self.digits > MAX_SIZE_DIGITS {
                    return Err(Malformed("a chunk's size has too many digits"));
                }
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                self.left = self.left << 4 | u64::from(digit);
                State::Size
            }
            (State::Size, _) if self.digits == 0 => return Err(Malformed("a chunk without a size")),
            (State::Size | State::Extension, b'\r') => State::SizeLf,
            (State::Size, b';') => State::Extension,
            (State::Extension, b'\t' | b' '..=b'~' | 0x80..) => {
                self.extensions += 1;
                if self.extensions > MAX_EXTENSION_BYTES {
                    return Err(Malformed("chunk extensions are too long"));
                }
                State::Extension
            }
            (State::SizeLf, b'\n') => {
                self.digits = 0;
                if self.left == 0 { State::Trailers } else { State::Data }
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size,
            (State::Trailers, _) => return self.trailer(byte),
            _ => return Err(Malformed("a chunk is not framed as it must be")),
        };
        Ok(())
    }

    fn trailer(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.trailers.len() >= MAX_TRAILER_BYTES {
            return Err(Malformed("the trailers are too long"));
        }
        self.trailers.push(byte);
        if byte == b'\n' && (self.trailers == b"\r\n" || self.trailers.ends_with(b"\r\n\r\n")) {
            let read = parse::fields(&self.trailers, 0, TRAILERS, &mut Vec::new());
            // An empty line in the middle ended them earlier; bytes would be left.
            if !matches!(read, Ok(Some((_, end))) if end == self.trailers.len()) {
                return Err(Malformed("a trailer is not a header line"));
            }
            self.state = State::Done;
        } else if byte == b'\n' && !self.trailers.ends_with(b"\r\n") {
            return Err(Malformed("a trailer ends in a bare line feed"));
        }
        Ok(())
    }

    /// The trailers, once they have been read.
    #[must_use]
    pub fn trailers(&self) -> HeaderMap {
        line::map_of(&Bytes::copy_from_slice(&self.trailers), &self.trailer_lines()).unwrap_or_default()
    }

    fn trailer_lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        // They were found to be good when they were complete.
        match parse::fields(&self.trailers, 0, TRAILERS, &mut lines) {
            Ok(Some(_)) => lines,
            Ok(None) | Err(_) => Vec::new(),
        }
    }

    /// Writes the last chunk and, of the `declared` trailers (as `trailer` lists them), those that
    /// may pass.
    pub fn write_end(&self, out: &mut Vec<u8>, declared: &[u8]) {
        out.extend_from_slice(b"0\r\n");
        let lines = if declared.is_empty() { Vec::new() } else { self.trailer_lines() };
        let is_declared = |name: &[u8]| {
            let mut names = declared.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            names.any(|declared| declared.eq_ignore_ascii_case(name))
        };
        for line in &lines {
            let name = line.name(&self.trailers);
            if is_declared(name) && hop::may_trail(name) {
                out.extend_from_slice(name);
                out.extend_from_slice(b": ");
                out.extend_from_slice(line.value(&self.trailers));
                out.extend_from_slice(b"\r\n");
            }
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Writes one chunk.
pub fn write_chunk(out: &mut Vec<u8>, data: &[u8]) {
    write_size(out, data.len());
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

/// Writes a chunk's size line.
fn write_size(out: &mut Vec<u8>, size: usize) {
    let mut digits = [0; 16];
    let mut at = digits.len();
    let mut rest = size;
    for place in digits.iter_mut().rev() {
        *place = b"0123456789abcdef".get(rest & 15).copied().unwrap_or_default();
        at -= 1;
        rest >>= 4;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(at..).unwrap_or_default());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::any;
    use proptest::{prop_assert, prop_assert_eq, proptest};

    use super::{Decoder, Malformed, write_chunk};

    /// The data of these bytes, given in pieces of these lengths, and what is left over.
    fn decode(bytes: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, Decoder, usize), Malformed> {
        let (mut decoder, mut data, mut used) = (Decoder::default(), Vec::new(), 0);
        let mut pieces = Vec::new();
        let mut rest = bytes;
        for cut in cuts {
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces.push(rest);
        for piece in pieces {
            let mut at = 0;
            while at < piece.len() && !decoder.is_done() {
                let step = decoder.step(&piece[at..])?;
                data.extend_from_slice(&piece[at + step.skip..at + step.skip + step.data]);
                at += step.skip + step.data;
            }
            used += at;
        }
        Ok((data, decoder, bytes.len() - used))
    }

    fn end(decoder: &Decoder, declared: &str) -> String {
        let mut out = Vec::new();
        decoder.write_end(&mut out, declared.as_bytes());
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn chunks_are_their_data_and_nothing_of_the_next_message() {
        let text = b"3;a=\"b\"\r\nabc\r\n0A\r\n0123456789\r\n0\r\nX-Sum: 7\r\nContent-Length: 1\r\n\r\nGET /";
        let (data, decoder, left) = decode(text, &[]).expect("chunks");
        assert_eq!((data.as_slice(), decoder.is_done(), left), (&b"abc0123456789"[..], true, 5));
        assert_eq!(end(&decoder, "a, x-sum , content-length"), "0\r\nX-Sum: 7\r\n\r\n");
        assert_eq!(end(&decoder, "x-other"), "0\r\n\r\n", "not declared");
        assert_eq!(end(&decoder, ""), "0\r\n\r\n");
        let (data, decoder, left) = decode(b"0\r\n\r\n", &[]).expect("chunks");
        assert_eq!((data.len(), end(&decoder, "x-sum").as_str(), left), (0, "0\r\n\r\n", 0));
    }

    #[test]
    fn what_is_not_exactly_a_chunk_is_refused() {
        for bad in [
            "\r\n",
            "g\r\n",
            " 3\r\n",
            "3 \r\n",
            "+3\r\n",
            "-1\r\n",
            "0x3\r\n",
            "3\n",
            "3\rabc",
            ";a\r\n",
            "3;\x01\r\n",
            "3;a\nb\r\n",
            "3\r\nabcd\r\n",
            "3\r\nabc\n",
            "3\r\nabcX",
            "1000000000000000\r\n",
            "0\r\nx y: 1\r\n\r\n",
            "0\r\n y\r\n\r\n",
            "0\r\nx: 1\n\r\n",
            "0\r\n\n",
            "0\r\n: 1\r\n\r\n",
        ] {
            assert!(decode(bad.as_bytes(), &[]).is_err(), "{bad:?}");
        }
        let long = format!("1;{}\r\n", "x".repeat(5000));
        assert!(decode(long.as_bytes(), &[]).is_err());
        let long = format!("0\r\nx: {}\r\n\r\n", "x".repeat(9000));
        assert!(decode(long.as_bytes(), &[]).is_err());
    }

    proptest! {
        #[test]
        fn cut_anywhere_it_is_the_same(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
            trailer in "([a-z]{1,8}: [ -~]{0,12}[!-~]\r\n){0,2}",
            cuts in proptest::collection::vec(0_usize..30, 0..12),
        ) {
            let mut wire = Vec::new();
            chunks.iter().for_each(|chunk| write_chunk(&mut wire, chunk));
            wire.extend_from_slice(b"0\r\n");
            wire.extend_from_slice(trailer.as_bytes());
            wire.extend_from_slice(b"\r\nNEXT");
            let (data, decoder, left) = decode(&wire, &cuts).expect("chunks");
            prop_assert_eq!(data, chunks.concat());
            prop_assert!(decoder.is_done());
            prop_assert_eq!(left, 4);
        }

        #[test]
        fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0_usize..200) {
            let whole = decode(&bytes, &[]).map(|(data, decoder, left)| (data, decoder.is_done(), left));
            let parts = decode(&bytes, &[cut]).map(|(data, decoder, left)| (data, decoder.is_done(), left));
            prop_assert_eq!(whole, parts);
        }
    }
}
