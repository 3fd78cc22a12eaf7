// SPDX-License-Identifier: Apache-2.0
//! The controller over real sockets and SQLite: one file per group of promises. The
//! harness starts a whole controller on free ports; runtimes are played by the real
//! client of the config stream over a sink in memory.

mod access;
mod admin;
mod certificates;
mod conditions;
mod custom_certs;
mod fault;
mod harness;
mod history;
mod identity;
mod immutable;
mod lifecycle;
mod live;
mod outage;
mod refusals;
mod reseal;
mod schema;
mod secrets;
