// SPDX-License-Identifier: Apache-2.0
//! The client of the management API: several controllers, one answer. A controller that
//! does not answer is passed over for the next; because every write carries a key made
//! once, a write whose answer was lost is safe to send again and is never applied twice.
//! The verbs call it; it prints nothing.

mod credentials;

use std::time::Duration;

use ferrogate_base::backoff::Backoff;
use http::{Method, StatusCode};
use serde_json::Value;
use thiserror::Error;

use crate::cli::Connection;

pub use credentials::Credentials;

const BASE_PATH: &str = "/api/management/v1";
/// How often the whole list is gone through before giving up: a controller that is being
/// replaced is back within this time.
const ROUNDS: usize = 4;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// An answer takes at most a `wait` of 60 s, plus the work.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(75);
const FIRST_DELAY: Duration = Duration::from_millis(200);
const LONGEST_DELAY: Duration = Duration::from_secs(2);

/// Why there is no good answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// No controller took the request.
    #[error("no controller answers\n{}", .0.join("\n"))]
    Unreachable(Vec<String>),
    /// A controller answered that it will not.
    #[error("{message}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// Its message, with every fault of a document on a line of its own.
        message: String,
        /// The answer as it came.
        body: Value,
    },
    /// There is nothing to sign in with.
    #[error("no password: {0}")]
    NoCredentials(String),
    /// A controller's address is not one.
    #[error("{address} is not a controller's address: write http://HOST:PORT")]
    Address {
        /// What was given.
        address: String,
    },
    /// The client itself cannot work.
    #[error("cannot send requests: {0}")]
    Broken(String),
}

/// A request, not yet sent.
pub struct Call {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    body: Option<Value>,
}

/// A good answer.
#[derive(Debug)]
pub struct Reply {
    /// The revision of a write.
    pub revision: Option<u64>,
    /// The body; `Null` when it was none.
    pub body: Value,
}

/// Talks to whichever controller answers.
pub struct Client {
    http: reqwest::Client,
    controllers: Vec<String>,
    credentials: Credentials,
}

enum Attempt {
    Answered(Reply),
    Refused(ClientError),
    Next(String),
}

impl Call {
    /// A request without query or body.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), query: Vec::new(), body: None }
    }

    /// With one more query parameter.
    pub fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    /// With one more query parameter, if it has a value.
    pub fn maybe(self, name: &'static str, value: Option<String>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    /// With a JSON body.
    pub fn body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }
}

impl Client {
    /// A client as the flags, the environment and the data directory say.
    pub fn connect(connection: &Connection) -> Result<Self, ClientError> {
        let found = credentials::find(connection)?;
        Self::new(found.controllers, found.credentials)
    }

    /// A client of these controllers.
    pub fn new(controllers: Vec<String>, credentials: Credentials) -> Result<Self, ClientError> {
        for address in &controllers {
            let url = reqwest::Url::parse(address).ok();
            if url.is_none_or(|url| !matches!(url.scheme(), "http" | "https") || !url.has_host()) {
                return Err(ClientError::Address { address: address.clone() });
            }
        }
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            // A management API is reached directly; a proxy for the web would only be in the way.
            .no_proxy()
            .build()
            .map_err(|error| ClientError::Broken(reasons(&error)))?;
        Ok(Self { http, controllers, credentials })
    }

    /// Sends a request until a controller answers it.
    pub async fn send(&self, call: Call) -> Result<Reply, ClientError> {
        let write = call.method != Method::GET;
        // The same key on every attempt: that is what makes a second attempt harmless.
        let key = write.then(|| uuid::Uuid::new_v4().to_string());
        let mut backoff = Backoff::try_new(FIRST_DELAY, LONGEST_DELAY)
            .map_err(|error| ClientError::Broken(error.to_string()))?;
        let mut failures = Vec::new();
        for round in 0..ROUNDS {
            if round > 0 {
                tokio::time::sleep(backoff.next_delay()).await;
            }
            failures.clear();
            for controller in &self.controllers {
                match self.attempt(controller, &call, key.as_deref()).await {
                    Attempt::Answered(reply) => return Ok(reply),
                    Attempt::Refused(error) => return Err(error),
                    Attempt::Next(reason) => failures.push(format!("  {controller}: {reason}")),
                }
            }
        }
        Err(ClientError::Unreachable(failures))
    }

    async fn attempt(&self, controller: &str, call: &Call, key: Option<&str>) -> Attempt {
        let url = format!("{}{BASE_PATH}{}", controller.trim_end_matches('/'), call.path);
        let mut request = self.http.request(call.method.clone(), url).query(&call.query);
        request = match &self.credentials {
            Credentials::Basic { username, password } => {
                request.basic_auth(username, Some(password.expose()))
            }
            Credentials::Bearer(token) => request.bearer_auth(token.expose()),
        };
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = &call.body {
            request = request.json(body);
        }
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Attempt::Next(reasons(&error)),
        };
        let status = response.status();
        let revision = response.headers().get("x-revision");
        let revision = revision.and_then(|value| value.to_str().ok()?.parse().ok());
        let text = match response.text().await {
            Ok(text) => text,
            Err(error) => return Attempt::Next(reasons(&error)),
        };
        let body: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        if status.is_success() {
            return Attempt::Answered(Reply { revision, body });
        }
        let message = message(status, &body, &text);
        if matches!(status.as_u16(), 502..=504) {
            return Attempt::Next(message);
        }
        Attempt::Refused(ClientError::Refused { status, message, body })
    }
}

/// What a refusal says, for people.
fn message(status: StatusCode, body: &Value, text: &str) -> String {
    let said = body.get("message").and_then(Value::as_str);
    let mut message = match said {
        Some(said) => said.to_owned(),
        None if text.trim().is_empty() || text.len() > 300 => status.to_string(),
        None => format!("{status}: {}", text.trim()),
    };
    if status == StatusCode::NOT_FOUND && body.is_null() {
        message.push_str(": is this the address of a management API?");
    }
    if status == StatusCode::FORBIDDEN {
        message.push_str(": the user lacks the role this needs");
    }
    if status == StatusCode::UNAUTHORIZED {
        message.push_str(": give --username and --password, or set FERROGATE_ADMIN_PASSWORD");
    }
    for fault in body.get("errors").and_then(Value::as_array).into_iter().flatten() {
        let part = |name| fault.get(name).and_then(Value::as_str).unwrap_or_default();
        message.push_str(&format!("\n  {}: {}", part("field"), part("message")));
    }
    message
}

/// An error with all its causes: the outermost alone seldom says why. A cause that the
/// outer text already ends with is not said twice.
pub fn reasons(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        cause = inner.source();
    }
    text
}
