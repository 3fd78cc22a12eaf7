// SPDX-License-Identifier: Apache-2.0
//! `cors`: answers preflights and marks responses for scripts of other origins
//! (contract 6.7). Reads the method and headers the client sent. Combinations that
//! browsers refuse, and expressions that do not compile, are refused at deployment.

use ferrogate_policy::{
    Attachment, CompileError, Definition, Exchange, Hooks, Phases, Policy, PolicyError, RequestHead,
    ResponseHead, Services, Verdict,
};
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ORIGIN, VARY,
};
use http::{HeaderName, HeaderValue};
use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use serde_json::Value;

use crate::header_list;

mod preflight;
#[cfg(test)]
mod tests;

use preflight::Preflight;

/// The name artifacts use.
pub const NAME: &str = "cors";

/// The most memory one compiled expression may take, in bytes: it is held once per route.
const MAX_REGEX_BYTES: usize = 256 << 10;

/// What this policy says in the upstream's place. Beside an origin that the policy grants, what
/// the upstream says for itself would widen the grant to what nobody configured.
const GOVERNED: [HeaderName; 6] = [
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_EXPOSE_HEADERS,
];

/// The definition.
pub struct Cors;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Params {
    allowed_origins: Option<Vec<String>>,
    allowed_methods: Option<Vec<String>>,
    #[serde(default)]
    allowed_headers: Vec<String>,
    #[serde(default)]
    exposed_headers: Vec<String>,
    max_age: Option<i64>,
    allow_credentials: Option<bool>,
    #[serde(default)]
    forward_preflight: bool,
}

struct Instance {
    origins: Origins,
    preflight: Preflight,
    exposed_headers: Option<HeaderValue>,
    allow_credentials: bool,
    forward_preflight: bool,
}

/// Which origins may call.
enum Origins {
    Any,
    /// Unanchored, as the contract has it.
    Matching(Vec<Regex>),
}

/// Kept from request to response: types without content, which cost no allocation.
struct OriginAllowed;
struct OriginDenied;

impl Definition for Cors {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> &'static str {
        "v1.0.2"
    }

    fn description(&self) -> &'static str {
        "Lets scripts of other origins call the API (cross-origin resource sharing)."
    }

    fn schema(&self) -> &'static str {
        include_str!("schema.json")
    }

    fn is_made_of_parameters(&self) -> bool {
        true
    }

    fn compile(&self, params: &Value, _: &Attachment, _: &Services) -> Result<Policy, CompileError> {
        let params = Params::deserialize(params).map_err(|error| header_list::unreadable(&error))?;
        let origins = params.allowed_origins.unwrap_or_else(|| vec!["*".to_owned()]);
        let methods = params
            .allowed_methods
            .unwrap_or_else(|| ["GET", "POST", "PUT", "DELETE", "OPTIONS"].map(str::to_owned).to_vec());
        let allow_credentials = params.allow_credentials.unwrap_or(false);
        if allow_credentials {
            for (field, list) in [
                ("allowedOrigins", &origins),
                ("allowedMethods", &methods),
                ("allowedHeaders", &params.allowed_headers),
                ("exposedHeaders", &params.exposed_headers),
            ] {
                if has_star(list) {
                    let message = format!("allowCredentials cannot be combined with '*' in {field}");
                    return Err(CompileError { field: field.to_owned(), message });
                }
            }
        }
        Ok(Box::new(Instance {
            origins: Origins::compile(&origins)?,
            preflight: Preflight::compile(
                &methods,
                params.allowed_headers,
                params.max_age,
                allow_credentials,
            )?,
            exposed_headers: joined("exposedHeaders", &params.exposed_headers)?,
            allow_credentials,
            forward_preflight: params.forward_preflight,
        }))
    }
}

fn has_star(list: &[String]) -> bool {
    list.iter().any(|entry| entry == "*")
}

/// The entries as one header value; `None` when there are none.
fn joined(field: &str, list: &[String]) -> Result<Option<HeaderValue>, CompileError> {
    if list.is_empty() {
        return Ok(None);
    }
    HeaderValue::try_from(list.join(", ")).map(Some).map_err(|_| CompileError {
        field: field.to_owned(),
        message: "entries must not contain control characters".to_owned(),
    })
}

impl Origins {
    fn compile(list: &[String]) -> Result<Origins, CompileError> {
        if has_star(list) {
            return Ok(Origins::Any);
        }
        let compile = |(index, pattern): (usize, &String)| {
            RegexBuilder::new(pattern)
                .size_limit(MAX_REGEX_BYTES)
                .dfa_size_limit(MAX_REGEX_BYTES)
                .build()
                .map_err(|error| CompileError {
                    field: format!("allowedOrigins.{index}"),
                    message: format!("not a valid regular expression: {error}"),
                })
        };
        list.iter().enumerate().map(compile).collect::<Result<_, _>>().map(Origins::Matching)
    }

    /// What `access-control-allow-origin` is to say; `None` when the origin may not call.
    fn allow(&self, origin: &[u8]) -> Option<HeaderValue> {
        match self {
            Origins::Any => Some(HeaderValue::from_static("*")),
            Origins::Matching(patterns) => {
                let text = std::str::from_utf8(origin).ok()?;
                let matches = patterns.iter().any(|pattern| pattern.is_match(text));
                matches.then(|| HeaderValue::from_bytes(origin).ok())?
            }
        }
    }

    fn echoes(&self) -> bool {
        matches!(self, Origins::Matching(_))
    }
}

impl Hooks for Instance {
    fn phases(&self) -> Phases {
        Phases { request: true, response: true, ..Phases::default() }
    }

    fn on_request(
        &self,
        head: &mut dyn RequestHead,
        exchange: &mut Exchange<'_>,
    ) -> Result<Verdict, PolicyError> {
        let origin = head.original(&ORIGIN);
        let allowed = origin.and_then(|origin| self.origins.allow(origin));
        if head.original_method() == "OPTIONS" {
            return Ok(match allowed.and_then(|allowed| self.preflight.allow(head, allowed)) {
                Some(answer) => Verdict::Answer(answer),
                // The upstream then decides, and its answer is left as it is.
                None if self.forward_preflight => Verdict::Continue,
                None => Verdict::Answer(Preflight::deny()),
            });
        }
        match (origin, allowed) {
            (None, _) => {}
            (Some(_), Some(_)) => exchange.keep(OriginAllowed),
            (Some(_), None) => exchange.keep(OriginDenied),
        }
        Ok(Verdict::Continue)
    }

    fn on_response(
        &self,
        request: &dyn RequestHead,
        head: &mut dyn ResponseHead,
        exchange: &mut Exchange<'_>,
    ) -> Result<Verdict, PolicyError> {
        let allowed = exchange.kept::<OriginAllowed>().is_some();
        if allowed || exchange.kept::<OriginDenied>().is_some() {
            GOVERNED.iter().for_each(|name| head.remove(name));
        }
        if allowed {
            self.mark(request, head);
        }
        Ok(Verdict::Continue)
    }
}

impl Instance {
    /// Marks the response to an allowed origin.
    fn mark(&self, request: &dyn RequestHead, head: &mut dyn ResponseHead) {
        let value = match &self.origins {
            Origins::Any => Some(HeaderValue::from_static("*")),
            Origins::Matching(_) => {
                request.original(&ORIGIN).and_then(|origin| HeaderValue::from_bytes(origin).ok())
            }
        };
        if let Some(value) = value {
            head.set(&ACCESS_CONTROL_ALLOW_ORIGIN, value);
        }
        if self.origins.echoes() && !varies_by_origin(head) {
            head.append(&VARY, HeaderValue::from_static("Origin"));
        }
        if let Some(exposed) = &self.exposed_headers {
            head.set(&ACCESS_CONTROL_EXPOSE_HEADERS, exposed.clone());
        }
        if self.allow_credentials {
            head.set(&ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }
}

/// Whether the upstream has said already that its response depends on the origin.
fn varies_by_origin(head: &dyn ResponseHead) -> bool {
    let mut varies = false;
    head.each(&VARY, &mut |value| {
        let mut names = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        varies |= names.any(|name| name == b"*" || name.eq_ignore_ascii_case(b"origin"));
    });
    varies
}
