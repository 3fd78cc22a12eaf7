// SPDX-License-Identifier: Apache-2.0
//! The built-in policies, a directory each: definition and hooks, parameter schema,
//! README with running examples, tests. They see requests through the head views and
//! the world through injected services only, and never one another. The composition
//! root hands [`catalog::all`] to the registries of both planes.

pub mod basic_auth;
pub mod basic_ratelimit;
pub mod catalog;
pub mod client_certificate_auth;
pub mod cors;
pub mod docs;
mod duration;
mod header_list;
pub mod jwt_auth;
pub mod remove_headers;
pub mod respond;
pub mod set_headers;
