// SPDX-License-Identifier: Apache-2.0
//! What proves the promises of `docs/reliability.md` without a process or a socket. The
//! [`model`] walks every interleaving of a small gateway; it must never decide anything
//! itself that the product decides: feed, follower, sessions, acceptance and the live
//! judgement are the shipping functions. Driven by this crate's tests and `cargo xtask model`.

pub mod model;
