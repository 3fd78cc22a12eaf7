// SPDX-License-Identifier: Apache-2.0
//! A Certificate's document, changed in places, its texts of PEM down to single characters, on
//! the way from a controller's admission to a runtime's handshakes. What is admitted every
//! runtime can use; the private key is in the payload and nowhere else, above all in no refusal.

use std::sync::LazyLock;

use ferrogate_controller::deploy::Secrets;
use ferrogate_model::kinds::{Artifact, Certificate};
use ferrogate_model::{Kind, Resource, Revision};
use ferrogate_xds::protocol::Any;
use ferrogate_xds::wire;
use serde_json::json;

use super::resource::prepared;
use crate::Target;
use crate::choices::Choices;
use crate::documents;
use crate::edit::edit;

/// The target.
pub const TARGET: Target = Target { name: "certificate", run, rounds: 3000, words: &[] };

const TYPE_URL: &str = "type.googleapis.com/ferrogate.v1.Certificate";
/// A certificate that nobody trusts, and its key.
const CERTIFICATE: &str = include_str!("../nobody.pem");
const KEY: &str = include_str!("../nobody.key.pem");
/// A part of the key that is nowhere else.
const SECRET: &str = "ms/vO8hIORbqe6HI";
const BASE64: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// The most characters of one text that are changed.
const MAX_DAMAGE: usize = 6;

/// Fields and values of documents of this kind.
static WORDS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let words = [
        "usage",
        "upstreamTrust",
        "server",
        "clientTrust",
        "named",
        "certificate",
        "privateKey",
        "serverNames",
        "default",
        "ocspResponse",
        "nobody.example",
        "*.nobody.example",
        "*",
        "10.0.0.1",
        "reload",
        "AAAA",
        "-----BEGIN CERTIFICATE-----\n",
        "-----END CERTIFICATE-----\n",
        "-----BEGIN PRIVATE KEY-----\n",
        CERTIFICATE,
    ];
    words.map(str::to_owned).to_vec()
});

fn run(data: &[u8]) {
    let mut choices = Choices::new(data);
    let strict = choices.byte() == 1;
    let mut spec = json!({ "certificate": damaged(CERTIFICATE, &mut choices) });
    if choices.byte().is_multiple_of(2) {
        spec["privateKey"] = damaged(KEY, &mut choices).into();
    }
    let mut document = json!({
        "apiVersion": "gateway.api-platform.wso2.com/v1",
        "kind": "Certificate",
        "metadata": {"name": "shop"},
        "spec": spec,
    });
    edit(&mut document, &mut choices, &WORDS);
    // An author may write the key wherever he likes, or the edit made another one of it.
    if Certificate::concealed(document.clone()).to_string().contains(SECRET) {
        return;
    }
    let admitted =
        match documents::admission().admit(Kind::Certificate, document, strict, &Secrets::default()) {
            Ok(admitted) => admitted,
            Err(refusal) => return hidden("a refusal", &refusal.to_string()),
        };
    hidden("what is kept in the clear", &admitted.source.to_string());
    hidden("a warning", &format!("{:?}", admitted.warnings));
    hidden("what is printed", &format!("{:?}", admitted.artifact));
    let payload = admitted.payload.expect("a certificate has one");
    let read = Artifact::from_payload(Kind::Certificate, payload.as_bytes()).expect("a payload can be read");
    assert_eq!(read, admitted.artifact);
    assert_eq!(read.to_payload(), payload);

    let resource = Resource { name: read.name(), version: Revision(7), payload: payload.into() };
    let encoded = wire::encode(&resource).expect("runtimes are sent certificates");
    let any = Any { type_url: TYPE_URL.to_owned(), value: encoded.bytes };
    assert_eq!(wire::decode(&any).as_ref(), Ok(&resource));
    if let Err(reason) = prepared(&resource) {
        panic!("admitted by the controller, refused by the runtime: {reason}");
    }
}

fn hidden(what: &str, text: &str) {
    assert!(!text.contains(SECRET), "{what} shows a private key");
}

/// The text with some characters between its first line and its last replaced.
fn damaged(pem: &str, choices: &mut Choices<'_>) -> String {
    let mut bytes = pem.as_bytes().to_vec();
    for _ in 0..choices.below(MAX_DAMAGE + 1) {
        let other = choices.pick(BASE64).copied().unwrap_or(b'A');
        let at = choices.below(bytes.len());
        if let Some(byte) = bytes.get_mut(at).filter(|byte| BASE64.contains(byte)) {
            *byte = other;
        }
    }
    String::from_utf8(bytes).unwrap_or_default()
}
