// SPDX-License-Identifier: Apache-2.0
//! A REST API on the wire. The document travels untouched, as the bytes its digest is
//! made of; what it says is read by the runtime, not here.

use bytes::Bytes;
use ferrogate_model::{Handle, Kind, Resource, ResourceName, Revision};
use prost::Message;

use super::WireError;
use crate::protocol::RestApi;

/// The type of the payload.
pub const TYPE_URL: &str = "type.googleapis.com/ferrogate.v1.RestApi";
/// What a runtime states to be sent it.
pub const CAPABILITY: &str = "rest-api/v1";

pub(super) fn encode(resource: &Resource) -> Bytes {
    let message = RestApi {
        handle: resource.name.handle.as_str().to_owned(),
        revision: resource.version.0,
        document: resource.payload.clone(),
    };
    message.encode_to_vec().into()
}

pub(super) fn decode(bytes: &Bytes) -> Result<Resource, WireError> {
    // Decoding from shared bytes lets the document share them too.
    let message = RestApi::decode(bytes.clone()).map_err(|error| WireError::Malformed(error.to_string()))?;
    Ok(Resource {
        name: ResourceName::new(Kind::RestApi, Handle::try_new(&message.handle)?),
        version: Revision(message.revision),
        payload: message.document,
    })
}
