// SPDX-License-Identifier: Apache-2.0
//! The vocabulary both planes share: artifacts, their names, the revision line
//! and the rules an artifact must meet. Pure data: nothing here knows a socket,
//! a clock, SQL or the wire. A deployment enters as text in [`document`], becomes
//! a typed artifact in [`kinds`], and leaves as a [`Resource`] for the runtimes.
#![warn(missing_docs)]

pub mod digest;
pub mod document;
pub mod duration;
mod fields;
pub mod kinds;
pub mod name;
pub mod resource;
pub mod revision;
pub mod route;
pub mod template;
pub mod violation;

pub use digest::Digest;
pub use fields::Refusal;
pub use name::{DEFAULT_GATEWAY, GatewayId, Handle, Kind, NameError, ResourceName};
pub use resource::{Reject, Resource};
pub use revision::{Epoch, Position, Revision};
pub use violation::{Violation, Violations};
