// SPDX-License-Identifier: Apache-2.0
//! The targets, a file each: what it feeds, and what must hold.

pub mod artifact;
pub mod certificate;
pub mod chunked;
pub mod condition;
pub mod config;
pub mod document;
pub mod path;
pub mod policy;
pub mod request_head;
pub mod resource;
pub mod response_head;
pub mod secret;
pub mod snapshot_file;
pub mod stream;
pub mod template;
