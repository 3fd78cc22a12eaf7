// SPDX-License-Identifier: Apache-2.0
//! A body in chunks, decoded. However it is cut, it is the same data, ends at the same byte
//! and is refused for the same reason; written again in chunks it is decoded to the same,
//! and no trailer says what only a head may say.

use ferrogate_runtime::h1::chunked::{Decoder, Malformed, write_chunk};
use ferrogate_runtime::h1::framing::Framing;

use crate::Target;
use crate::split::{cuts, pieces};

/// The target.
pub const TARGET: Target = Target {
    name: "chunked",
    run,
    rounds: 4000,
    words: &[
        "0\r\n\r\n",
        "0\r\n",
        "\r\n",
        "\n",
        "\r",
        "1\r\nx\r\n",
        "00000000000005\r\nhello\r\n",
        "fffffffffffffff\r\n",
        "1000000000000000\r\n",
        "5;a=b\r\n",
        "5;a=\"b\r\n",
        "A\r\n0123456789\r\n",
        "X-Sum: 7\r\n",
        "Content-Length: 3\r\n",
        "Host: evil\r\n",
        "x-forwarded-for: 1\r\n",
        " folded\r\n",
        "0x5\r\n",
        "+5\r\n",
        "-0\r\n",
    ],
};

/// What a body is decoded to.
struct Decoded {
    data: Vec<u8>,
    used: usize,
    decoder: Decoder,
}

fn run(body: &[u8]) {
    let whole = decode(&[body]);
    let part = decode(&pieces(body, &cuts(body)));
    match (&whole, &part) {
        (Ok(whole), Ok(part)) => {
            assert_eq!(whole.data, part.data);
            assert_eq!((whole.used, whole.decoder.is_done()), (part.used, part.decoder.is_done()));
            assert_eq!(end(&whole.decoder, body), end(&part.decoder, body));
        }
        (Err(whole), Err(part)) => assert_eq!(whole, part),
        (Ok(_), Err(error)) | (Err(error), Ok(_)) => panic!("cut or not, it is another body: {error}"),
    }
    let Ok(decoded) = whole else { return };
    let ends = decoded.decoder.is_done();
    assert_eq!(Framing::Chunked.contained(body), ends.then_some(decoded.used));
    if ends {
        again(&decoded, body);
    }
}

/// The body from pieces as they arrive, each given until it is used up.
fn decode(pieces: &[&[u8]]) -> Result<Decoded, Malformed> {
    let mut decoded = Decoded { data: Vec::new(), used: 0, decoder: Decoder::default() };
    for piece in pieces {
        let mut at = 0;
        while at < piece.len() && !decoded.decoder.is_done() {
            let rest = piece.get(at..).unwrap_or_default();
            let step = decoded.decoder.step(rest)?;
            let data = rest.get(step.skip..step.skip + step.data).expect("a step stays within its input");
            assert!(step.skip + step.data > 0, "a step that uses up nothing");
            decoded.data.extend_from_slice(data);
            at += step.skip + step.data;
        }
        decoded.used += at;
    }
    Ok(decoded)
}

/// The end of the body when every name in it is declared as a trailer's.
fn end(decoder: &Decoder, body: &[u8]) -> Vec<u8> {
    let names = body.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b':').next());
    let declared = names.collect::<Vec<_>>().join(&b',');
    let mut out = Vec::new();
    decoder.write_end(&mut out, &declared);
    out
}

fn again(decoded: &Decoded, body: &[u8]) {
    let mut written = Vec::new();
    for data in decoded.data.chunks(7) {
        write_chunk(&mut written, data);
    }
    let trailers = end(&decoded.decoder, body);
    let told = String::from_utf8_lossy(&trailers).to_ascii_lowercase();
    for name in
        ["content-length:", "transfer-encoding:", "host:", "authorization:", "connection:", "set-cookie:"]
    {
        assert!(!told.contains(&format!("\n{name}")), "a trailer that may not pass: {name}");
    }
    written.extend_from_slice(&trailers);
    let again = decode(&[&written]).expect("what the gateway writes is a body");
    assert_eq!((again.data, again.used), (decoded.data.clone(), written.len()));
    assert_eq!(end(&again.decoder, body), trailers);
}
