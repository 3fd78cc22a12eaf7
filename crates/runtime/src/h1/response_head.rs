// SPDX-License-Identifier: Apache-2.0
//! A response's head on the hot path, as policies see and change it: the upstream's lines,
//! or a failure's headers that stand in for them. `upstream` makes it, the chain works on
//! it, `compose` writes what it became.

use std::time::Duration;

use ferrogate_policy::{Headers, ResponseHead};
use http::{HeaderName, HeaderValue, StatusCode};

use super::fields::{Fields, Lists};
use super::line::{Known, Present};
use crate::hop;
use crate::response::X_ENVOY_UPSTREAM_SERVICE_TIME;

const DIGITS: &str = "0123456789";

/// A response's head.
pub struct ResponseView<'b> {
    /// The headers.
    pub fields: Fields<'b>,
    status: StatusCode,
}

impl<'b> ResponseView<'b> {
    /// The head of an upstream's response.
    #[must_use]
    pub fn of_upstream(mut fields: Fields<'b>, status: StatusCode) -> ResponseView<'b> {
        // Our own service time is put in its place.
        hop::strip(&mut fields, Present::of(&[Known::ServiceTime]));
        ResponseView { fields, status }
    }

    /// Notes how long the upstream took, for the client (contract 4.5).
    pub fn note_service_time(&mut self, took: Duration) {
        let millis = took.as_secs().saturating_mul(1000).saturating_add(u64::from(took.subsec_millis()));
        // Where every microsecond counts the upstream took few milliseconds, and one digit
        // needs no allocation.
        let digit = usize::try_from(millis).ok().and_then(|millis| DIGITS.get(millis..=millis));
        let value = digit.map_or_else(|| HeaderValue::from(millis), HeaderValue::from_static);
        self.fields.settle_in(X_ENVOY_UPSTREAM_SERVICE_TIME, value);
    }

    /// The head of an answer of the gateway's own.
    #[must_use]
    pub fn of_answer(
        status: StatusCode,
        headers: Vec<(HeaderName, HeaderValue)>,
        mut lists: Lists,
    ) -> ResponseView<'b> {
        lists.lines.clear();
        let mut fields = Fields::new(&[], Present::default(), lists);
        for (name, value) in headers {
            fields.append(&name, value);
        }
        ResponseView { fields, status }
    }
}

impl Headers for ResponseView<'_> {
    fn get(&self, name: &HeaderName) -> Option<&[u8]> {
        self.fields.get(name)
    }

    fn each(&self, name: &HeaderName, visit: &mut dyn FnMut(&[u8])) {
        self.fields.each(name, visit);
    }

    fn all(&self, visit: &mut dyn FnMut(&str, &[u8])) {
        self.fields.all(visit);
    }

    fn set(&mut self, name: &HeaderName, value: HeaderValue) {
        self.fields.set(name, value);
    }

    fn append(&mut self, name: &HeaderName, value: HeaderValue) {
        self.fields.append(name, value);
    }

    fn remove(&mut self, name: &HeaderName) {
        self.fields.remove(name);
    }
}

impl ResponseHead for ResponseView<'_> {
    fn status(&self) -> StatusCode {
        self.status
    }

    fn set_status(&mut self, status: StatusCode) {
        self.status = status;
    }
}
