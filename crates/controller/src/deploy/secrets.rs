// SPDX-License-Identifier: Apache-2.0
//! The secrets that templates may name: those of a snapshot, and before them those that
//! the batch itself writes. Whoever renders with them gets told which revisions were
//! used, so that the commit can insist that they are still the ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use ferrogate_model::kinds::{Artifact, Secret};
use ferrogate_model::template::Lookup;
use ferrogate_model::{Handle, Kind, ResourceName};
use ferrogate_store::Expect;

use super::Admitted;
use crate::snapshot::{Entry, Snapshot};

/// See the module. It has no `Debug`.
#[derive(Clone, Default)]
pub struct Secrets {
    snapshot: Option<Arc<Snapshot>>,
    written: BTreeMap<ResourceName, String>,
}

/// What the templates of one document see.
pub struct Visible<'w> {
    /// Variables.
    pub environment: &'w (dyn Lookup + Send + Sync),
    /// Secrets.
    pub secrets: &'w Secrets,
}

impl Secrets {
    /// Those of this snapshot.
    #[must_use]
    pub fn of(snapshot: Option<Arc<Snapshot>>) -> Secrets {
        Secrets { snapshot, written: BTreeMap::new() }
    }

    /// Puts a secret that is about to be written before the one that is stored.
    pub fn write(&mut self, admitted: &Admitted) {
        if let Artifact::Secret(secret) = &admitted.artifact {
            self.written.insert(admitted.name.clone(), secret.value.clone());
        }
    }

    /// What the use of this secret expects of the store; nothing of one the batch writes.
    pub(super) fn expectation(&self, name: &ResourceName) -> Option<Expect> {
        if self.written.contains_key(name) {
            return None;
        }
        let entry = self.snapshot.as_ref()?.get(name)?;
        Some(Expect::Unchanged { name: name.clone(), revision: entry.stored.revision })
    }

    fn value(&self, handle: &str) -> Option<String> {
        let name = name(handle)?;
        if let Some(value) = self.written.get(&name) {
            return Some(value.clone());
        }
        stored(self.snapshot.as_ref()?.get(&name)?).map(|secret| secret.value)
    }
}

impl Lookup for Visible<'_> {
    fn env(&self, name: &str) -> Option<String> {
        self.environment.env(name)
    }

    fn secret(&self, handle: &str) -> Option<String> {
        self.secrets.value(handle)
    }
}

/// The name of the secret with this handle.
pub(super) fn name(handle: &str) -> Option<ResourceName> {
    Some(ResourceName::new(Kind::Secret, Handle::try_new(handle).ok()?))
}

/// The secret of an entry.
#[must_use]
pub fn stored(entry: &Entry) -> Option<Secret> {
    let payload = entry.stored.payload.as_deref()?;
    match Artifact::from_payload(entry.stored.name.kind, payload.as_bytes()) {
        Ok(Artifact::Secret(secret)) => Some(secret),
        Ok(Artifact::RestApi(_) | Artifact::Certificate(_)) | Err(_) => None,
    }
}
