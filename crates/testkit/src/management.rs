// SPDX-License-Identifier: Apache-2.0
//! A client of one controller's management API, as thin as can be: tests see status,
//! headers and body, and decide themselves what is right.

use std::time::Duration;

use anyhow::Context as _;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::cluster::PASSWORD;
use crate::eventually::eventually_async;

/// Longer than any `wait=live` a test asks for.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// The client.
#[derive(Clone)]
pub struct Management {
    base: String,
    http: reqwest::Client,
    deadline: Duration,
}

/// One answer, read whole.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// `x-revision`, when there was one.
    pub revision: Option<u64>,
    /// The headers.
    pub headers: reqwest::header::HeaderMap,
    /// The body, `Null` when it is not JSON.
    pub body: Value,
}

impl Management {
    /// A client of the controller at this base URL.
    #[must_use]
    pub fn new(base: String) -> Management {
        Management { base, http: reqwest::Client::new(), deadline: REQUEST_DEADLINE }
    }

    /// The same client, giving up on an answer after this long.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> Management {
        self.deadline = deadline;
        self
    }

    /// Sends one request below `/api/management/v1`.
    ///
    /// # Errors
    /// When no answer arrives.
    pub async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(body);
        }
        read(request).await
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http
            .request(method, format!("{}/api/management/v1{path}", self.base))
            .basic_auth("admin", Some(PASSWORD))
            .timeout(self.deadline)
    }

    /// `POST /rest-apis`.
    ///
    /// # Errors
    /// As [`Management::send`].
    pub async fn create(&self, api: &Value, query: &str) -> anyhow::Result<Answer> {
        self.send(Method::POST, &format!("/rest-apis{query}"), Some(api)).await
    }

    /// `POST /apply` of these documents: create or replace, all or nothing.
    ///
    /// # Errors
    /// As [`Management::send`].
    pub async fn apply(&self, documents: &[Value], query: &str) -> anyhow::Result<Answer> {
        self.send(Method::POST, &format!("/apply{query}"), Some(&Value::Array(documents.to_vec()))).await
    }

    /// `PUT /rest-apis/{handle}`, the handle taken from the document.
    ///
    /// # Errors
    /// As [`Management::send`].
    pub async fn replace(&self, api: &Value, query: &str) -> anyhow::Result<Answer> {
        let handle = api["metadata"]["name"].as_str().context("the document has a name")?;
        self.send(Method::PUT, &format!("/rest-apis/{handle}{query}"), Some(api)).await
    }

    /// `POST /apply` of one document under an idempotency key: create or replace, never twice.
    ///
    /// # Errors
    /// As [`Management::send`].
    pub async fn apply_keyed(&self, document: &Value, key: &str, query: &str) -> anyhow::Result<Answer> {
        let path = format!("/apply{query}");
        read(self.request(Method::POST, &path).header("idempotency-key", key).json(document)).await
    }

    /// As [`Management::delete`], under an idempotency key.
    ///
    /// # Errors
    /// As [`Management::send`].
    pub async fn delete_keyed(&self, handle: &str, key: &str, query: &str) -> anyhow::Result<Answer> {
        let path = format!("/rest-apis/{handle}{query}");
        read(self.request(Method::DELETE, &path).header("idempotency-key", key)).await
    }

    /// `GET` below the base path.
    ///
    /// # Errors
    /// As [`Management::send`].
    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(Method::GET, path, None).await
    }

    /// `DELETE /rest-apis/{handle}`.
    ///
    /// # Errors
    /// As [`Management::send`].
    pub async fn delete(&self, handle: &str, query: &str) -> anyhow::Result<Answer> {
        self.send(Method::DELETE, &format!("/rest-apis/{handle}{query}"), None).await
    }

    /// Waits until a runtime's readiness endpoint answers 200.
    ///
    /// # Errors
    /// When it does not within the deadline.
    pub async fn wait_ready(base: &str, deadline: Duration) -> anyhow::Result<()> {
        let http = reqwest::Client::new();
        let ready = eventually_async(deadline, || async {
            let response = http.get(format!("{base}/ready")).timeout(REQUEST_DEADLINE).send().await.ok()?;
            response.status().is_success().then_some(())
        });
        ready.await.with_context(|| format!("{base}/ready did not become 200"))
    }
}

async fn read(request: reqwest::RequestBuilder) -> anyhow::Result<Answer> {
    let response = request.send().await?;
    let revision = response.headers().get("x-revision").and_then(|value| value.to_str().ok()?.parse().ok());
    let (status, headers) = (response.status(), response.headers().clone());
    let body = serde_json::from_slice(&response.bytes().await?).unwrap_or(Value::Null);
    Ok(Answer { status, revision, headers, body })
}

/// A small RestApi document: one GET and one POST operation below `/{handle}`.
#[must_use]
pub fn api(handle: &str, upstream: &str, policies: &Value) -> Value {
    json!({
        "apiVersion": "gateway.api-platform.wso2.com/v1",
        "kind": "RestApi",
        "metadata": { "name": handle },
        "spec": {
            "displayName": handle,
            "version": "v1.0",
            "context": format!("/{handle}"),
            "upstream": { "main": { "url": upstream } },
            "policies": policies,
            "operations": [
                { "method": "GET", "path": "/echo" },
                { "method": "POST", "path": "/echo" },
            ],
        },
    })
}

/// A `set-headers` policy that adds one response header, to see which revision answered.
#[must_use]
pub fn stamp(name: &str, value: &str) -> Value {
    json!([{ "name": "set-headers", "version": "v1",
             "params": { "response": { "headers": [{ "name": name, "value": value }] } } }])
}
