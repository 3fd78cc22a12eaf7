// SPDX-License-Identifier: Apache-2.0
//! A Secret's document, changed in places, on its way into a controller. Whatever becomes
//! of it, its value is in the payload and nowhere else: not in a refusal, not in what is
//! kept in the clear, not in what is printed, and not in anything a runtime is sent. Sealed
//! it is opened at its own place only, and not at all once a byte of it was changed.

use ferrogate_controller::seal::{self, KeyRing};
use ferrogate_model::kinds::{Artifact, Secret};
use ferrogate_model::{Kind, Resource, Revision};
use ferrogate_xds::wire;
use serde_json::{Value, json};

use crate::Target;
use crate::choices::Choices;
use crate::documents::{self, SECRET};
use crate::edit::edit;

/// The target.
pub const TARGET: Target = Target { name: "secret", run, rounds: 4000, words: &[] };

fn run(data: &[u8]) {
    let mut choices = Choices::new(data);
    let strict = choices.byte() == 1;
    let damage = (choices.byte(), choices.below(usize::from(u16::MAX)));
    let mut document = json!({
        "apiVersion": "gateway.api-platform.wso2.com/v1",
        "kind": "Secret",
        "metadata": {"name": "db-password", "labels": {"team": "books"}},
        "spec": {"displayName": "DB password", "description": "of the books", "value": SECRET},
    });
    edit(&mut document, &mut choices, documents::words());
    // An author may write the value wherever he likes, or the edit made another one of it.
    if Secret::concealed(document.clone()).to_string().contains(SECRET) {
        return;
    }
    let admitted = match documents::admit_secret(document.clone(), strict) {
        Ok(admitted) => admitted,
        Err(refusal) => return hidden("a refusal", &refusal.to_string()),
    };
    hidden("what is kept in the clear", &admitted.source.to_string());
    hidden("a warning", &format!("{:?}", admitted.warnings));
    hidden("what is printed", &format!("{:?}", admitted.artifact));
    let payload = admitted.payload.expect("a secret has one");
    let read = Artifact::from_payload(Kind::Secret, payload.as_bytes()).expect("a payload can be read");
    assert_eq!(read, admitted.artifact);
    assert_eq!(read.to_payload(), payload);
    let Artifact::Secret(secret) = &read else { panic!("a secret became something else") };
    if let Value::Object(fields) = &mut document {
        fields.remove("status");
    }
    // A number for a value is taken as its text.
    assert_eq!(secret.revealed(admitted.source.clone())["spec"]["value"], secret.value.as_str());
    assert_eq!(admitted.source, Secret::concealed(document));
    let resource = Resource { name: read.name(), version: Revision(7), payload: payload.clone().into() };
    assert!(wire::encode(&resource).is_none(), "a secret on its way to a runtime");
    sealed(&payload, damage);
}

fn hidden(what: &str, text: &str) {
    assert!(!text.contains(SECRET), "{what} shows a secret");
}

fn sealed(payload: &str, (change, at): (u8, usize)) {
    let ring = KeyRing::new(vec![("k1".to_owned(), [7; 32])]).expect("a ring of one key");
    let stored = ring.seal("payload secrets/a", payload).expect("it is sealed");
    hidden("what is stored", &stored);
    let opened = seal::open(Some(&ring), "payload secrets/a", stored.clone());
    assert_eq!(opened.ok().as_deref(), Some(payload));
    assert!(seal::open(Some(&ring), "payload secrets/b", stored.clone()).is_err(), "opened at another place");
    let mut bytes = stored.clone().into_bytes();
    let at = at % bytes.len();
    if let Some(byte) = bytes.get_mut(at) {
        *byte = b' ' + change % 95;
    }
    let Ok(damaged) = String::from_utf8(bytes) else { return };
    if let Ok(text) = seal::open(Some(&ring), "payload secrets/a", damaged.clone()) {
        // What does not look sealed any more is taken for a text of before there was a key.
        assert!(damaged == stored || text == damaged, "a byte was changed and it was opened all the same");
    }
}
