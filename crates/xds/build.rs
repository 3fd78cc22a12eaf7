// SPDX-License-Identifier: Apache-2.0
//! Compiles the protocol definitions without an installed protoc.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    // A build script runs in its package's folder, wherever that has been moved to.
    let root = Path::new("../../proto");
    println!("cargo::rerun-if-changed={}", root.display());
    let files =
        [root.join("envoy/service/discovery/v3/discovery.proto"), root.join("ferrogate/v1/resources.proto")];
    let descriptors = protox::compile(files, [root])?;
    tonic_prost_build::configure()
        .include_file("protocol.rs")
        // Generated here as well, so that payloads are shared buffers instead of copies.
        .compile_well_known_types(true)
        .bytes(".google.protobuf.Any")
        .bytes(".ferrogate.v1")
        // The well-known types carry examples in other languages, which would run as doc tests.
        .disable_comments([".google.protobuf"])
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;
    Ok(())
}
