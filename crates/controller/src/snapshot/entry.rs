// SPDX-License-Identifier: Apache-2.0
//! One artifact of a snapshot: as stored, encoded once for every stream that will send
//! it, and the few fields that list filters compare.

use bytes::Bytes;
use ferrogate_model::{Digest, Resource};
use ferrogate_store::StoredArtifact;
use ferrogate_xds::catalog::Encoded;
use serde::Deserialize;

/// One artifact of a snapshot.
#[derive(Debug)]
pub struct Entry {
    /// The artifact as stored.
    pub stored: StoredArtifact,
    /// What list filters compare.
    pub summary: Summary,
    /// The resource for the runtimes; `None` while undeployed, and of a kind they are not sent.
    pub encoded: Option<Encoded>,
    contribution: Digest,
}

/// What list filters compare; empty where the artifact does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Summary {
    /// `spec.displayName`.
    pub display_name: String,
    /// `spec.version`.
    pub version: String,
    /// `spec.context`, resolved.
    pub context: String,
}

#[derive(Deserialize)]
struct SourceDocument {
    #[serde(default)]
    spec: Summary,
}

impl Entry {
    pub(super) fn new(stored: StoredArtifact) -> Entry {
        let summary = Summary::of(&stored);
        let payload = stored.payload.as_ref().filter(|_| stored.name.kind.is_served());
        let resource = payload.map(|payload| Resource {
            name: stored.name.clone(),
            version: stored.revision,
            payload: Bytes::copy_from_slice(payload.as_bytes()),
        });
        let contribution = resource.as_ref().map(Digest::of_resource).unwrap_or_default();
        let encoded = resource.as_ref().and_then(ferrogate_xds::wire::encode);
        Entry { stored, summary, encoded, contribution }
    }

    /// What this artifact adds to the digest of the set; nothing while undeployed.
    pub(super) const fn contribution(&self) -> Digest {
        self.contribution
    }

    /// Every part length-prefixed, so that no two snapshots share a form.
    pub(super) fn write_canonical(&self, bytes: &mut Vec<u8>) {
        let StoredArtifact { name, revision, uuid, source, payload, created_at, updated_at } = &self.stored;
        let numbers = format!("{revision} {uuid} {created_at} {updated_at}");
        let wire: &[u8] = self.encoded.as_ref().map_or(&[], |encoded| &encoded.bytes);
        let payload = payload.as_deref().unwrap_or_default();
        for part in
            [name.to_string().as_bytes(), numbers.as_bytes(), source.as_bytes(), payload.as_bytes(), wire]
        {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part);
        }
    }
}

impl Summary {
    /// The payload says it with templates rendered; an undeployed artifact has none, so its
    /// source must do.
    fn of(stored: &StoredArtifact) -> Summary {
        let from_payload = stored.payload.as_deref().and_then(|payload| serde_json::from_str(payload).ok());
        from_payload.unwrap_or_else(|| {
            let document = serde_json::from_str::<SourceDocument>(&stored.source);
            let mut summary = document.map(|document| document.spec).unwrap_or_default();
            summary.context = summary.context.replace("$version", &summary.version);
            summary
        })
    }
}
