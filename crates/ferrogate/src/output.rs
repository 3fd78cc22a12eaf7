// SPDX-License-Identifier: Apache-2.0
//! Standard output. A reader that has seen enough (`| head`) closes it; `println!` would
//! panic then. Here that is an error like others, which `main` takes for a quiet end.

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

/// Whether an error only says that nobody reads any more.
pub fn is_closed(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}
