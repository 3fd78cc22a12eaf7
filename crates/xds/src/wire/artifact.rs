// SPDX-License-Identifier: Apache-2.0
//! An artifact on the wire. The document travels untouched, as the bytes its digest is
//! made of; what it says is read by the runtime, not here. All kinds share the message of the
//! first: the payload's type tells them apart, and a capability says whether a runtime knows it. A kind
//! that stays with the controllers has neither, so that nothing can send it.

use bytes::Bytes;
use ferrogate_model::{Handle, Kind, Resource, ResourceName, Revision};
use prost::Message;

use super::WireError;
use crate::protocol::RestApi as Artifact;

/// The type of a payload of this kind; `None` when runtimes are not sent it.
#[must_use]
pub const fn type_url(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::RestApi => Some("type.googleapis.com/ferrogate.v1.RestApi"),
        Kind::Certificate => Some("type.googleapis.com/ferrogate.v1.Certificate"),
        Kind::Secret => None,
    }
}

/// The capability a runtime must state to be sent this kind; `None` for a kind that no
/// runtime is sent.
#[must_use]
pub const fn capability(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::RestApi => Some("rest-api/v1"),
        Kind::Certificate => Some("certificate/v1"),
        Kind::Secret => None,
    }
}

pub(super) fn encode(resource: &Resource) -> Bytes {
    let message = Artifact {
        handle: resource.name.handle.as_str().to_owned(),
        revision: resource.version.0,
        document: resource.payload.clone(),
    };
    message.encode_to_vec().into()
}

pub(super) fn decode(kind: Kind, bytes: &Bytes) -> Result<Resource, WireError> {
    // Decoding from shared bytes lets the document share them too.
    let message = Artifact::decode(bytes.clone()).map_err(|error| WireError::Malformed(error.to_string()))?;
    Ok(Resource {
        name: ResourceName::new(kind, Handle::try_new(&message.handle)?),
        version: Revision(message.revision),
        payload: message.document,
    })
}
