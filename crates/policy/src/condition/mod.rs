// SPDX-License-Identifier: Apache-2.0
//! Execution conditions: the CEL expression that decides, phase by phase, whether a
//! policy applies (contract 5.2). Compiled and tried when the artifact is deployed, so
//! that a bad one is refused there; evaluated with only those fields built that the
//! expression names. A condition that fails or gives no boolean fails the request:
//! it must never let one pass. Called by [`crate::Chain`].

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use cel::objects::Key;
use cel::{Context, Env, ExecutionError, Program, Value};

use crate::exchange::Exchange;
use crate::head::{Headers, RequestHead, ResponseHead};
use crate::hooks::PolicyError;

mod fields;

use fields::{Field, Uses, Variable};

/// The longest condition accepted, in bytes: parsing takes time and stack by length.
pub const MAX_CONDITION_BYTES: usize = 4096;

/// The standard functions; the same for every evaluation, and costly to build.
static STANDARD: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// The phase a chain is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// `on_request` and `on_request_outbound`.
    RequestHeaders,
    /// `on_request_body`.
    RequestBody,
    /// `on_response`.
    ResponseHeaders,
    /// `on_response_body`.
    ResponseBody,
}

/// A compiled condition.
pub(crate) struct Condition {
    program: Program,
    uses: Uses,
}

/// Why a condition was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConditionError {
    /// The text is no CEL expression.
    #[error("not a valid CEL expression: {0}")]
    Syntax(String),
    /// It is longer than [`MAX_CONDITION_BYTES`].
    #[error("a condition has at most {MAX_CONDITION_BYTES} bytes")]
    TooLong,
    /// It iterates within iterations, whose cost would be the client's to choose.
    #[error("iterations (all, exists, map, …) are nested at most {0} deep")]
    TooDeep(usize),
    /// What it iterates over is written in it, and is too much.
    #[error(
        "it takes more than {0} steps: shorten the lists and maps that its iterations (all, exists, map, …) \
         go over, or what they do with each element"
    )]
    TooCostly(usize),
    /// It names a variable, field or function that does not exist.
    #[error("'{0}' does not exist in conditions")]
    Unknown(String),
    /// It gives something else than true or false.
    #[error("a condition must give a boolean, this one gives {0}")]
    NotBoolean(String),
}

/// What a condition can look at.
#[derive(Clone, Copy)]
pub(crate) struct Scene<'a> {
    pub phase: Phase,
    pub request: &'a dyn RequestHead,
    /// The body, and whether this is all of it.
    pub request_body: Option<(&'a Bytes, bool)>,
    pub response: Option<&'a dyn ResponseHead>,
    pub response_body: Option<(&'a Bytes, bool)>,
    pub exchange: &'a Exchange<'a>,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Phase; 4] =
        [Phase::RequestHeaders, Phase::RequestBody, Phase::ResponseHeaders, Phase::ResponseBody];

    /// The name conditions and logs use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Phase::RequestHeaders => "request_headers",
            Phase::RequestBody => "request_body",
            Phase::ResponseHeaders => "response_headers",
            Phase::ResponseBody => "response_body",
        }
    }
}

impl Condition {
    /// Compiles a condition and tries it on an empty request.
    pub(crate) fn compile(text: &str) -> Result<Condition, ConditionError> {
        if text.len() > MAX_CONDITION_BYTES {
            return Err(ConditionError::TooLong);
        }
        let program = Program::compile(text).map_err(|errors| {
            let told: Vec<String> = errors
                .errors
                .iter()
                .map(|error| format!("line {}, column {}: {}", error.pos.0, error.pos.1, error.msg.trim()))
                .collect();
            ConditionError::Syntax(told.join("; "))
        })?;
        let uses = Uses::of(program.expression())?;
        let condition = Condition { program, uses };
        condition.try_out()?;
        Ok(condition)
    }

    /// Whether the condition looks at the request's body, in any phase.
    pub(crate) fn wants_request_body(&self) -> bool {
        self.uses.has(Variable::Request, Field::Body) || self.uses.has(Variable::Response, Field::RequestBody)
    }

    /// Whether the policy applies.
    pub(crate) fn holds(&self, scene: &Scene<'_>) -> Result<bool, PolicyError> {
        match self.evaluate(|field| scene.value(field)) {
            Ok(Value::Bool(holds)) => Ok(holds),
            Ok(other) => {
                Err(PolicyError(format!("execution condition gave {}, not a boolean", other.type_of())))
            }
            Err(error) => Err(PolicyError(format!("execution condition failed: {}", kind_of(&error)))),
        }
    }

    /// Finds at deployment what would fail every request: calls of unknown functions, and
    /// results that are no booleans. Missing keys and the like depend on the request.
    fn try_out(&self) -> Result<(), ConditionError> {
        for phase in Phase::ALL {
            match self.evaluate(|field| field.sample(phase)) {
                Ok(Value::Bool(_)) => {}
                Ok(other) => return Err(ConditionError::NotBoolean(other.type_of().to_string())),
                Err(ExecutionError::UndeclaredReference(name)) => {
                    return Err(ConditionError::Unknown(name.as_ref().clone()));
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn evaluate(&self, value_of: impl Fn(Field) -> Value) -> Result<Value, ExecutionError> {
        let mut context = Context::with_env(Arc::clone(&STANDARD));
        for variable in Variable::ALL {
            let fields = self.uses.fields(variable);
            let map: HashMap<String, Value> =
                fields.map(|(spelled, field)| (spelled.to_owned(), value_of(field))).collect();
            if !map.is_empty() {
                context.add_variable_from_value(variable.as_str(), map);
            }
        }
        self.program.execute(&context)
    }
}

impl Scene<'_> {
    fn value(&self, field: Field) -> Value {
        match field {
            Field::Phase => self.phase.as_str().into(),
            Field::RequestId => self.exchange.request_id.into(),
            Field::ClientCertificate => match &self.exchange.client_certificate {
                Some(certificate) => fields::certificate_value(certificate),
                None => Value::Null,
            },
            Field::Metadata => metadata(self.exchange),
            Field::Headers | Field::RequestHeaders => request_headers(self.request),
            Field::Path | Field::RequestPath => self.request.path_and_query().into(),
            Field::Method | Field::RequestMethod => self.request.method().into(),
            Field::Body | Field::RequestBody => body(self.request_body),
            Field::ResponseHeaders => match self.response {
                Some(head) => collect(head, HashMap::new()),
                None => HashMap::<String, Value>::new().into(),
            },
            Field::ResponseBody => body(self.response_body),
            Field::ResponseStatus => {
                Value::Int(self.response.map_or(0, |head| i64::from(head.status().as_u16())))
            }
        }
    }
}

/// The kind of failure only: the library's messages quote values, and values may be credentials.
fn kind_of(error: &ExecutionError) -> &'static str {
    match error {
        ExecutionError::NoSuchKey(_) => "no such key",
        ExecutionError::IndexOutOfBounds(_) => "index out of bounds",
        ExecutionError::UndeclaredReference(_) => "undeclared reference",
        ExecutionError::NoSuchOverload(_) => "no matching overload",
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "division by zero",
        ExecutionError::Overflow(..) => "overflow",
        _ => "evaluation error",
    }
}

fn metadata(exchange: &Exchange<'_>) -> Value {
    // JSON always has a CEL form; should the conversion ever fail, null makes the look-up fail closed.
    cel::to_value(&exchange.metadata).unwrap_or(Value::Null)
}

fn request_headers(head: &dyn RequestHead) -> Value {
    let pseudo = [
        (":method", head.method()),
        (":path", head.path_and_query()),
        (":authority", head.authority()),
        (":scheme", head.scheme()),
    ];
    let pseudo = pseudo.map(|(name, value)| (name.to_owned(), vec![Value::from(value)]));
    collect(head, HashMap::from(pseudo))
}

/// All values by lower-case name; bytes that are no UTF-8 are replaced.
fn collect<H: Headers + ?Sized>(head: &H, mut by_name: HashMap<String, Vec<Value>>) -> Value {
    head.all(&mut |name, value| {
        let value = Value::from(String::from_utf8_lossy(value).into_owned());
        by_name.entry(name.to_ascii_lowercase()).or_default().push(value);
    });
    let by_name: HashMap<Key, Value> =
        by_name.into_iter().map(|(name, values)| (Key::from(name), Value::from(values))).collect();
    by_name.into()
}

fn body(body: Option<(&Bytes, bool)>) -> Value {
    let Some((content, last)) = body else { return Value::Null };
    let content = Value::Bytes(Arc::new(content.to_vec()));
    fields::body_value(&content, last)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;

    use bytes::Bytes;
    use serde_json::json;

    use super::{Condition, ConditionError, MAX_CONDITION_BYTES, Phase, Scene, fields};
    use crate::client_certificate::ClientCertificate;
    use crate::definition::Attachment;
    use crate::exchange::Exchange;
    use crate::harness::{Request, Response};

    fn holds(text: &str, phase: Phase) -> Result<bool, String> {
        let condition = Condition::compile(text).map_err(|error| error.to_string())?;
        let request =
            Request::new("POST", "/books?x=1").with("X-Tier", "gold").with("accept", "a").with("accept", "b");
        let response = Response::new(404).with("server", "s");
        let attachment = Attachment::default();
        let mut exchange = Exchange::new(&attachment, "id-1", IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        exchange.client_certificate = Some(Arc::new(ClientCertificate {
            subject: "CN=ann".to_owned(),
            dns_names: vec!["a.example".to_owned()],
            ..ClientCertificate::default()
        }));
        exchange.metadata.insert("authenticated".to_owned(), json!(true));
        exchange.metadata.insert("deep".to_owned(), json!({"list": [1, 2]}));
        let body = Bytes::from_static(b"hello");
        let in_response = matches!(phase, Phase::ResponseHeaders | Phase::ResponseBody);
        let scene = Scene {
            phase,
            request: &request,
            request_body: (phase == Phase::RequestBody).then_some((&body, true)),
            response: if in_response { Some(&response) } else { None },
            response_body: (phase == Phase::ResponseBody).then_some((&body, false)),
            exchange: &exchange,
        };
        condition.holds(&scene).map_err(|error| error.0)
    }

    #[test]
    fn conditions_see_what_the_contract_names() {
        let (head, body) = (Phase::RequestHeaders, Phase::RequestBody);
        let (response, response_body) = (Phase::ResponseHeaders, Phase::ResponseBody);
        for (text, phase, expected) in [
            ("processing.phase == 'request_headers'", head, true),
            ("processing.phase == 'request_headers'", response, false),
            ("request.Method == 'POST' && request.Path == '/books?x=1'", head, true),
            ("request.method == 'GET'", head, false),
            ("request.RequestID == 'id-1'", head, true),
            ("request.Headers['x-tier'] == ['gold']", head, true),
            ("request.Headers['accept'][1] == 'b'", head, true),
            ("'x-none' in request.Headers", head, false),
            ("request.Headers[':method'][0] == 'POST'", head, true),
            ("request.metadata['authenticated']", head, true),
            ("request.Metadata.deep.list[1] == 2", head, true),
            ("request.ClientCertificate.Subject == 'CN=ann'", head, true),
            ("'a.example' in request.clientCertificate.dnsNames", head, true),
            ("request.ClientCertificate == null", head, false),
            ("request.Body == null", head, true),
            (
                "request.Body.Content == b'hello' && request.Body.EndOfStream && request.Body.Present",
                body,
                true,
            ),
            ("request.body.present", body, true),
            ("response.ResponseStatus == 0", head, true),
            ("response.ResponseStatus == 404", response, true),
            ("response.ResponseHeaders.size() == 0", head, true),
            ("response.ResponseHeaders['server'][0] == 's'", response, true),
            ("response.RequestHeaders['x-tier'][0] == 'gold'", response, true),
            ("response.RequestMethod == 'POST' && response.RequestPath.startsWith('/books')", response, true),
            ("string(response.ResponseBody.Content) == 'hello'", response_body, true),
            ("response.ResponseBody.EndOfStream", response_body, false),
            ("request['Method'] == 'POST'", head, true),
            ("request.Headers['accept'].exists(v, v == 'b')", head, true),
            ("has(request.Metadata.nothing)", head, false),
            ("request.Path.matches('^/books')", head, true),
            ("true", head, true),
        ] {
            assert_eq!(holds(text, phase), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_work_is_refused_when_compiled() {
        for (text, expected) in [
            ("", None),
            ("1 +", None),
            ("request.Method", Some(ConditionError::NotBoolean("string".to_owned()))),
            ("42", Some(ConditionError::NotBoolean("int".to_owned()))),
            ("user == 'x'", Some(ConditionError::Unknown("user".to_owned()))),
            ("request.Colour == 'x'", Some(ConditionError::Unknown("request.Colour".to_owned()))),
            ("processing.stage == 'x'", Some(ConditionError::Unknown("processing.stage".to_owned()))),
            ("nonsense(request.Path)", Some(ConditionError::Unknown("nonsense".to_owned()))),
            ("[1].all(a, [1].all(b, [1].all(c, a + b + c > 0)))", Some(ConditionError::TooDeep(2))),
        ] {
            let refused = Condition::compile(text).err();
            assert!(refused.is_some(), "{text} was accepted");
            if expected.is_some() {
                assert_eq!(refused, expected, "{text}");
            }
        }
        let long = format!("'{}' == ''", "x".repeat(MAX_CONDITION_BYTES));
        assert_eq!(Condition::compile(&long).err(), Some(ConditionError::TooLong));
        let deep = format!("{}true{}", "(".repeat(2000), ")".repeat(2000));
        assert!(Condition::compile(&deep).is_err());
    }

    #[test]
    fn what_iterates_over_too_much_of_its_own_is_refused() {
        let list = |length: usize| format!("[{}]", vec!["0"; length].join(","));
        let map = |length: usize| {
            let entries: Vec<String> = (0..length).map(|key| format!("{key}:0")).collect();
            format!("{{{}}}", entries.join(","))
        };
        for (text, accepted) in [
            (format!("{}.all(a, {}.all(b, a == b))", list(1_000), list(900)), false),
            (format!("{}.all(a, {}.all(b, a == b))", list(50), list(50)), true),
            (format!("{}.all(a, a == 0)", list(1_500)), true),
            // Beside each other they cost what they cost together.
            (format!("{0}.all(a, {0}.all(b, a == b))", list(90)), true),
            (vec![format!("{0}.all(a, {0}.all(b, a == b))", list(70)); 9].join(" && "), false),
            // A list in front of `in` is looked through as well.
            (format!("{}.all(a, a in {})", list(1_000), list(900)), false),
            (format!("{0}.all(a, {0}.all(b, a == b))", map(200)), false),
            // However the list comes about.
            (format!("{0}.map(x, x).all(a, {0}.filter(x, true).all(b, a == b))", list(400)), false),
            (format!("{0}.map(x, {0}).all(l, l.all(b, b == 0))", list(200)), false),
            // What comes with the request is bounded by the request.
            ("request.Headers.exists(n, request.Headers[n].exists(v, v in ['a', 'b']))".to_owned(), true),
        ] {
            assert!(text.len() <= MAX_CONDITION_BYTES, "{text}");
            let expected = (!accepted).then_some(ConditionError::TooCostly(fields::MAX_STEPS));
            assert_eq!(Condition::compile(&text).err(), expected, "{text}");
        }
    }

    #[test]
    fn a_condition_that_fails_on_a_request_says_so_without_its_values() {
        for (text, expected) in [
            ("request.Headers['authorization'][0] == 'x'", "execution condition failed: no such key"),
            ("request.Metadata['authenticated'] ? 5 : true", "execution condition gave int, not a boolean"),
        ] {
            assert_eq!(holds(text, Phase::RequestHeaders), Err(expected.to_owned()), "{text}");
        }
    }
}
