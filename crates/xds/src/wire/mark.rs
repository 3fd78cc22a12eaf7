// SPDX-License-Identifier: Apache-2.0
//! The mark at the head of every response: where the update it belongs to stands. A
//! response with a mark and nothing else confirms that the runtime is current.

use ferrogate_model::{Digest, Epoch, Position, Revision};
use prost::Message;

use super::WireError;
use crate::protocol::{Any, Resource, SyncMark};

/// The type of the payload.
pub const TYPE_URL: &str = "type.googleapis.com/ferrogate.v1.SyncMark";
/// The name it travels under. It has no slash, so it is never a resource's name.
pub const NAME: &str = "mark";

/// Where an update stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark {
    /// The position after the update.
    pub position: Position,
    /// The digest of the delivered set at that position.
    pub digest: Digest,
    /// The update is the whole set.
    pub full: bool,
    /// No further response belongs to the update.
    pub last: bool,
}

pub(crate) fn to_message(mark: &Mark) -> Resource {
    let payload = SyncMark {
        epoch: mark.position.epoch.0,
        revision: mark.position.revision.0,
        digest: mark.digest.to_bytes().to_vec().into(),
        full: mark.full,
        last: mark.last,
    };
    Resource {
        name: NAME.to_owned(),
        version: mark.position.to_string(),
        resource: Some(Any { type_url: TYPE_URL.to_owned(), value: payload.encode_to_vec().into() }),
    }
}

pub(crate) fn from_message(message: &Resource) -> Result<Mark, WireError> {
    let payload = message.resource.as_ref().ok_or(WireError::NoPayload)?;
    if payload.type_url != TYPE_URL {
        return Err(WireError::UnknownType(payload.type_url.clone()));
    }
    let mark =
        SyncMark::decode(payload.value.clone()).map_err(|error| WireError::Malformed(error.to_string()))?;
    let digest = Digest::from_bytes(&mark.digest)
        .ok_or_else(|| WireError::Malformed("a digest has 32 bytes".to_owned()))?;
    Ok(Mark {
        position: Position::new(Epoch(mark.epoch), Revision(mark.revision)),
        digest,
        full: mark.full,
        last: mark.last,
    })
}

#[cfg(test)]
mod tests {
    use super::{Mark, from_message, to_message};
    use ferrogate_model::{Digest, Epoch, Position, Revision};

    #[test]
    fn a_mark_survives_the_round_trip() {
        let mark = Mark {
            position: Position::new(Epoch(u64::MAX), Revision(7)),
            digest: Digest([1, 2, 3, u64::MAX]),
            full: true,
            last: false,
        };
        assert_eq!(from_message(&to_message(&mark)), Ok(mark));
    }
}
