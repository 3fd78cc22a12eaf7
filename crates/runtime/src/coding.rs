// SPDX-License-Identifier: Apache-2.0
//! Content codings of bodies that policies look into (contract 5.1): gzip, deflate and brotli
//! are undone for the policies and done again for what they changed. The ceiling holds while
//! decoding, so that a small body that stands for an immense one never takes more memory
//! than allowed. `request` and `response` call it, and only where a policy sees bodies.

use std::io::{self, Write};

use brotli::{CompressorWriter, DecompressorWriter};
use bytes::Bytes;
use flate2::write::{GzEncoder, MultiGzDecoder, ZlibEncoder};
use flate2::{Compression, Decompress, FlushDecompress, Status};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;

/// So much is decoded or coded at once; then other requests of the worker have their turn.
const PART_BYTES: usize = 16 * 1024;

/// Of the codecs' own buffers.
const BUFFER_BYTES: usize = 4 * 1024;

/// Coding again is done while a client waits: the second of eleven qualities is fast, and within
/// some per cent of what servers send by default.
const BROTLI_QUALITY: u32 = 2;

/// 512 KiB of window, for the memory of it is held as long as a stream lasts.
const BROTLI_WINDOW: u32 = 19;

/// A coding that can be undone and done again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// `gzip`, or `x-gzip` (RFC 9110, 8.4.1.3).
    Gzip,
    /// `deflate`, which is the zlib format (RFC 9110, 8.4.1.2).
    Deflate,
    /// `br`.
    Brotli,
}

/// Why a body could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It stands for more than the ceiling.
    TooLarge,
    /// It is not what its header says.
    Malformed,
}

/// A whole body as it came and as policies see it.
pub struct Opened {
    coding: Option<Coding>,
    raw: Bytes,
    plain: Bytes,
}

/// A body on its way through policies that see it part by part.
pub struct Stream {
    decoder: Decoder,
    encoder: Option<Box<dyn Encode>>,
}

/// Undoes a coding under a ceiling.
struct Decoder(Box<dyn Decode>);

/// A decoder of one coding: takes what came, and puts what it stands for into its sink.
trait Decode: Write {
    fn sink(&mut self) -> &mut Bounded;
    /// Fails when the body is not complete.
    fn end(&mut self) -> io::Result<()>;
}

/// An encoder of one coding, into memory.
trait Encode: Write {
    fn sink(&mut self) -> &mut Vec<u8>;
    fn end(self: Box<Self>) -> Vec<u8>;
}

/// The zlib format. flate2's own writer does not tell a body that was cut short.
struct Inflate {
    state: Decompress,
    sink: Bounded,
    ended: bool,
}

/// Takes no more than its limit.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
    exceeded: bool,
}

impl Coding {
    /// The coding of a message's body, when it is one that can be undone. A body coded twice
    /// is none of those.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Coding> {
        let mut values = headers.get_all(CONTENT_ENCODING).iter();
        let value = values.next().filter(|_| values.next().is_none())?.as_bytes().trim_ascii();
        let is = |name: &str| value.eq_ignore_ascii_case(name.as_bytes());
        if is("gzip") || is("x-gzip") {
            return Some(Coding::Gzip);
        }
        if is("deflate") {
            return Some(Coding::Deflate);
        }
        is("br").then_some(Coding::Brotli)
    }
}

impl Opened {
    /// Undoes the coding of a whole body. What cannot be decoded is left as it is (contract 5.1).
    ///
    /// # Errors
    /// When it stands for more than `limit` bytes.
    pub async fn open(coding: Option<Coding>, raw: Bytes, limit: usize) -> Result<Opened, Fault> {
        let Some(coding) = coding else {
            return Ok(Opened { coding: None, plain: raw.clone(), raw });
        };
        if raw.is_empty() {
            return Ok(Opened { coding: Some(coding), plain: raw.clone(), raw });
        }
        match decode(coding, &raw, limit).await {
            Ok(plain) => Ok(Opened { coding: Some(coding), raw, plain }),
            Err(Fault::Malformed) => Ok(Opened { coding: None, plain: raw.clone(), raw }),
            Err(Fault::TooLarge) => Err(Fault::TooLarge),
        }
    }

    /// What policies see.
    #[must_use]
    pub fn plain(&self) -> Bytes {
        self.plain.clone()
    }

    /// The body to send, of what policies made of it: as it came when they changed nothing,
    /// coded again when they did. `named` is the coding that the header now names: where a
    /// policy took it away, the body goes as it is.
    pub async fn close(self, named: Option<Coding>, made: Bytes) -> Bytes {
        let Some(coding) = self.coding.filter(|coding| named == Some(*coding)) else { return made };
        let unchanged = made.as_ptr() == self.plain.as_ptr() && made.len() == self.plain.len();
        if unchanged { self.raw } else { encode(coding, &made).await }
    }
}

async fn decode(coding: Coding, raw: &Bytes, limit: usize) -> Result<Bytes, Fault> {
    let mut decoder = Decoder::new(coding, limit);
    for part in raw.chunks(PART_BYTES) {
        decoder.push(part)?;
        tokio::task::yield_now().await;
    }
    decoder.finish()?;
    Ok(decoder.take())
}

async fn encode(coding: Coding, plain: &Bytes) -> Bytes {
    let mut encoder = coding.encoder();
    for part in plain.chunks(PART_BYTES) {
        never_fails(encoder.write_all(part));
        tokio::task::yield_now().await;
    }
    encoder.end().into()
}

impl Stream {
    /// A body that comes in `coding`; it goes on in the same one where the header still names it.
    #[must_use]
    pub fn new(coding: Coding, named: Option<Coding>, limit: usize) -> Stream {
        let encoder = (named == Some(coding)).then(|| coding.encoder());
        Stream { decoder: Decoder::new(coding, limit), encoder }
    }

    /// What one received part stands for. The ceiling is that of each part: nothing of a stream
    /// is kept.
    ///
    /// # Errors
    /// When it is more than the ceiling, or no such coding. What came before may be on its way
    /// already, so that there is no going back to the bytes as they came.
    pub fn open(&mut self, part: &Bytes, last: bool) -> Result<Bytes, Fault> {
        self.decoder.push(part)?;
        if last {
            self.decoder.finish()?;
        }
        Ok(self.decoder.take())
    }

    /// What to send for a part. Everything is sent at once: the reader may wait for it.
    #[must_use]
    pub fn close(&mut self, part: Bytes, last: bool) -> Bytes {
        let Some(mut encoder) = self.encoder.take() else { return part };
        never_fails(encoder.write_all(&part));
        if last {
            return encoder.end().into();
        }
        if !part.is_empty() {
            never_fails(encoder.flush());
        }
        let coded = std::mem::take(encoder.sink());
        self.encoder = Some(encoder);
        coded.into()
    }
}

impl Coding {
    fn decoder(self, limit: usize) -> Box<dyn Decode> {
        let sink = Bounded { bytes: Vec::new(), limit, exceeded: false };
        match self {
            Coding::Gzip => Box::new(MultiGzDecoder::new(sink)),
            Coding::Deflate => Box::new(Inflate { state: Decompress::new(true), sink, ended: false }),
            Coding::Brotli => Box::new(DecompressorWriter::new(sink, BUFFER_BYTES)),
        }
    }

    fn encoder(self) -> Box<dyn Encode> {
        let sink = Vec::new();
        match self {
            Coding::Gzip => Box::new(GzEncoder::new(sink, Compression::fast())),
            Coding::Deflate => Box::new(ZlibEncoder::new(sink, Compression::fast())),
            Coding::Brotli => {
                Box::new(CompressorWriter::new(sink, BUFFER_BYTES, BROTLI_QUALITY, BROTLI_WINDOW))
            }
        }
    }
}

impl Decoder {
    fn new(coding: Coding, limit: usize) -> Decoder {
        Decoder(coding.decoder(limit))
    }

    fn push(&mut self, part: &[u8]) -> Result<(), Fault> {
        let written = self.0.write_all(part).and_then(|()| self.0.flush());
        written.map_err(|_| self.fault())
    }

    fn finish(&mut self) -> Result<(), Fault> {
        self.0.end().map_err(|_| self.fault())
    }

    fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.0.sink().bytes).into()
    }

    fn fault(&mut self) -> Fault {
        if self.0.sink().exceeded { Fault::TooLarge } else { Fault::Malformed }
    }
}

impl Decode for MultiGzDecoder<Bounded> {
    fn sink(&mut self) -> &mut Bounded {
        self.get_mut()
    }

    fn end(&mut self) -> io::Result<()> {
        self.try_finish()
    }
}

impl Decode for DecompressorWriter<Bounded> {
    fn sink(&mut self) -> &mut Bounded {
        self.get_mut()
    }

    fn end(&mut self) -> io::Result<()> {
        self.close()
    }
}

impl Decode for Inflate {
    fn sink(&mut self) -> &mut Bounded {
        &mut self.sink
    }

    fn end(&mut self) -> io::Result<()> {
        if self.ended { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

impl Write for Inflate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut made = [0; BUFFER_BYTES];
        loop {
            let (read, written) = (self.state.total_in(), self.state.total_out());
            let status = self.state.decompress(bytes, &mut made, FlushDecompress::None)?;
            self.ended |= status == Status::StreamEnd;
            // Both grow by what lies in these slices.
            let read = usize::try_from(self.state.total_in() - read).unwrap_or(0);
            let written = usize::try_from(self.state.total_out() - written).unwrap_or(0);
            self.sink.write_all(made.get(..written).unwrap_or_default())?;
            if read > 0 || written == 0 {
                return Ok(read);
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        // Nothing more is read: what is left is what had no room before.
        self.write(&[]).map(|_| ())
    }
}

impl Encode for GzEncoder<Vec<u8>> {
    fn sink(&mut self) -> &mut Vec<u8> {
        self.get_mut()
    }

    fn end(self: Box<Self>) -> Vec<u8> {
        self.finish().unwrap_or_default()
    }
}

impl Encode for ZlibEncoder<Vec<u8>> {
    fn sink(&mut self) -> &mut Vec<u8> {
        self.get_mut()
    }

    fn end(self: Box<Self>) -> Vec<u8> {
        self.finish().unwrap_or_default()
    }
}

impl Encode for CompressorWriter<Vec<u8>> {
    fn sink(&mut self) -> &mut Vec<u8> {
        self.get_mut()
    }

    fn end(self: Box<Self>) -> Vec<u8> {
        self.into_inner()
    }
}

/// Memory takes everything.
fn never_fails(written: io::Result<()>) {
    debug_assert!(written.is_ok(), "{written:?}");
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len().saturating_add(bytes.len()) > self.limit {
            self.exceeded = true;
            return Err(io::Error::other("more than the ceiling"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue};
    use proptest::prelude::*;

    use super::{Coding, Fault, Opened, Stream, decode, encode};

    const ALL: [Coding; 3] = [Coding::Gzip, Coding::Deflate, Coding::Brotli];

    fn wait<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("an executor").block_on(work)
    }

    async fn open(coding: Coding, raw: Bytes, limit: usize) -> Opened {
        match Opened::open(Some(coding), raw, limit).await {
            Ok(opened) => opened,
            Err(fault) => panic!("{coding:?}: {fault:?}"),
        }
    }

    #[test]
    fn the_header_names_one_known_coding_or_none() {
        for (values, expected) in [
            (&["gzip"][..], Some(Coding::Gzip)),
            (&["X-GZip"], Some(Coding::Gzip)),
            (&[" br "], Some(Coding::Brotli)),
            (&["gzip, br"], None),
            (&["gzip", "br"], None),
            (&["Deflate"], Some(Coding::Deflate)),
            (&["zstd"], None),
            (&["identity"], None),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("content-encoding", HeaderValue::from_static(value));
            }
            assert_eq!(Coding::of(&headers), expected, "{values:?}");
        }
    }

    #[test]
    fn an_unchanged_body_goes_as_it_came_and_a_changed_one_is_coded_again() {
        for coding in ALL {
            wait(async {
                let raw = encode(coding, &Bytes::from_static(b"hello")).await;
                let open = || open(coding, raw.clone(), 100);
                let opened = open().await;
                let plain = opened.plain();
                assert_eq!(plain, "hello");
                let sent = opened.close(Some(coding), plain).await;
                assert_eq!(sent.as_ptr(), raw.as_ptr(), "{coding:?}");

                let opened = open().await;
                let sent = opened.close(Some(coding), Bytes::from_static(b"changed")).await;
                assert_eq!(decode(coding, &sent, 100).await, Ok(Bytes::from_static(b"changed")));

                // A policy that took the header away wants the body plain.
                let opened = open().await;
                let plain = opened.plain();
                assert_eq!(opened.close(None, plain).await, "hello");
            });
        }
    }

    #[test]
    fn what_is_no_such_coding_is_left_as_it_is() {
        for coding in ALL {
            wait(async {
                let whole = encode(coding, &Bytes::from(vec![b'x'; 5_000])).await;
                let cut = whole.slice(..whole.len() / 2);
                for raw in [Bytes::from_static(b"not at all"), cut] {
                    let opened = open(coding, raw.clone(), 10_000).await;
                    assert_eq!(opened.plain(), raw, "{coding:?}");
                    assert_eq!(opened.close(Some(coding), "made".into()).await, "made");
                }
            });
        }
    }

    #[test]
    fn a_bomb_is_stopped_at_the_ceiling() {
        for coding in ALL {
            wait(async {
                let bomb = encode(coding, &Bytes::from(vec![0; 64 << 20])).await;
                assert!(bomb.len() < 1 << 20, "{coding:?}: {}", bomb.len());
                assert_eq!(decode(coding, &bomb, 1 << 20).await, Err(Fault::TooLarge), "{coding:?}");
                // What is held never exceeds the ceiling, however much one part stands for.
                let mut decoder = super::Decoder::new(coding, 1 << 20);
                assert_eq!(decoder.push(&bomb), Err(Fault::TooLarge));
                assert!(decoder.0.sink().bytes.capacity() <= 2 << 20);
                // Exactly the ceiling is allowed.
                let fits = encode(coding, &Bytes::from(vec![0; 1 << 20])).await;
                assert_eq!(decode(coding, &fits, 1 << 20).await.map(|plain| plain.len()), Ok(1 << 20));
            });
        }
    }

    #[test]
    fn a_stream_gives_each_part_at_once() {
        for coding in ALL {
            let mut writer = Stream::new(coding, Some(coding), 100);
            let mut reader = Stream::new(coding, None, 100);
            for (part, last) in [("one ", false), ("two ", false), ("", false), ("three", true)] {
                let coded = writer.close(Bytes::from(part), last);
                let plain = reader.open(&coded, last).expect("a part");
                assert_eq!(reader.close(plain, last), part, "{coding:?}");
            }
            let mut reader = Stream::new(coding, None, 100);
            assert_eq!(reader.open(&Bytes::from_static(b"nonsense"), true), Err(Fault::Malformed));
        }
    }

    proptest! {
        #[test]
        fn what_is_coded_can_be_decoded(body in proptest::collection::vec(any::<u8>(), 0..70_000)) {
            let body = Bytes::from(body);
            for coding in ALL {
                let coded = wait(encode(coding, &body));
                prop_assert_eq!(wait(decode(coding, &coded, body.len())), Ok(body.clone()));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..500)) {
            for coding in ALL {
                let mut stream = Stream::new(coding, Some(coding), 1_000);
                let half = Bytes::copy_from_slice(&body[..body.len() / 2]);
                if stream.open(&half, false).is_ok() {
                    drop(stream.open(&Bytes::copy_from_slice(&body[body.len() / 2..]), true));
                }
            }
        }
    }
}
