// SPDX-License-Identifier: Apache-2.0
//! Compiles the part of Envoy's external-processing protocol that the comparison needs.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    // A build script runs in its package's folder, wherever that has been moved to.
    let root = Path::new("proto");
    println!("cargo::rerun-if-changed={}", root.display());
    let file = root.join("envoy/service/ext_proc/v3/external_processor.proto");
    let descriptors = protox::compile([file], [root])?;
    tonic_prost_build::configure()
        .build_client(false)
        .include_file("ext_proc.rs")
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;
    Ok(())
}
