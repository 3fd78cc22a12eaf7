// SPDX-License-Identifier: Apache-2.0
//! Every libFuzzer target: the binary's own name says which.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let target = ferrogate_fuzz::target(env!("CARGO_BIN_NAME")).expect("a binary is named as its target");
    (target.run)(data);
});
