// SPDX-License-Identifier: Apache-2.0
//! What one request's run through a chain has come to: which policy answered or failed,
//! and in which phase. The chain records it; the runtime's access log and error table
//! read it.

use std::fmt;

use bytes::Bytes;
use http::StatusCode;

use super::Phase;
use crate::hooks::{PolicyError, Verdict};

/// What one request's run through a chain has come to.
#[derive(Default)]
pub struct ChainRun {
    decision: Option<Decision>,
    request_body: Option<Bytes>,
    /// The policy that wants to ask somebody.
    asking: usize,
}

/// Which policy ended the chain, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The policy's name.
    pub policy: &'static str,
    /// The phase it happened in.
    pub phase: Phase,
    /// What happened.
    pub outcome: Outcome,
}

/// How a policy ended the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered with this status.
    Answered(StatusCode),
    /// It, or its condition, failed.
    Failed,
}

/// A policy failed: the client gets the fixed 500 of contract 4.8, this goes to the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("policy '{policy}' failed: {error}")]
pub struct PolicyFailure {
    /// The policy's name.
    pub policy: &'static str,
    /// Why.
    #[source]
    pub error: PolicyError,
}

impl ChainRun {
    /// A run that has come to nothing yet.
    #[must_use]
    pub fn new() -> ChainRun {
        ChainRun::default()
    }

    /// Which policy ended the chain; `None` when all let the request pass.
    #[must_use]
    pub fn decision(&self) -> Option<Decision> {
        self.decision
    }

    /// Where [`super::Chain::request`] stopped for somebody to be asked.
    pub(super) fn asking(&self) -> usize {
        self.asking
    }

    /// Stops there.
    pub(super) fn stop_to_ask(&mut self, step: usize) {
        self.asking = step;
    }

    /// The request's body, when it was kept for later conditions.
    pub(super) fn request_body(&self) -> Option<(&Bytes, bool)> {
        self.request_body.as_ref().map(|body| (body, true))
    }

    /// Keeps the request's body for later conditions: a reference count, not a copy.
    pub(super) fn keep_request_body(&mut self, body: &Bytes) {
        self.request_body = Some(body.clone());
    }

    /// Records how a policy ended the chain.
    pub(super) fn settle(
        &mut self,
        policy: &'static str,
        phase: Phase,
        verdict: Result<Verdict, PolicyError>,
    ) -> Result<Verdict, PolicyFailure> {
        let verdict = match verdict {
            // Only request hooks may, and once: the chain has taken theirs out by now.
            Ok(Verdict::Ask) => Err(PolicyError("asks where nobody can be asked".to_owned())),
            verdict => verdict,
        };
        let outcome = match &verdict {
            Ok(Verdict::Continue) => return Ok(Verdict::Continue),
            Ok(Verdict::Answer(answer)) => Outcome::Answered(answer.status),
            Ok(Verdict::Ask) | Err(_) => Outcome::Failed,
        };
        self.decision = Some(Decision { policy, phase, outcome });
        verdict.map_err(|error| PolicyFailure { policy, error })
    }
}

/// Without the body, which is the client's and belongs in no log.
impl fmt::Debug for ChainRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChainRun").field("decision", &self.decision).finish_non_exhaustive()
    }
}
