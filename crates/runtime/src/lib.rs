// SPDX-License-Identifier: Apache-2.0
//! The data plane: it proxies requests under the current snapshot, and keeps that
//! snapshot current. Two halves meet in [`state`]: the request walk reads it, [`sync`]
//! writes it. It never sees the store, the controller or a concrete policy; those are
//! handed in when it starts.

// The state side: what is served.
pub mod prepare;
pub mod router;
pub mod state;
