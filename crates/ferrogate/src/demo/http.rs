// SPDX-License-Identifier: Apache-2.0
//! Plain requests to one place, with everything of the answer: a demonstration must see
//! the 503 that the client verbs would quietly retry elsewhere.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::bail;
use ferrogate_base::secret::Secret;
use http::{HeaderMap, Method};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(10);

/// Sends requests.
#[derive(Clone)]
pub struct Http {
    client: reqwest::Client,
    password: Secret,
}

/// An answer, whole.
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body; `Null` when it is not JSON.
    pub body: Value,
}

impl Http {
    /// With this administrator's password.
    pub fn new(password: Secret) -> anyhow::Result<Self> {
        Ok(Self { client: reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?, password })
    }

    /// A request to the management API at this base URL.
    pub async fn manage(
        &self,
        base: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        let request = self.client.request(method, format!("{base}/api/management/v1{path}"));
        let request = request.basic_auth("admin", Some(self.password.expose()));
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        read(request).await
    }

    /// A request as any client sends one.
    pub async fn get(&self, url: &str) -> anyhow::Result<Answer> {
        read(self.client.get(url)).await
    }
}

impl Answer {
    /// A header's text; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The revision of a write.
    pub fn revision(&self) -> Option<u64> {
        self.header("x-revision").parse().ok()
    }
}

async fn read(request: reqwest::RequestBuilder) -> anyhow::Result<Answer> {
    let response = request.send().await?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = serde_json::from_slice(&response.bytes().await?).unwrap_or(Value::Null);
    Ok(Answer { status, headers, body })
}

/// Asks again and again until the answer is there; a failed question is asked again too.
pub async fn until<T, F>(deadline: Duration, what: &str, ask: impl Fn() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<Option<T>>>,
{
    let began = Instant::now();
    loop {
        let last = match ask().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => String::new(),
            Err(error) => format!(": {error:#}"),
        };
        if began.elapsed() > deadline {
            bail!("{what}: not within {} s{last}", deadline.as_secs());
        }
        tokio::time::sleep(POLL).await;
    }
}
