// SPDX-License-Identifier: Apache-2.0
//! The chain: the compiled policies of one route, and how they run (contract 5.1).
//! Request hooks run first to last, every header hook before any body hook; response
//! hooks run last to first. An answer or a failure ends the chain: it never fails open.
//! Compiled in [`compile`], by the controller on trial and by the runtime for good; what
//! no policy of the route asks for costs the request nothing.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::condition::{Condition, Scene};
use crate::exchange::Exchange;
use crate::head::{RequestHead, ResponseHead};
use crate::hooks::{BodyNeed, Phases, Policy, PolicyError, Verdict};

pub use crate::condition::Phase;

mod compile;
mod instances;
mod run;

pub use compile::{MAX_POLICIES, admit, operation_prefix};
pub use instances::Instances;
pub use run::{ChainRun, Decision, Outcome, PolicyFailure};

/// The compiled policies of one route. The default is the empty chain.
#[derive(Default)]
pub struct Chain {
    /// Those of the API are shared by all its operations. Few enough stand here themselves,
    /// which saves a request a look elsewhere.
    steps: SmallVec<[Arc<Step>; 4]>,
    needs: Phases,
    /// A condition looks at the request's body after its own phase.
    keeps_request_body: bool,
}

struct Step {
    name: &'static str,
    policy: Policy,
    phases: Phases,
    condition: Option<Condition>,
}

impl Chain {
    /// No policies at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// How many policies.
    #[must_use]
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Some policy has a request header hook; without one, [`Chain::request`] need not be called.
    #[must_use]
    pub fn has_request(&self) -> bool {
        self.needs.request
    }

    /// How the request's body is wanted: the most that any policy asks for.
    #[must_use]
    pub fn request_body_need(&self) -> BodyNeed {
        self.needs.request_body
    }

    /// Some policy has a response header hook; without one, [`Chain::response`] need not be called.
    #[must_use]
    pub fn has_response(&self) -> bool {
        self.needs.response
    }

    /// How the response's body is wanted: the most that any policy asks for.
    #[must_use]
    pub fn response_body_need(&self) -> BodyNeed {
        self.needs.response_body
    }

    /// The request header hooks, first to last. After [`Verdict::Ask`] the caller goes on with
    /// [`Chain::request_outbound`].
    ///
    /// # Errors
    /// When a policy or a condition fails.
    pub fn request(
        &self,
        head: &mut dyn RequestHead,
        exchange: &mut Exchange<'_>,
        run: &mut ChainRun,
    ) -> Result<Verdict, PolicyFailure> {
        self.request_from(0, head, exchange, run)
    }

    /// Lets the policy at which [`Chain::request`] stopped ask, and goes on from there. May be
    /// dropped at any await: the request is then over, and nothing of it is kept.
    ///
    /// # Errors
    /// When a policy or a condition fails.
    pub async fn request_outbound(
        &self,
        head: &mut dyn RequestHead,
        exchange: &mut Exchange<'_>,
        run: &mut ChainRun,
    ) -> Result<Verdict, PolicyFailure> {
        let mut verdict = Verdict::Ask;
        while let (Verdict::Ask, Some(step)) = (&verdict, self.steps.get(run.asking())) {
            exchange.enter(run.asking());
            let told = step.policy.on_request_outbound(head, exchange).await;
            verdict = match run.settle(step.name, Phase::RequestHeaders, told)? {
                Verdict::Continue => self.request_from(run.asking() + 1, head, exchange, run)?,
                answered => answered,
            };
        }
        Ok(verdict)
    }

    fn request_from(
        &self,
        first: usize,
        head: &mut dyn RequestHead,
        exchange: &mut Exchange<'_>,
        run: &mut ChainRun,
    ) -> Result<Verdict, PolicyFailure> {
        for (index, step) in self.steps.iter().enumerate().skip(first) {
            if !step.phases.request {
                continue;
            }
            exchange.enter(index);
            let verdict = match step.applies(|| Scene::of_request(head, exchange)) {
                Ok(true) => step.policy.on_request(head, exchange),
                Ok(false) => continue,
                Err(error) => Err(error),
            };
            match verdict {
                Ok(Verdict::Continue) => {}
                Ok(Verdict::Ask) => {
                    run.stop_to_ask(index);
                    return Ok(Verdict::Ask);
                }
                ended => return run.settle(step.name, Phase::RequestHeaders, ended),
            }
        }
        Ok(Verdict::Continue)
    }

    /// The request body hooks, first to last: once with the whole body (`last` is true; an
    /// absent body is empty) when [`Chain::request_body_need`] says so, else for each chunk.
    ///
    /// # Errors
    /// When a policy or a condition fails.
    pub fn request_body(
        &self,
        head: &mut dyn RequestHead,
        body: &mut Bytes,
        last: bool,
        exchange: &mut Exchange<'_>,
        run: &mut ChainRun,
    ) -> Result<Verdict, PolicyFailure> {
        let phase = Phase::RequestBody;
        if run.decision().is_some() {
            return Ok(Verdict::Continue);
        }
        for (index, step) in self.steps.iter().enumerate() {
            if step.phases.request_body == BodyNeed::None {
                continue;
            }
            exchange.enter(index);
            let scene =
                || Scene { phase, request_body: Some((body, last)), ..Scene::of_request(head, exchange) };
            let verdict = match step.applies(scene) {
                Ok(true) => step.policy.on_request_body(head, body, last, exchange),
                Ok(false) => continue,
                Err(error) => Err(error),
            };
            if !matches!(verdict, Ok(Verdict::Continue)) {
                return run.settle(step.name, phase, verdict);
            }
        }
        // A streamed body is not gathered for later conditions: its last chunk would pass for all of it.
        if self.keeps_request_body && self.needs.request_body == BodyNeed::Buffered {
            run.keep_request_body(body);
        }
        Ok(Verdict::Continue)
    }

    /// The response header hooks, last to first. After an answer or a failure nothing runs:
    /// that answer is not an upstream's.
    ///
    /// # Errors
    /// When a policy or a condition fails.
    pub fn response(
        &self,
        request: &dyn RequestHead,
        head: &mut dyn ResponseHead,
        exchange: &mut Exchange<'_>,
        run: &mut ChainRun,
    ) -> Result<Verdict, PolicyFailure> {
        let phase = Phase::ResponseHeaders;
        if run.decision().is_some() {
            return Ok(Verdict::Continue);
        }
        for (index, step) in self.steps.iter().enumerate().rev() {
            if !step.phases.response {
                continue;
            }
            exchange.enter(index);
            let scene = || Scene {
                phase,
                request_body: run.request_body(),
                response: Some(head),
                ..Scene::of_request(request, exchange)
            };
            let verdict = match step.applies(scene) {
                Ok(true) => step.policy.on_response(request, head, exchange),
                Ok(false) => continue,
                Err(error) => Err(error),
            };
            if !matches!(verdict, Ok(Verdict::Continue)) {
                return run.settle(step.name, phase, verdict);
            }
        }
        Ok(Verdict::Continue)
    }

    /// The response body hooks, last to first, as [`Chain::request_body`].
    ///
    /// # Errors
    /// When a policy or a condition fails.
    pub fn response_body(
        &self,
        request: &dyn RequestHead,
        head: &mut dyn ResponseHead,
        body: &mut Bytes,
        last: bool,
        exchange: &mut Exchange<'_>,
        run: &mut ChainRun,
    ) -> Result<Verdict, PolicyFailure> {
        let phase = Phase::ResponseBody;
        if run.decision().is_some() {
            return Ok(Verdict::Continue);
        }
        for (index, step) in self.steps.iter().enumerate().rev() {
            if step.phases.response_body == BodyNeed::None {
                continue;
            }
            exchange.enter(index);
            let scene = || Scene {
                phase,
                request_body: run.request_body(),
                response: Some(head),
                response_body: Some((body, last)),
                ..Scene::of_request(request, exchange)
            };
            let verdict = match step.applies(scene) {
                Ok(true) => step.policy.on_response_body(request, head, body, last, exchange),
                Ok(false) => continue,
                Err(error) => Err(error),
            };
            if !matches!(verdict, Ok(Verdict::Continue)) {
                return run.settle(step.name, phase, verdict);
            }
        }
        Ok(Verdict::Continue)
    }
}

impl Step {
    /// Whether the condition, if any, holds; the scene is built only if there is one.
    fn applies<'a>(&self, scene: impl FnOnce() -> Scene<'a>) -> Result<bool, PolicyError> {
        match &self.condition {
            None => Ok(true),
            Some(condition) => condition.holds(&scene()),
        }
    }
}

impl<'a> Scene<'a> {
    fn of_request(request: &'a dyn RequestHead, exchange: &'a Exchange<'a>) -> Scene<'a> {
        let phase = Phase::RequestHeaders;
        Scene { phase, request, request_body: None, response: None, response_body: None, exchange }
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.steps.iter().map(|step| step.name)).finish()
    }
}

#[cfg(test)]
mod tests;
