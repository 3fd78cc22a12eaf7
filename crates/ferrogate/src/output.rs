// SPDX-License-Identifier: Apache-2.0
//! Standard output and standard error. A reader that has seen enough (`| head`) closes the first;
//! `println!` would panic then. Here that is an error like others, which `main` takes for a quiet
//! end. The second may lie on a disk that is full, which is no reason to stop.

use std::io::{self, Write};

/// Writes a line.
pub fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Writes a text that ends in a newline of its own.
pub fn text(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Tells people something, if there is a way to.
pub fn note(text: &str) {
    io::stderr().write_all(text.as_bytes()).ok();
}

/// Whether an error only says that nobody reads any more.
pub fn is_closed(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}
