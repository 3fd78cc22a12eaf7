// SPDX-License-Identifier: Apache-2.0
//! The generated messages and service of `proto/`. Outside this crate they are only
//! carried from one session to another; [`crate::wire`] turns them into the vocabulary
//! of the model and back.
#![allow(missing_docs, clippy::all, clippy::pedantic, clippy::wildcard_enum_match_arm)]

include!(concat!(env!("OUT_DIR"), "/protocol.rs"));

pub use envoy::config::core::v3::Node;
pub use envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
pub use envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
pub use envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
pub use ferrogate::v1::{RestApi, SyncMark};
pub use google::protobuf::value::Kind as ValueKind;
pub use google::protobuf::{Any, ListValue, Struct, Value};
pub use google::rpc::Status;
