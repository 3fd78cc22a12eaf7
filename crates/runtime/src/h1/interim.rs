// SPDX-License-Identifier: Apache-2.0
//! Interim answers on their way to an HTTP/1.1 client: `100 Continue` when its body is about to be
//! read (RFC 9110, 10.1.1), and an upstream's early hints (103, RFC 8297), of which only the links
//! pass. No policy sees them. They are written whenever the client takes them and hold nothing up;
//! what is left of them goes out with the final head. `wires` owns one and drives it.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::header::LINK;
use tokio::io::AsyncWrite;

use super::line::{Known, Line};
use super::parse::{ResponseHead, Version};

/// Early hints that pass in one exchange, and what their links may have in all. Further ones, or
/// longer, are dropped: the final head says the same.
const MAX_HINTS: u8 = 8;
const MAX_LINK_BYTES: usize = 16 * 1024;

/// What a client is told before the final head.
pub struct Interim {
    /// Composed; none of it for nearly all requests.
    out: Vec<u8>,
    written: usize,
    /// The client sends its body when it is told to go on, and was not told yet.
    expected: bool,
    hints: u8,
    link_bytes: usize,
}

impl Interim {
    /// Nothing yet. HTTP/1.0 knows no interim answers.
    #[must_use]
    pub fn new(version: Version, expected: bool) -> Interim {
        let hints = match version {
            Version::Http10 => 0,
            Version::Http11 => MAX_HINTS,
        };
        Interim { out: Vec::new(), written: 0, expected, hints, link_bytes: MAX_LINK_BYTES }
    }

    /// Tells a client that waits for it to send its body.
    pub fn go_on(&mut self) {
        if std::mem::take(&mut self.expected) {
            self.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
    }

    /// Passes the links of an upstream's 103 on, within the limits.
    pub fn hint(&mut self, raw: &[u8], head: &ResponseHead, lines: &[Line]) {
        let links = lines.iter().filter(|line| line.is(raw, &LINK)).map(|line| line.value(raw));
        let bytes: usize = links.clone().map(<[u8]>::len).sum();
        // One that has something to say of its connection may mean the links; nobody does that.
        let sound = bytes > 0 && bytes <= self.link_bytes && !head.present.has(Known::Connection);
        if !sound || self.hints == 0 {
            return;
        }
        self.hints -= 1;
        self.link_bytes -= bytes;
        self.out.extend_from_slice(b"HTTP/1.1 103 Early Hints\r\n");
        for link in links {
            self.out.extend_from_slice(b"link: ");
            self.out.extend_from_slice(link);
            self.out.extend_from_slice(b"\r\n");
        }
        self.out.extend_from_slice(b"\r\n");
    }

    /// Writes what the client takes; ready when that is all there is.
    pub fn poll_write<W>(&mut self, client: &mut W, cx: &mut Context<'_>) -> Poll<()>
    where
        W: AsyncWrite + Unpin,
    {
        if self.out.is_empty() {
            return Poll::Ready(());
        }
        while let Some(left) = self.out.get(self.written..).filter(|left| !left.is_empty()) {
            match Pin::new(&mut *client).poll_write(cx, left) {
                Poll::Ready(Ok(written)) if written > 0 => self.written += written,
                // Whoever reads from it or writes the final head will find out that it is gone.
                Poll::Ready(_) => self.written = self.out.len(),
                Poll::Pending => return Poll::Pending,
            }
        }
        if Pin::new(client).poll_flush(cx).is_pending() {
            return Poll::Pending;
        }
        self.out.clear();
        self.written = 0;
        Poll::Ready(())
    }

    /// Moves what the client has not taken yet in front of a final head.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.out.get(self.written..).unwrap_or_default());
        self.out.clear();
        self.written = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::{Interim, MAX_HINTS, MAX_LINK_BYTES};
    use crate::h1::parse::{self, HeadLimits, Version};

    /// What the client is told of an upstream's interim answers.
    fn told(version: Version, answers: &[String]) -> String {
        let mut interim = Interim::new(version, false);
        for answer in answers {
            let mut lines = Vec::new();
            let limits = HeadLimits { max_fields: 64 };
            let head = parse::response(answer.as_bytes(), limits, &mut lines);
            let head = head.expect("a head").expect("a whole head");
            interim.hint(answer.as_bytes(), &head, &lines);
        }
        let mut out = Vec::new();
        interim.finish(&mut out);
        String::from_utf8(out).expect("text")
    }

    fn hint(fields: &str) -> String {
        format!("HTTP/1.1 103 Whatever\r\n{fields}\r\n")
    }

    #[test]
    fn links_pass_and_nothing_else() {
        for (fields, expected) in [
            ("Link: </a>; rel=preload\r\n", "link: </a>; rel=preload\r\n"),
            ("link: a\r\nx-secret: 1\r\nset-cookie: a=1\r\nLINK:  b \r\n", "link: a\r\nlink: b\r\n"),
            ("content-length: 3\r\nlink: a\r\n", "link: a\r\n"),
            ("connection: link\r\nlink: a\r\n", ""),
            ("x: 1\r\n", ""),
            ("link:\r\n", ""),
            ("", ""),
        ] {
            let head = if expected.is_empty() { "" } else { "HTTP/1.1 103 Early Hints\r\n" };
            let end = if expected.is_empty() { "" } else { "\r\n" };
            assert_eq!(
                told(Version::Http11, &[hint(fields)]),
                format!("{head}{expected}{end}"),
                "{fields:?}"
            );
            assert_eq!(told(Version::Http10, &[hint(fields)]), "", "HTTP/1.0 knows none");
        }
    }

    #[test]
    fn hints_are_bounded_in_number_and_size() {
        let many = vec![hint("link: a\r\n"); usize::from(MAX_HINTS) + 3];
        assert_eq!(told(Version::Http11, &many).matches("103").count(), usize::from(MAX_HINTS));

        let of = |bytes: usize| hint(&format!("link: {}\r\n", "z".repeat(bytes)));
        let sizes = [MAX_LINK_BYTES - 10, 11, 10, 1];
        let told = told(Version::Http11, &sizes.map(of));
        assert_eq!(told.matches("103").count(), 2, "the longer of the two that remain is left out");
        assert_eq!(told.matches('z').count(), MAX_LINK_BYTES);
    }
}
