// SPDX-License-Identifier: Apache-2.0
//! The policies of one request on the hot path: the chain's head hooks, and what becomes of
//! an answer or a failure of theirs. It never fails open. `exchange` calls it before the
//! upstream and after.

use ferrogate_policy::chain::PolicyFailure;
use ferrogate_policy::{Answer, Chain, ChainRun, Exchange, Verdict};

use super::answer::Own;
use super::request_head::RequestView;
use super::response_head::ResponseView;
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
    pub fn ask(&mut self, head: &mut RequestView<'_>, record: &mut Record) -> Option<Own> {
        if !self.chain.has_request() {
            return None;
        }
        let verdict = self.chain.request(head, &mut self.exchange, &mut self.run);
        self.settle(verdict, record)
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
            Ok(Verdict::Answer(answer)) => {
                record.policy = self.run.decision().map(|decision| decision.policy);
                self.metrics.short_circuits.one();
                Some(answer.into())
            }
            Err(policy) => {
                record.policy = Some(policy.policy);
                let failure = Failure::with(Reason::PolicyFailed, &policy);
                let (own, error_id) = failure.answer();
                record.fail(&failure, error_id);
                Some(own)
            }
        }
    }
}

impl From<Answer> for OwnAnswer {
    fn from(answer: Answer) -> OwnAnswer {
        let Answer { status, headers, body } = answer;
        OwnAnswer { status, headers, body }
    }
}
