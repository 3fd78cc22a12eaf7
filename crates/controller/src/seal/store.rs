// SPDX-License-Identifier: Apache-2.0
//! The store with sealed payloads: seals on commit, opens on every read, so that nobody
//! can forget to. Sources stay in the clear, for they hold templates and no values. A
//! note in the database tells whether this controller has the gateway's keys before it
//! writes anything the others could not open. What does not open is an error of the
//! store: the controller keeps the snapshot it has and says why.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use ferrogate_base::parallel;
use ferrogate_model::{GatewayId, Position, ResourceName, Revision};
use ferrogate_store::{
    Batch, Change, Changes, Cluster, CommitError, Committed, ControllerLease, Head, Hints, Payload, Rewrite,
    RuntimeLease, State, Store, StoreError, StoredArtifact, Write,
};
use uuid::Uuid;

use super::{KeyRing, SealError, is_current, open};

/// The note that is sealed under the gateway's keys, and what it says.
const NOTE: &str = "sealing";
const NOTE_TEXT: &str = "whoever reads this has the keys of this gateway";

/// See the module.
pub struct SealedStore {
    inner: Arc<dyn Store>,
    ring: Option<Arc<KeyRing>>,
    gateway: GatewayId,
    /// The note has been read, and opens.
    shared: AtomicBool,
}

impl SealedStore {
    /// Seals with this ring; without one, stores in the clear and opens nothing.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, ring: Option<KeyRing>, gateway: GatewayId) -> SealedStore {
        SealedStore { inner, ring: ring.map(Arc::new), gateway, shared: AtomicBool::new(false) }
    }

    fn place(&self, name: &ResourceName) -> String {
        place(&self.gateway, &name.to_string())
    }

    async fn check_keys(&self) -> Result<(), StoreError> {
        if !self.shared.load(Ordering::Acquire) {
            check_keys(self.inner.as_ref(), self.ring.as_deref(), &self.gateway).await?;
            self.shared.store(true, Ordering::Release);
        }
        Ok(())
    }

    fn open_artifact(&self, artifact: &mut StoredArtifact) -> Result<(), StoreError> {
        if let Some(stored) = artifact.payload.take() {
            let opened = open(self.ring.as_deref(), &self.place(&artifact.name), stored);
            artifact.payload = Some(opened.map_err(|error| sealed(&artifact.name.to_string(), error))?);
        }
        Ok(())
    }

    fn open_state(&self, state: State) -> Result<State, StoreError> {
        let opened = parallel::map(state.artifacts, |mut artifact| {
            self.open_artifact(&mut artifact)?;
            Ok(artifact)
        });
        Ok(State {
            position: state.position,
            artifacts: opened.into_iter().collect::<Result<_, StoreError>>()?,
        })
    }
}

#[async_trait]
impl Store for SealedStore {
    async fn head(&self) -> Result<Head, StoreError> {
        self.inner.head().await
    }

    async fn load(&self) -> Result<State, StoreError> {
        self.check_keys().await?;
        self.open_state(self.inner.load().await?)
    }

    async fn changes_since(&self, after: Position, limit: usize) -> Result<Changes, StoreError> {
        self.check_keys().await?;
        let mut answer = self.inner.changes_since(after, limit).await?;
        if let Changes::Line { changes, .. } = &mut answer {
            let artifacts = changes.iter_mut().filter_map(|change| change.artifact.as_mut());
            for artifact in artifacts {
                self.open_artifact(artifact)?;
            }
        }
        Ok(answer)
    }

    async fn subscribe(&self) -> Result<Hints, StoreError> {
        self.inner.subscribe().await
    }

    async fn commit(&self, mut batch: Batch) -> Result<Committed, CommitError> {
        self.check_keys().await?;
        if let Some(ring) = &self.ring {
            for commit in &mut batch.writes {
                let place = place(&self.gateway, &commit.name.to_string());
                if let Write::Put { payload: Some(payload), .. } = &mut commit.write {
                    *payload = ring.seal(&place, payload).map_err(crypto)?;
                }
            }
        }
        self.inner.commit(batch).await
    }

    async fn outcome(&self, batch_id: Uuid) -> Result<Option<Committed>, StoreError> {
        self.inner.outcome(batch_id).await
    }

    /// A list tells who changed what when; payloads are left as they are stored, so that a
    /// history can be listed whose oldest keys are gone.
    async fn revisions(
        &self,
        name: &ResourceName,
        before: Option<Revision>,
        limit: usize,
    ) -> Result<Vec<Change>, StoreError> {
        self.inner.revisions(name, before, limit).await
    }

    async fn artifact_at(
        &self,
        name: &ResourceName,
        at: Revision,
    ) -> Result<Option<StoredArtifact>, StoreError> {
        let mut found = self.inner.artifact_at(name, at).await?;
        if let Some(artifact) = &mut found {
            self.open_artifact(artifact)?;
        }
        Ok(found)
    }

    async fn state_at(&self, at: Revision) -> Result<State, StoreError> {
        self.open_state(self.inner.state_at(at).await?)
    }

    async fn referrers(&self, name: &ResourceName) -> Result<Vec<ResourceName>, StoreError> {
        self.inner.referrers(name).await
    }

    async fn note(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.inner.note(name).await
    }

    async fn put_note(&self, name: &str, expected: Option<&str>, text: &str) -> Result<String, StoreError> {
        self.inner.put_note(name, expected, text).await
    }

    /// As they are stored: these two are for whoever seals them anew.
    async fn payloads(
        &self,
        after: Revision,
        limit: usize,
        except: &str,
    ) -> Result<Vec<Payload>, StoreError> {
        self.inner.payloads(after, limit, except).await
    }

    async fn rewrite(&self, rewrites: &[Rewrite]) -> Result<u64, StoreError> {
        self.inner.rewrite(rewrites).await
    }

    async fn prune(&self, floor: Revision) -> Result<u64, StoreError> {
        self.inner.prune(floor).await
    }

    async fn report(
        &self,
        controller: &ControllerLease,
        runtimes: &[RuntimeLease],
    ) -> Result<(), StoreError> {
        self.inner.report(controller, runtimes).await
    }

    async fn cluster(&self) -> Result<Cluster, StoreError> {
        self.inner.cluster().await
    }
}

/// Whether whoever holds this ring has the keys that the gateway's database is sealed with. Of
/// controllers that start together over a new database, one writes the note and the others
/// must be able to read it.
pub(super) async fn check_keys(
    store: &dyn Store,
    ring: Option<&KeyRing>,
    gateway: &GatewayId,
) -> Result<(), StoreError> {
    let place = place(gateway, NOTE);
    let mut stands = store.note(NOTE).await?;
    if let Some(ring) = ring {
        let readable = match &stands {
            Some(text) => open(Some(ring), &place, text.clone()).is_ok(),
            None => true,
        };
        if readable && !stands.as_deref().is_some_and(|text| is_current(ring, text)) {
            let text = ring.seal(&place, NOTE_TEXT).map_err(crypto)?;
            stands = Some(store.put_note(NOTE, stands.as_deref(), &text).await?);
        }
    }
    if let Some(text) = stands {
        open(ring, &place, text).map_err(|error| sealed("this gateway's database", error))?;
    }
    Ok(())
}

/// What a sealed text is bound to. A gateway's id may hold a slash; no resource name
/// begins with one, and lengths are not needed to tell places of one gateway apart.
pub(super) fn place(gateway: &GatewayId, what: &str) -> String {
    format!("{}:{}/{what}", gateway.as_str().len(), gateway.as_str())
}

fn sealed(what: &str, error: SealError) -> StoreError {
    match error {
        SealError::Shut(key) => StoreError::Sealed { what: what.to_owned(), key },
        SealError::Crypto => crypto(error),
    }
}

pub(super) fn crypto(error: SealError) -> StoreError {
    StoreError::Unavailable(error.to_string())
}
