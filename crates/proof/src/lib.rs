// SPDX-License-Identifier: Apache-2.0
//! What proves the promises of `docs/reliability.md` without a process or a socket. The
//! [`model`] walks every interleaving of a small gateway, the simulation ([`sim`]) runs whole
//! ones through faults drawn from a seed. Neither may decide anything that the product
//! decides: what they drive ships. Run by this crate's tests, `cargo xtask model` and
//! `cargo xtask simulate`.

pub mod model;
pub mod sim;
