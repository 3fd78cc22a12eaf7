// SPDX-License-Identifier: Apache-2.0
//! Who is at the other end: what a runtime is, and what it says it holds.

use ferrogate_model::{GatewayId, Position};

use crate::capabilities::Capabilities;

/// What a runtime is. It does not change while the process runs.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeInfo {
    /// `--runtime-id`, unique within the gateway.
    pub id: String,
    /// The gateway it serves.
    pub gateway: GatewayId,
    /// `--zone`; empty when it has none.
    pub zone: String,
    /// The version of its binary.
    pub version: String,
    /// What it can run.
    pub capabilities: Capabilities,
}

/// A runtime as it introduced itself on a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct RuntimeInfo {
    /// What it is.
    pub node: NodeInfo,
    /// What it says it holds. This is a claim; what it applied is known only from its
    /// acknowledgements.
    pub stated: Position,
    /// It serves from its last-known-good snapshot and has heard no controller since its
    /// start. The first acknowledgement ends that.
    pub from_cache: bool,
}
