// SPDX-License-Identifier: Apache-2.0
//! Writes `docs/policies.md` from the catalogue; a test keeps the committed file fresh.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/policies.md");
    std::fs::write(path, ferrogate_policies::docs::markdown())
}
