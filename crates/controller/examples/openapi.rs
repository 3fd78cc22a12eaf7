// SPDX-License-Identifier: Apache-2.0
//! Writes the description of the management API: the content of `docs/openapi.json`.

use std::io::Write as _;

fn main() -> std::io::Result<()> {
    let description = serde_json::to_string_pretty(&ferrogate_controller::api::description())?;
    writeln!(std::io::stdout(), "{description}")
}
