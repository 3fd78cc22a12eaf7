// SPDX-License-Identifier: Apache-2.0
//! The exchange: what one request carries from hook to hook beside its messages.

use std::any::Any;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;
use smallvec::SmallVec;

use crate::client_certificate::ClientCertificate;
use crate::definition::Attachment;

/// One request's own state, from its first hook to its last.
pub struct Exchange<'a> {
    /// The artifact and operation the route belongs to.
    pub route: &'a Attachment,
    /// `x-request-id`.
    pub request_id: &'a str,
    /// The peer's address.
    pub client: IpAddr,
    /// Who the client has proved to be in the TLS handshake, if it has.
    pub client_certificate: Option<Arc<ClientCertificate>>,
    /// Milliseconds since the Unix epoch, read once per request from the injected clock.
    pub now_ms: u64,
    /// Shared between policies; empty and unallocated for most requests.
    pub metadata: BTreeMap<String, Value>,
    /// Who the client is, once a policy has found out.
    pub auth: Option<Arc<Auth>>,
    /// The upstream definition chosen by a policy, instead of the route's own.
    pub upstream: Option<String>,
    slots: SmallVec<[Option<Box<dyn Any + Send>>; 4]>,
    slot: usize,
}

/// Who the client is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Auth {
    /// False when a policy let an anonymous request pass.
    pub authenticated: bool,
    /// `basic`, `jwt`, `apikey`, …
    pub kind: &'static str,
    /// The user, application or client.
    pub subject: String,
    /// Who vouches for it; empty when nobody else does.
    pub issuer: String,
    /// Whom that was said to.
    pub audience: Vec<String>,
    /// What it was allowed.
    pub scopes: Vec<String>,
    /// The credential's own name.
    pub token_id: String,
    /// What else is known, for later policies.
    pub properties: BTreeMap<String, String>,
}

impl<'a> Exchange<'a> {
    /// A new exchange on this route.
    #[must_use]
    pub fn new(route: &'a Attachment, request_id: &'a str, client: IpAddr, now_ms: u64) -> Exchange<'a> {
        Exchange {
            route,
            request_id,
            client,
            client_certificate: None,
            now_ms,
            metadata: BTreeMap::new(),
            auth: None,
            upstream: None,
            slots: SmallVec::new(),
            slot: 0,
        }
    }

    /// Keeps a value for this policy instance's later hooks of the same request.
    pub fn keep<T: Any + Send>(&mut self, value: T) {
        if self.slots.len() <= self.slot {
            self.slots.resize_with(self.slot + 1, || None);
        }
        if let Some(slot) = self.slots.get_mut(self.slot) {
            *slot = Some(Box::new(value));
        }
    }

    /// What this policy instance kept.
    #[must_use]
    pub fn kept<T: Any + Send>(&self) -> Option<&T> {
        self.slots.get(self.slot)?.as_ref()?.downcast_ref()
    }

    /// Called by the chain before each hook: whose slot is meant.
    pub(crate) fn enter(&mut self, index: usize) {
        self.slot = index;
    }
}
