// SPDX-License-Identifier: Apache-2.0
//! The config stream: delta xDS from controller to runtime. Sessions at both ends are
//! sans-IO (a message in, actions out), so that client, server and a lossy link between
//! them are one property test; [`server`] and [`client`] give them sockets, deadlines
//! and TLS. It knows resources and positions; it never knows SQL, REST or proxying.
#![warn(missing_docs)]

pub mod capabilities;
pub mod catalog;
pub mod client;
pub mod node;
pub mod protocol;
pub mod server;
pub mod sink;
pub mod tls;
pub mod transport;
pub mod wire;

pub use capabilities::Capabilities;
pub use catalog::{Catalog, Delta, Encoded};
pub use node::{NodeInfo, RuntimeInfo};
pub use sink::{Held, Outcome, Sink, Update};
