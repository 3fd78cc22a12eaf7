// SPDX-License-Identifier: Apache-2.0
//! What tests and measurements are made of: real PostgreSQL, real processes, a backend
//! that tells what it saw, and conditions to wait for. Never under `[dependencies]` of
//! another crate.
#![allow(clippy::missing_panics_doc, clippy::indexing_slicing, reason = "test code states what must hold")]

pub mod backend;
pub mod chaos;
pub mod cluster;
pub mod eventually;
pub mod link;
pub mod load;
pub mod management;
pub mod name_server;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod scale;
