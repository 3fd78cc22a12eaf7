// SPDX-License-Identifier: Apache-2.0
//! Between the model and the protocol's messages: artifacts of every kind that is sent, the mark that frames an update, the first request and the answers. Everything that
//! arrives is checked here, once; nothing here knows where it came from or goes to.

pub mod answer;
pub mod artifact;
pub mod hello;
pub mod mark;

use std::sync::Arc;

use ferrogate_model::{Digest, Kind, NameError, Resource, Revision};

use crate::catalog::Encoded;
use crate::protocol;

pub use artifact::{capability, type_url};

/// The one subscription, which carries every kind.
pub const SUBSCRIPTION: &str = "type.googleapis.com/ferrogate.v1";

/// The response header with the controller's id.
pub const HEADER_CONTROLLER: &str = "x-ferrogate-controller";
/// The response header with the controller's zone.
pub const HEADER_ZONE: &str = "x-ferrogate-zone";
/// The header of a refusal with the time after which to come back, in milliseconds.
pub const HEADER_RETRY_AFTER_MS: &str = "retry-after-ms";

/// What the messages of one resource may not be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The payload's type is not one this version knows.
    #[error("'{0}' is not a type this version knows")]
    UnknownType(String),
    /// A resource without a payload.
    #[error("the resource has no payload")]
    NoPayload,
    /// The payload is not a message of its type.
    #[error("the payload cannot be decoded: {0}")]
    Malformed(String),
    /// The name is not a resource name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The name, the version or the kind outside the payload differ from those inside.
    #[error("the payload is of '{inside}', the resource says '{outside}'")]
    Mismatch {
        /// `name@version` inside.
        inside: String,
        /// `name@version` outside.
        outside: String,
    },
}

/// Encodes a resource, once for every stream that will send it. A kind that stays with the
/// controllers has no encoding, so that no mistake elsewhere can send it.
#[must_use]
pub fn encode(resource: &Resource) -> Option<Encoded> {
    type_url(resource.name.kind)?;
    let bytes = artifact::encode(resource);
    Some(Encoded { name: Arc::new(resource.name.clone()), version: resource.version, bytes })
}

/// Decodes the payload of a resource.
///
/// # Errors
/// When its type is unknown or its bytes are not a message of that type.
pub fn decode(payload: &protocol::Any) -> Result<Resource, WireError> {
    let kind = Kind::ALL
        .into_iter()
        .find(|kind| type_url(*kind) == Some(payload.type_url.as_str()))
        .ok_or_else(|| WireError::UnknownType(payload.type_url.clone()))?;
    decode_as(kind, &payload.value)
}

/// What a resource contributes to the digest of a set.
///
/// # Errors
/// When the bytes are not an encoded resource.
pub fn contribution(resource: &Encoded) -> Result<Digest, WireError> {
    let decoded = decode_as(resource.name.kind, &resource.bytes)?;
    Ok(Digest::of_resource(&decoded))
}

/// The envelope of a resource on its way out.
pub(crate) fn to_message(resource: &Encoded) -> protocol::Resource {
    protocol::Resource {
        name: resource.name.to_string(),
        version: resource.version.to_string(),
        resource: Some(protocol::Any {
            // What has no type has no encoding either.
            type_url: type_url(resource.name.kind).unwrap_or_default().to_owned(),
            value: resource.bytes.clone(),
        }),
    }
}

/// The resource in an envelope, when inside and outside agree.
pub(crate) fn from_message(message: &protocol::Resource) -> Result<Resource, WireError> {
    let resource = decode(message.resource.as_ref().ok_or(WireError::NoPayload)?)?;
    let inside = format!("{}@{}", resource.name, resource.version);
    let outside = format!("{}@{}", message.name, message.version);
    if inside == outside { Ok(resource) } else { Err(WireError::Mismatch { inside, outside }) }
}

/// The version an envelope states, 0 when it is not a number.
pub(crate) fn stated_version(message: &protocol::Resource) -> Revision {
    Revision(message.version.parse().unwrap_or(0))
}

fn decode_as(kind: Kind, bytes: &bytes::Bytes) -> Result<Resource, WireError> {
    match type_url(kind) {
        Some(_) => artifact::decode(kind, bytes),
        None => Err(WireError::UnknownType(kind.document_name().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::{WireError, contribution, decode, encode, from_message, to_message};
    use crate::protocol::Any;
    use ferrogate_model::{Digest, Resource, Revision};

    fn resource() -> Resource {
        named("rest-apis/reading-list")
    }

    fn named(name: &str) -> Resource {
        Resource {
            name: name.parse().unwrap(),
            version: Revision(u64::MAX),
            payload: r#"{"kind":"RestApi"}"#.into(),
        }
    }

    #[test]
    fn a_resource_survives_the_round_trip() {
        for resource in [resource(), named("certificates/reading-list")] {
            let encoded = encode(&resource).unwrap();
            assert_eq!(from_message(&to_message(&encoded)).as_ref(), Ok(&resource));
            assert_eq!(contribution(&encoded), Ok(Digest::of_resource(&resource)));
            assert_eq!(encode(&resource).unwrap().bytes, encoded.bytes);
        }
    }

    #[test]
    fn a_secret_has_no_encoding() {
        assert!(encode(&named("secrets/db")).is_none());
    }

    #[test]
    fn what_is_not_a_resource_says_why() {
        let unknown = Any { type_url: "type.googleapis.com/ferrogate.v9.Mcp".to_owned(), ..Any::default() };
        assert_eq!(decode(&unknown), Err(WireError::UnknownType(unknown.type_url.clone())));

        let mut message = to_message(&encode(&resource()).unwrap());
        message.version = "1".to_owned();
        assert!(matches!(from_message(&message), Err(WireError::Mismatch { .. })));
        message.resource.as_mut().unwrap().value = vec![0xff; 8].into();
        assert!(matches!(from_message(&message), Err(WireError::Malformed(_))));
        message.resource = None;
        assert_eq!(from_message(&message), Err(WireError::NoPayload));
    }
}
