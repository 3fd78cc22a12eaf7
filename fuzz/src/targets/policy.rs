// SPDX-License-Identifier: Apache-2.0
//! A policy's parameters, changed in places: coerced, checked, compiled, and then run on
//! a request that the input chooses as well. Parameters that compile give a policy that
//! fails no request, whatever the client sends.

use bytes::Bytes;
use ferrogate_policy::harness::{Request, Response, Route};

use crate::Target;
use crate::choices::Choices;
use crate::documents;
use crate::edit::edit;

/// The target.
pub const TARGET: Target =
    Target { name: "policy", run, rounds: 6000, words: &["Basic ", "bGlicmFyaWFuOm9wZW4tc2VzYW1l"] };

/// Headers that policies look at.
const HEADERS: [&str; 8] = [
    "authorization",
    "origin",
    "access-control-request-method",
    "access-control-request-headers",
    "x-a",
    "cookie",
    "content-type",
    "x-forwarded-for",
];

fn run(data: &[u8]) {
    let mut choices = Choices::new(data);
    let Some(mut spec) = choices.pick(documents::policies()).cloned() else { return };
    spec.execution_condition = None;
    let mut request = request(&mut choices);
    for _ in 0..choices.byte() % 8 {
        let name = choices.pick(&HEADERS).copied().unwrap_or_default();
        request = request.with(name, choices.text());
    }
    let body = Bytes::copy_from_slice(choices.bytes(usize::from(data.len().is_multiple_of(2)) * 16));
    edit(&mut spec.params, &mut choices, documents::words());
    let route = Route::with_policies(documents::registry(), &[], &[spec], &documents::services());
    let Ok(route) = route else { return };
    let outcome = route.run(request, body.clone(), Response::new(200).with("x-a", "b"), body);
    assert_eq!(outcome.failure, None, "a policy that compiled fails a request");
}

fn request(choices: &mut Choices<'_>) -> Request {
    let methods = ["GET", "OPTIONS", "POST", "HEAD", "BREW"];
    let method = choices.pick(&methods).copied().unwrap_or_default();
    Request::new(method, choices.pick(&["/books?x=1", "/", "*", "/%2e%2e/"]).copied().unwrap_or_default())
}
