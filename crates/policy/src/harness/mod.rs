// SPDX-License-Identifier: Apache-2.0
//! For tests: messages in memory, a runner for single policies, a policy driven by its
//! parameters ([`Probe`]), and [`exercise`], the trials that every policy must pass.
//! The crates that hold concrete policies and the runtime call it from their tests;
//! no serving path does.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;
use ferrogate_model::Violations;
use ferrogate_model::kinds::rest_api::PolicySpec;
use futures::FutureExt as _;
use http::StatusCode;
use serde_json::Value;

use crate::chain::{Chain, ChainRun, PolicyFailure, operation_prefix};
use crate::client_certificate::ClientCertificate;
use crate::definition::{Attachment, Definition, Level, Services};
use crate::exchange::{Auth, Exchange};
use crate::hooks::{Answer, BodyNeed, Verdict};
use crate::registry::{Registry, RegistryError};

mod exercise;
mod message;
mod probe;

pub use exercise::{exercise, exercise_with};
pub use message::{Request, Response};
pub use probe::Probe;

/// A clock value for tests: 2023-11-14T22:13:20Z, a whole second.
pub const NOW_MS: u64 = 1_700_000_000_000;

/// One route with its chain, to send requests through.
pub struct Route {
    /// The chain under test.
    pub chain: Chain,
    /// Where it is attached.
    pub attachment: Attachment,
    /// Who the client has proved to be.
    pub client_certificate: Option<Arc<ClientCertificate>>,
    /// The clock the next exchange reads.
    pub now_ms: u64,
}

/// What became of one request.
#[derive(Debug)]
pub struct Outcome {
    /// The request as the upstream would see it.
    pub request: Request,
    /// The request's body as the upstream would see it.
    pub request_body: Bytes,
    /// What the client gets: from the upstream, or a policy's answer.
    pub response: Response,
    /// The response's body.
    pub response_body: Bytes,
    /// The answer, when a policy gave one.
    pub answer: Option<Answer>,
    /// The failure, when a policy failed.
    pub failure: Option<PolicyFailure>,
    /// Who the client is, as far as policies found out.
    pub auth: Option<Arc<Auth>>,
    /// The record for the access log.
    pub run: ChainRun,
}

/// The attachment that tests use unless they need another.
#[must_use]
pub fn attachment(level: Level) -> Attachment {
    Attachment {
        api_handle: "books".into(),
        api_name: "Books".into(),
        api_version: "v1.0".into(),
        api_context: "/books".into(),
        operation_path: "/list".into(),
        operation_method: "GET",
        route_name: "GET|/books/list|*".into(),
        level,
    }
}

/// A policy list entry with these parameters.
#[must_use]
pub fn spec(name: &str, params: Value) -> PolicySpec {
    PolicySpec { name: name.to_owned(), version: None, execution_condition: None, params }
}

/// A registry of one policy.
///
/// # Errors
/// When the definition contradicts itself.
pub fn registry_of(definition: &Arc<dyn Definition>) -> Result<Registry, RegistryError> {
    Registry::new(vec![Arc::clone(definition)])
}

impl Route {
    /// A route with one instance of this policy, attached at this level.
    ///
    /// # Errors
    /// With what the deployment would be refused for.
    ///
    /// # Panics
    /// When the definition itself cannot be registered.
    pub fn with_policy(
        definition: &Arc<dyn Definition>,
        params: &Value,
        level: Level,
        services: &Services,
    ) -> Result<Route, Violations> {
        let registry = registry_of(definition).expect("the definition can be registered");
        let specs = [spec(definition.name(), params.clone())];
        let (api, operation) = match level {
            Level::Api => (&specs[..], &[][..]),
            Level::Operation => (&[][..], &specs[..]),
        };
        Route::with_policies(&registry, api, operation, services)
    }

    /// A route with these policies.
    ///
    /// # Errors
    /// With what the deployment would be refused for.
    pub fn with_policies(
        registry: &Registry,
        api: &[PolicySpec],
        operation: &[PolicySpec],
        services: &Services,
    ) -> Result<Route, Violations> {
        let attachment = attachment(Level::Api);
        let prefix = operation_prefix(0);
        let chain = Chain::compile(api, operation, &attachment, registry, services, &prefix)?;
        Ok(Route { chain, attachment, client_certificate: None, now_ms: NOW_MS })
    }

    /// The same route, for a client that has proved to be this one.
    #[must_use]
    pub fn proven(mut self, certificate: ClientCertificate) -> Route {
        self.client_certificate = Some(Arc::new(certificate));
        self
    }

    /// Sends a request and its body through every phase, as the runtime would; the upstream
    /// answers with `response` unless a policy does. An outbound call that does not finish
    /// at once counts as a client that has left: the outcome then stands as it was.
    #[must_use]
    pub fn run(
        &self,
        mut request: Request,
        mut request_body: Bytes,
        mut response: Response,
        mut response_body: Bytes,
    ) -> Outcome {
        let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let mut exchange = Exchange::new(&self.attachment, "request-1", client, self.now_ms);
        exchange.client_certificate.clone_from(&self.client_certificate);
        let mut run = ChainRun::new();
        let mut result = self.run_request(&mut request, &mut request_body, &mut exchange, &mut run);
        if matches!(result, Ok(Verdict::Continue)) {
            result = self.chain.response(&request, &mut response, &mut exchange, &mut run);
        }
        if matches!(result, Ok(Verdict::Continue)) && self.chain.response_body_need() != BodyNeed::None {
            result = self.chain.response_body(
                &request,
                &mut response,
                &mut response_body,
                true,
                &mut exchange,
                &mut run,
            );
        }
        let (answer, failure) = match result {
            // Whoever was asked has answered by now, or never will.
            Ok(Verdict::Continue | Verdict::Ask) => (None, None),
            Ok(Verdict::Answer(answer)) => (Some(answer), None),
            Err(failure) => (None, Some(failure)),
        };
        if let Some(answer) = &answer {
            response = Response::of_answer(answer);
            response_body = answer.body.clone();
        }
        if failure.is_some() {
            response = Response::new(StatusCode::INTERNAL_SERVER_ERROR.as_u16());
            response_body = Bytes::new();
        }
        let auth = exchange.auth.take();
        Outcome { request, request_body, response, response_body, answer, failure, auth, run }
    }

    /// As [`Route::run`], without bodies and with an empty 200 from the upstream.
    #[must_use]
    pub fn send(&self, request: Request) -> Outcome {
        self.run(request, Bytes::new(), Response::new(200), Bytes::new())
    }

    fn run_request(
        &self,
        request: &mut Request,
        body: &mut Bytes,
        exchange: &mut Exchange<'_>,
        run: &mut ChainRun,
    ) -> Result<Verdict, PolicyFailure> {
        let mut verdict = self.chain.request(request, exchange, run)?;
        if verdict == Verdict::Ask {
            let polled = self.chain.request_outbound(request, exchange, run).now_or_never();
            verdict = polled.unwrap_or(Ok(Verdict::Continue))?;
        }
        if !matches!(verdict, Verdict::Continue) || self.chain.request_body_need() == BodyNeed::None {
            return Ok(verdict);
        }
        self.chain.request_body(request, body, true, exchange, run)
    }
}
