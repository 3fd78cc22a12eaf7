// SPDX-License-Identifier: Apache-2.0
//! `jwt-auth`: a signed token on every request (contract 6.3). Reads the header the client
//! sent, asks the [`authority`] whether the token is genuine and `checks` whether it will do
//! here, tells the upstream what the artifact wants told. A token seen before costs one lookup; a
//! request waits only where keys are not there yet or a token names a key nobody knows.
//! Why a token is refused is in the log and never in the answer.

mod authority;
mod cache;
mod checks;
mod keys;
mod settings;
#[cfg(test)]
mod tests;
mod token;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use ferrogate_policy::{
    Answer, Attachment, Auth, CompileError, Definition, Exchange, Fetch, Hooks, OperatorSection, Phases,
    Policy, PolicyError, Registry, RequestHead, Services, Verdict,
};
use futures::future::LocalBoxFuture;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use self::authority::{Authority, Refused, Terms};
use self::checks::{CheckParams, Checks};
use self::token::{Token, text};
use crate::header_list;

/// The name artifacts use.
pub const NAME: &str = "jwt-auth";

/// The operator's section.
const SECTION: &str = "jwtauth_v1";

/// The claim that says who the client is, unless the artifact names another.
const SUBJECT: &str = "sub";

/// The definition.
pub struct JwtAuth;

/// The artifact's parameters over the operator's section; what is allowed in each the two
/// schemas say.
#[derive(Deserialize)]
struct Params {
    #[serde(default)]
    issuers: Vec<String>,
    #[serde(flatten)]
    checks: CheckParams,
    #[serde(default, rename = "claimMappings")]
    claim_mappings: BTreeMap<String, String>,
    #[serde(rename = "authHeaderPrefix")]
    auth_header_prefix: Option<String>,
    #[serde(rename = "headerName")]
    header_name: Option<String>,
    #[serde(rename = "userIdClaim")]
    user_id_claim: Option<String>,
    #[serde(default = "yes", rename = "forwardToken")]
    forward_token: bool,
    #[serde(default = "forwarded", rename = "forwardedTokenHeader")]
    forwarded_token_header: String,
    #[serde(default, rename = "forwardTokenStripScheme")]
    forward_token_strip_scheme: bool,
    authheaderscheme: String,
    headername: String,
    onfailurestatuscode: u16,
    errormessageformat: Format,
    errormessage: String,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    Json,
    Plain,
    Minimal,
}

struct Instance {
    /// Absent where policies are only tried.
    authority: Option<Arc<Shared>>,
    header: HeaderName,
    scheme: String,
    issuers: Vec<String>,
    checks: Checks,
    /// Another claim than `sub` that says who the client is.
    user_id_claim: Option<String>,
    mappings: Vec<(String, HeaderName)>,
    forward: Forward,
    rejection: Answer,
}

/// What the instances share; its type is how [`Services`] finds it.
pub struct Shared(Authority);

/// What becomes of the token.
enum Forward {
    /// It is not for the upstream, and neither is what would look like it in this header.
    Remove { to: HeaderName },
    /// It goes on as it came.
    Keep,
    /// It goes on in this header, with or without the scheme.
    Move { to: HeaderName, bare: bool },
}

fn yes() -> bool {
    true
}

fn forwarded() -> String {
    "x-forwarded-authorization".to_owned()
}

impl Definition for JwtAuth {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> &'static str {
        "v1.3.0"
    }

    fn description(&self) -> &'static str {
        "Asks for a signed token (JWT) of a key manager that the operator trusts."
    }

    fn schema(&self) -> &'static str {
        include_str!("schema.json")
    }

    fn operator_section(&self) -> Option<OperatorSection> {
        Some(OperatorSection { name: SECTION, schema: include_str!("operator.json"), check: settings::check })
    }

    fn is_made_of_parameters(&self) -> bool {
        true
    }

    fn compile(&self, params: &Value, _: &Attachment, services: &Services) -> Result<Policy, CompileError> {
        let params = Params::deserialize(params).map_err(|error| header_list::unreadable(&error))?;
        let name = params.header_name.as_deref().unwrap_or(&params.headername);
        let header = header_list::writable("headerName", name)?;
        let to = header_list::writable("forwardedTokenHeader", &params.forwarded_token_header)?;
        let bare = params.forward_token_strip_scheme;
        let forward = match (params.forward_token, to == header && !bare) {
            (false, _) => Forward::Remove { to },
            (true, true) => Forward::Keep,
            (true, false) => Forward::Move { to, bare },
        };
        let rejection = rejection(&params)?;
        let mut mappings = Vec::with_capacity(params.claim_mappings.len());
        for (claim, header) in params.claim_mappings {
            let header = header_list::writable(&format!("claimMappings.{claim}"), &header)?;
            mappings.push((claim, header));
        }
        Ok(Box::new(Instance {
            authority: services.shared.get(),
            header,
            scheme: params.auth_header_prefix.unwrap_or(params.authheaderscheme),
            issuers: params.issuers,
            checks: params.checks.into(),
            user_id_claim: params.user_id_claim.filter(|claim| claim != SUBJECT),
            mappings,
            forward,
            rejection,
        }))
    }
}

/// What the instances share, as the operator configured it: `None` when the registry has no such
/// policy, or a section that was not checked.
#[must_use]
pub fn authority(registry: &Registry, fetch: Arc<dyn Fetch>) -> Option<Arc<Shared>> {
    let registered = registry.resolve(NAME, None).ok()?;
    let authority = settings::authority(registered.operator_values(), &fetch).ok()?;
    Some(Arc::new(Shared(authority)))
}

/// The answer to every token that will not do (contract 6.3): it says nothing of why.
fn rejection(params: &Params) -> Result<Answer, CompileError> {
    let refused = |message: &str| CompileError { field: String::new(), message: message.to_owned() };
    let status = StatusCode::from_u16(params.onfailurestatuscode)
        .map_err(|_| refused("the operator's onfailurestatuscode is no status"))?;
    let message = params.errormessage.as_str();
    let (kind, body) = match params.errormessageformat {
        Format::Json => {
            ("application/json", json!({"error": "Unauthorized", "message": message}).to_string())
        }
        Format::Plain => ("text/plain", message.to_owned()),
        Format::Minimal => ("text/plain", "Unauthorized".to_owned()),
    };
    let headers = vec![(CONTENT_TYPE, HeaderValue::from_static(kind))];
    Ok(Answer { status, headers, body: Bytes::from(body) })
}

impl Instance {
    fn judge(&self, head: &dyn RequestHead, now_ms: u64) -> Result<Arc<Token>, Refused> {
        let Some(shared) = &self.authority else { return Err(Refused::NoKey(0)) };
        let terms = Terms { scheme: &self.scheme, issuers: &self.issuers };
        let value =
            head.only_original(&self.header).ok_or(Refused::Rejected("there is not exactly one token"))?;
        let token = shared.0.judge(value, &terms, now_ms)?;
        match self.checks.missing(&token) {
            Some(missing) => Err(Refused::Rejected(missing)),
            None => Ok(token),
        }
    }

    /// Lets a good token's request pass and answers any other.
    fn settle(
        &self,
        judged: Result<Arc<Token>, Refused>,
        head: &mut dyn RequestHead,
        exchange: &mut Exchange<'_>,
    ) -> Verdict {
        match judged {
            Ok(token) => {
                self.tell(&token, head);
                exchange.auth = Some(self.auth(&token));
                Verdict::Continue
            }
            Err(refused) => {
                let why = match refused {
                    Refused::Rejected(why) => why,
                    Refused::NoKey(_) => "no key is known that could have signed the token",
                };
                tracing::debug!(
                    policy = NAME,
                    route = %exchange.route.route_name,
                    request_id = exchange.request_id,
                    why,
                    "a token was refused"
                );
                Verdict::Answer(self.rejection.clone())
            }
        }
    }

    /// What the upstream sees.
    fn tell(&self, token: &Token, head: &mut dyn RequestHead) {
        match &self.forward {
            Forward::Keep => {}
            Forward::Remove { to } => {
                head.remove(&self.header);
                head.remove(to);
            }
            Forward::Move { to, bare } => {
                head.remove(&self.header);
                head.set(to, if *bare { token.bare.clone() } else { token.whole.clone() });
            }
        }
        // After it: a claim that is mapped to one of these headers was meant. All are removed first,
        // or else the client could say what the token does not; not one by one, as several claims
        // may be mapped to one header and one that is absent must not undo another.
        for (_, header) in &self.mappings {
            head.remove(header);
        }
        for (claim, header) in &self.mappings {
            let told = token.claims.get(claim).filter(|value| !value.is_null());
            if let Some(value) = told.and_then(|value| HeaderValue::try_from(text(value)).ok()) {
                head.set(header, value);
            }
        }
    }

    fn auth(&self, token: &Token) -> Arc<Auth> {
        match &self.user_id_claim {
            None => Arc::clone(&token.auth),
            Some(claim) => {
                let subject = token.claims.get(claim).map(text).unwrap_or_default();
                Arc::new(Auth { subject, ..Auth::clone(&token.auth) })
            }
        }
    }
}

impl Hooks for Instance {
    fn phases(&self) -> Phases {
        Phases { request: true, ..Phases::default() }
    }

    fn on_request(
        &self,
        head: &mut dyn RequestHead,
        exchange: &mut Exchange<'_>,
    ) -> Result<Verdict, PolicyError> {
        let shared = self.authority.as_deref().filter(|shared| !shared.0.managers.is_empty());
        let Some(Shared(authority)) = shared else {
            return Err(PolicyError(format!(
                "no key manager is configured in policy_configurations.{SECTION}"
            )));
        };
        let judged = self.judge(head, exchange.now_ms);
        if let Err(Refused::NoKey(managers)) = judged
            && authority.seek(managers, exchange.now_ms)
        {
            return Ok(Verdict::Ask);
        }
        Ok(self.settle(judged, head, exchange))
    }

    fn on_request_outbound<'f>(
        &'f self,
        head: &'f mut dyn RequestHead,
        exchange: &'f mut Exchange<'_>,
    ) -> LocalBoxFuture<'f, Result<Verdict, PolicyError>> {
        Box::pin(async move {
            if let (Some(Shared(authority)), Err(Refused::NoKey(managers))) =
                (self.authority.as_deref(), self.judge(head, exchange.now_ms))
            {
                // At most the timeout of one try: `Fetch` keeps that, whatever the source does.
                authority.answered(managers).await;
            }
            let judged = self.judge(head, exchange.now_ms);
            Ok(self.settle(judged, head, exchange))
        })
    }
}
