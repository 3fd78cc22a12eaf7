// SPDX-License-Identifier: Apache-2.0
//! Process plumbing: configuration, telemetry, readiness, owned tasks, backoff, listening sockets,
//! networks, locks of directories, work on all cores.
//! It serves every role and knows nothing of gateways. The composition root sets these
//! up; the roles are handed what they need.
#![warn(missing_docs)]

pub mod backoff;
pub mod clock;
pub mod config;
pub mod directory;
pub mod duration;
pub mod listen;
pub mod networks;
pub mod offload;
pub mod parallel;
pub mod readiness;
pub mod secret;
pub mod tasks;
pub mod telemetry;
pub mod watch;
