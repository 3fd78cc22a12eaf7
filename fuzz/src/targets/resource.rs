// SPDX-License-Identifier: Apache-2.0
//! A resource as a runtime receives it: any bytes as the payload's message, and a valid
//! message whose payload is an API changed in places, as a newer or a broken controller
//! could send it. It is prepared or refused; a panic that the runtime would survive is a
//! finding all the same.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use ferrogate_model::{Handle, Kind, Resource, ResourceName, Revision};
use ferrogate_policy::Services;
use ferrogate_runtime::prepare::Compiler;
use ferrogate_runtime::router::Timeouts;
use ferrogate_runtime::state::HeldArtifact;
use ferrogate_xds::protocol::Any;
use ferrogate_xds::wire;
use serde_json::Value;

use crate::Target;
use crate::choices::Choices;
use crate::documents;
use crate::edit::edit;

/// The target.
pub const TARGET: Target = Target { name: "resource", run, rounds: 3000, words: &[] };

/// The type of an API's message.
pub const TYPE_URL: &str = "type.googleapis.com/ferrogate.v1.RestApi";

fn run(data: &[u8]) {
    let mut choices = Choices::new(data);
    if choices.byte().is_multiple_of(4) {
        let value = choices.bytes(usize::MAX).to_vec().into();
        if let Ok(resource) = wire::decode(&Any { type_url: TYPE_URL.to_owned(), value }) {
            checked(&resource);
        }
        return;
    }
    let Some(mut payload) = choices.pick(documents::payloads()).cloned() else { return };
    edit(&mut payload, &mut choices, documents::words());
    let handle = payload.get("handle").and_then(Value::as_str).unwrap_or_default();
    let Ok(handle) = Handle::try_new(handle) else { return };
    let (name, version) = (ResourceName::new(Kind::RestApi, handle), Revision(choices.number()));
    checked(&Resource { name, version, payload: payload.to_string().into() });
}

fn checked(resource: &Resource) {
    let encoded = wire::encode(resource).expect("runtimes are sent APIs");
    let any = Any { type_url: TYPE_URL.to_owned(), value: encoded.bytes.clone() };
    assert_eq!(wire::decode(&any).as_ref(), Ok(resource));
    assert!(wire::contribution(&encoded).is_ok());
    if let Ok(held) = prepared(resource) {
        assert_eq!(held.version, resource.version);
    }
}

/// The artifact as the runtime would serve it, or the reason of its refusal.
///
/// # Errors
/// When the runtime refuses it.
///
/// # Panics
/// When the runtime panicked over it, which it would have survived.
pub fn prepared(resource: &Resource) -> Result<HeldArtifact, String> {
    static COMPILER: LazyLock<Compiler> = LazyLock::new(|| {
        let second = Duration::from_secs(1);
        let defaults = Timeouts { request: Some(second), idle: Some(second), connect: second };
        Compiler::new(Arc::clone(documents::registry()), Services::in_memory(), defaults)
    });
    let held = COMPILER.prepare(resource).map_err(|refused| refused.reason).inspect_err(|reason| {
        assert!(!reason.contains("the runtime failed"), "the runtime panicked over a resource");
    })?;
    let mut poisons = held.routes.iter().filter_map(|entry| entry.route.poison());
    assert!(
        !poisons.any(|poison| poison.detail.contains("panicked")),
        "a policy panicked while it was compiled"
    );
    Ok(held)
}
