// SPDX-License-Identifier: Apache-2.0
//! The policies of one request on the hot path: the chain's head hooks, and what becomes of
//! an answer or a failure of theirs. It never fails open. `exchange` calls it before the
//! upstream and after.

use ferrogate_policy::chain::PolicyFailure;
use ferrogate_policy::{Answer, Chain, ChainRun, Exchange, Verdict};
use tokio::io::{AsyncRead, AsyncWrite};

use super::answer::Own;
use super::request_head::RequestView;
use super::response_head::ResponseView;
use super::wires::{Stop, Wires};
use crate::access_log::Record;
use crate::error::{Failure, OwnAnswer, Reason};
use crate::metrics::WorkerMetrics;

/// The policies of one request.
pub struct Policies<'a> {
    /// The chain.
    pub chain: &'a Chain,
    /// The request's own state.
    pub exchange: Exchange<'a>,
    /// How far the chain has come.
    pub run: ChainRun,
    /// The worker's counts.
    pub metrics: &'a WorkerMetrics,
}

impl Policies<'_> {
    /// The request header hooks. `Some` ends the walk.
    ///
    /// # Errors
    /// When a deadline passes or the client leaves while a policy asks somebody.
    pub async fn ask<S>(
        &mut self,
        head: &mut RequestView<'_>,
        wires: &mut Wires<'_, S>,
        record: &mut Record,
    ) -> Result<Option<Own>, Stop>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if !self.chain.has_request() {
            return Ok(None);
        }
        let mut verdict = self.chain.request(head, &mut self.exchange, &mut self.run);
        if matches!(verdict, Ok(Verdict::Ask)) {
            // In a box: it is rare, and its size is not the other requests' burden.
            let asked = self.chain.request_outbound(head, &mut self.exchange, &mut self.run);
            verdict = wires.beside(Box::pin(asked).as_mut()).await?;
        }
        Ok(self.settle(verdict, record))
    }

    /// The response header hooks. `Some` takes the response's place.
    pub fn tell(
        &mut self,
        request: &RequestView<'_>,
        head: &mut ResponseView<'_>,
        record: &mut Record,
    ) -> Option<Own> {
        if !self.chain.has_response() {
            return None;
        }
        let verdict = self.chain.response(request, head, &mut self.exchange, &mut self.run);
        self.settle(verdict, record)
    }

    fn settle(&mut self, verdict: Result<Verdict, PolicyFailure>, record: &mut Record) -> Option<Own> {
        match verdict {
            Ok(Verdict::Continue) => None,
            // Whoever wanted to was let ask: see `ask`.
            Ok(Verdict::Ask) => Some(failed("nobody was asked", record)),
            Ok(Verdict::Answer(answer)) => {
                record.policy = self.run.decision().map(|decision| decision.policy);
                self.metrics.short_circuits.one();
                Some(answer.into())
            }
            Err(policy) => {
                record.policy = Some(policy.policy);
                Some(failed(&policy, record))
            }
        }
    }
}

fn failed(why: impl std::fmt::Display, record: &mut Record) -> Own {
    let failure = Failure::with(Reason::PolicyFailed, why);
    let (own, error_id) = failure.answer();
    record.fail(&failure, error_id);
    own
}

impl From<Answer> for OwnAnswer {
    fn from(answer: Answer) -> OwnAnswer {
        let Answer { status, headers, body } = answer;
        OwnAnswer { status, headers, body }
    }
}
