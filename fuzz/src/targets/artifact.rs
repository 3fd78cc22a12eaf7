// SPDX-License-Identifier: Apache-2.0
//! A valid document, changed in places, on the whole way from a controller's admission to
//! a runtime's table. What is admitted is served: every runtime of this version takes it,
//! none of its routes is poisoned, and it says the same at every station. What is refused
//! shows no secret.

use std::sync::Arc;

use ferrogate_model::kinds::Artifact;
use ferrogate_model::route::{MAX_CLAIM_BYTES, expand};
use ferrogate_model::{Resource, Revision};
use ferrogate_runtime::router::Table;
use ferrogate_xds::protocol::Any;
use ferrogate_xds::wire;

use super::resource::{TYPE_URL, prepared};
use crate::Target;
use crate::choices::Choices;
use crate::documents::{self, SECRET};
use crate::edit::edit;

/// The target.
pub const TARGET: Target = Target { name: "artifact", run, rounds: 3000, words: &[] };

fn run(data: &[u8]) {
    let mut choices = Choices::new(data);
    let strict = choices.byte() == 1;
    let Some(mut document) = choices.pick(documents::examples()).cloned() else { return };
    edit(&mut document, &mut choices, documents::words());
    // An author who knows the secret may write it wherever he likes.
    if document.to_string().contains(SECRET) {
        return;
    }
    let admitted = match documents::admit(document, strict) {
        Ok(admitted) => admitted,
        Err(refusal) => {
            assert!(!refusal.to_string().contains(SECRET), "a refusal shows a secret");
            return;
        }
    };
    // A client may post what it was answered, and means the same.
    let again = documents::admit(admitted.source.clone(), false);
    let again = again.expect("what was admitted is admitted again");
    assert_eq!(again.payload, admitted.payload);
    assert!(admitted.claims.iter().all(|claim| claim.len() <= MAX_CLAIM_BYTES), "a claim no index can hold");
    if let Some(payload) = admitted.payload {
        served(&admitted.artifact, &payload);
    }
}

fn served(artifact: &Artifact, payload: &str) {
    let Artifact::RestApi(api) = artifact else { return };
    let read = Artifact::from_payload(artifact.kind(), payload.as_bytes()).expect("a payload can be read");
    assert_eq!(&read, artifact);
    assert_eq!(read.to_payload(), payload);

    let resource =
        Resource { name: artifact.name(), version: Revision(7), payload: payload.to_owned().into() };
    let encoded = wire::encode(&resource).expect("runtimes are sent APIs");
    let any = Any { type_url: TYPE_URL.to_owned(), value: encoded.bytes.clone() };
    assert_eq!(wire::decode(&any).as_ref(), Ok(&resource));

    let held = prepared(&resource)
        .unwrap_or_else(|reason| panic!("admitted by the controller, refused by the runtime: {reason}"));
    assert_eq!(held.poisoned, 0, "admitted by the controller, poisoned at the runtime");
    assert_eq!(held.routes.len(), expand(api).len());
    let mut table = Table::default();
    for entry in &held.routes {
        // Of one artifact's routes none may hide another.
        assert!(!table.insert(Arc::clone(entry)));
    }
    assert!(held.routes.iter().all(|entry| table.remove(entry)) && table.is_empty());
}
