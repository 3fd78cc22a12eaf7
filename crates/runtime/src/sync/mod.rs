// SPDX-License-Identifier: Apache-2.0
//! The receiving end of the config stream: prepare outside, swap once, persist, and only
//! then say so. An update that cannot be written to disk is served all the same, but not
//! acknowledged: the stream is opened again from what the disk holds, which repeats the
//! write until it succeeds. [`ferrogate_xds::client`] drives it; the request walk never
//! sees it, only the [`State`] it writes.

mod build;
pub mod order;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ferrogate_base::offload::{Offload, Threads, carry};
use ferrogate_base::readiness::{Blocker, Readiness};
use ferrogate_model::{Digest, Position, Reject};
use ferrogate_xds::{Held, Outcome, Sink, Update};

use self::order::{Acceptance, Next};
use crate::lkg::{Job, Lkg, LkgError, LkgOptions, Loaded, Mark, mark_of};
use crate::prepare::Compiler;
use crate::state::{Snapshot, State};

/// The state of a runtime, as the config stream drives it.
pub struct RuntimeSink {
    offload: Arc<dyn Offload>,
    state: Arc<State>,
    compiler: Arc<Compiler>,
    lkg: Option<Lkg>,
    /// One update at a time, from reading the current snapshot to the end of its write.
    applying: tokio::sync::Mutex<()>,
    progress: Mutex<Progress>,
}

/// How the runtime's state stands, for the admin side.
#[derive(Clone, Debug)]
pub struct Status {
    /// The position that is served.
    pub position: Position,
    /// The digest of the set as delivered.
    pub digest: Digest,
    /// The position that would survive a crash; equal to `position` when no disk is used.
    pub persisted: Position,
    /// Why the last update is not on disk, while it is not.
    pub persist_error: Option<String>,
    /// How long ago the last update was applied; `None` before the first.
    pub age: Option<Duration>,
    /// Serving from the last-known-good set, no controller heard since the start.
    pub from_cache: bool,
    /// Why a last-known-good file that was there at start was not used.
    pub refused_file: Option<String>,
    /// A full set was applied, from a controller or from disk.
    pub ready: bool,
    /// The controller the stream is connected to.
    pub controller: Option<String>,
    /// Artifacts that are served.
    pub artifacts: usize,
    /// Their routes.
    pub routes: usize,
    /// Routes that can only answer a fixed 500.
    pub poisoned: usize,
    /// Every refusal that stands.
    pub rejects: Vec<Reject>,
}

/// What is not in the snapshot.
struct Progress {
    controller: Option<String>,
    applied_at: Option<Instant>,
    from_cache: bool,
    persist_error: Option<String>,
    refused_file: Option<String>,
    /// Held until a full set was applied.
    not_ready: Option<Blocker>,
}

impl RuntimeSink {
    /// Starts from what is on disk, if anything is. Readiness is blocked until a full set was
    /// applied, from disk or from a controller. Without `lkg` nothing outlives the process.
    ///
    /// # Errors
    /// When the data directory or the key cannot be used.
    pub async fn open(
        compiler: Compiler,
        lkg: Option<LkgOptions>,
        readiness: &Readiness,
    ) -> Result<RuntimeSink, LkgError> {
        RuntimeSink::open_with(compiler, lkg, readiness, Arc::new(Threads)).await
    }

    /// As [`RuntimeSink::open`], compiling and writing where it is told to.
    ///
    /// # Errors
    /// As [`RuntimeSink::open`].
    pub async fn open_with(
        compiler: Compiler,
        lkg: Option<LkgOptions>,
        readiness: &Readiness,
        offload: Arc<dyn Offload>,
    ) -> Result<RuntimeSink, LkgError> {
        let not_ready = readiness.block("no configuration was received yet");
        let (lkg, loaded) = match lkg {
            Some(options) => {
                Lkg::open(options, Arc::clone(&offload)).await.map(|(lkg, loaded)| (Some(lkg), loaded))?
            }
            None => (None, Loaded::default()),
        };
        let compiler = Arc::new(compiler);
        let mut progress = Progress {
            controller: None,
            applied_at: None,
            from_cache: loaded.contents.is_some(),
            persist_error: None,
            refused_file: loaded.refused_file,
            not_ready: Some(not_ready),
        };
        let snapshot = match loaded.contents {
            Some(contents) => {
                let compiler = Arc::clone(&compiler);
                let restore = move || build::restore(&compiler, contents);
                let restored = carry(offload.as_ref(), "restore", restore).await;
                progress.applied(Instant::now());
                restored.map_err(|_| LkgError::Stopping)?
            }
            None => Snapshot::default(),
        };
        tracing::info!(
            position = %snapshot.position, artifacts = snapshot.artifacts.len(),
            from_cache = progress.from_cache, "the runtime's state is open"
        );
        Ok(RuntimeSink {
            offload,
            state: Arc::new(State::new(Arc::new(snapshot))),
            compiler,
            lkg,
            applying: tokio::sync::Mutex::default(),
            progress: Mutex::new(progress),
        })
    }

    /// Where requests find the current snapshot.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        Arc::clone(&self.state)
    }

    /// How the state stands.
    #[must_use]
    pub fn status(&self) -> Status {
        let snapshot = self.state.load_full();
        let persisted = self.lkg.as_ref().map_or(snapshot.position, |lkg| lkg.persisted().position);
        let progress = self.progress();
        Status {
            position: snapshot.position,
            digest: snapshot.digest,
            persisted,
            persist_error: progress.persist_error.clone(),
            age: progress.applied_at.map(|at| at.elapsed()),
            from_cache: progress.from_cache,
            refused_file: progress.refused_file.clone(),
            ready: progress.not_ready.is_none(),
            controller: progress.controller.clone(),
            artifacts: snapshot.artifacts.len(),
            routes: snapshot.table.len(),
            poisoned: snapshot.poisoned,
            rejects: snapshot.rejects().collect(),
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        // Never left half-written, so a panic elsewhere does not spoil it.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the step from one snapshot to the next; the reason when it is not on disk.
    async fn persist(&self, job: Job) -> Option<String> {
        let lkg = self.lkg.as_ref()?;
        let position = job.snapshot.position;
        let error = lkg.persist(job).await.err()?;
        tracing::error!(%position, %error, "an update is served but not on disk, and so not acknowledged");
        Some(error.to_string())
    }
}

#[async_trait]
impl Sink for RuntimeSink {
    fn held(&self) -> Held {
        let snapshot = self.state.load();
        let on_disk = self.lkg.as_ref().map(Lkg::persisted);
        let Mark { position, digest } = order::stated(mark_of(&snapshot), on_disk);
        let rejected = snapshot.refused.iter().map(|(name, refused)| (name.clone(), refused.version));
        let from_cache = self.progress().from_cache;
        Held { position, digest, rejected: rejected.collect(), from_cache }
    }

    async fn apply(&self, update: Update) -> Outcome {
        let _one_at_a_time = self.applying.lock().await;
        let current = self.state.load_full();
        let (compiler, before) = (Arc::clone(&self.compiler), Arc::clone(&current));
        // A large set takes seconds to compile; the stream's keep-alive must not wait for it.
        let prepare = move || build::build(&compiler, &before, &update);
        let built = carry(self.offload.as_ref(), "prepare", prepare).await;
        let built = match built {
            Ok(Ok(built)) => built,
            Ok(Err(misfit)) => {
                tracing::warn!(%misfit, "an update was not applied; everything is asked for again");
                return Outcome { diverged: true, ..Outcome::default() };
            }
            Err(_) => {
                tracing::error!("an update could not be prepared");
                return Outcome { diverged: true, ..Outcome::default() };
            }
        };
        for (artifact, collisions) in &built.collisions {
            tracing::error!(
                %artifact, collisions,
                "another artifact has routes for the same requests; the first by name answers them"
            );
        }
        // Invariant 4, where it is written; `build` checked it where it was read.
        debug_assert!(built.snapshot.position >= current.position, "a runtime never goes back");
        // Neither position nor content moved: the snapshot in place stays, and with it its number.
        let unchanged = built.change.is_empty() && built.snapshot.position == current.position;
        let snapshot = if unchanged { Arc::clone(&current) } else { Arc::new(built.snapshot) };
        let on_disk = self.lkg.as_ref().is_none_or(|lkg| lkg.persisted() == mark_of(&snapshot));
        let mut acceptance = Acceptance::new(!unchanged, on_disk, built.rejects);
        let mut job =
            Some(Job { snapshot: Arc::clone(&snapshot), after: current.sequence, change: built.change });
        loop {
            match acceptance.proceed() {
                Next::Swap => self.state.store(Arc::clone(&snapshot)),
                Next::Persist => {
                    self.progress().serves();
                    let Some(job) = job.take() else { continue };
                    acceptance.persisted(self.persist(job).await);
                }
                Next::Answer(outcome) => {
                    let mut progress = self.progress();
                    progress.serves();
                    progress.persist_error.clone_from(&outcome.not_persisted);
                    return outcome;
                }
            }
        }
    }

    fn connected(&self, controller: Option<&str>) {
        let mut progress = self.progress();
        progress.controller = controller.map(ToOwned::to_owned);
        if controller.is_some() {
            progress.from_cache = false;
        }
    }
}

impl Progress {
    /// What a controller sent is served, whether or not it is on disk yet.
    fn serves(&mut self) {
        self.applied(Instant::now());
        self.from_cache = false;
    }

    fn applied(&mut self, at: Instant) {
        self.applied_at = Some(at);
        self.not_ready = None;
    }
}
