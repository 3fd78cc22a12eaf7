// SPDX-License-Identifier: Apache-2.0
//! Documents of certificates, sound and not.

use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::{Value, json};

use super::{Certificate, Facts, PemError, Usage};
use crate::Refusal;
use crate::kinds::Artifact;

/// A certificate for these names with its key, both in PEM.
fn made(names: &[&str]) -> (String, String) {
    let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let mut params = CertificateParams::new(names).expect("sound names");
    params.distinguished_name.push(DnType::CommonName, "the first");
    let key = KeyPair::generate().expect("random numbers");
    let certificate = params.self_signed(&key).expect("a sound request");
    (certificate.pem(), key.serialize_pem())
}

fn document(spec: Value) -> Value {
    json!({
        "apiVersion": "gateway.api-platform.wso2.com/v1",
        "kind": "Certificate",
        "metadata": {"name": "shop"},
        "spec": spec,
    })
}

fn parsed(spec: Value) -> Certificate {
    let parsed = Certificate::parse(&document(spec)).expect("a sound document");
    assert!(parsed.warnings.0.is_empty(), "{}", parsed.warnings);
    parsed.certificate
}

/// The fields that are at fault.
fn faults(spec: Value) -> Vec<String> {
    match Certificate::parse(&document(spec)) {
        Err(Refusal::Invalid(violations)) => violations.0.into_iter().map(|one| one.field).collect(),
        Err(Refusal::Unreadable(error)) => vec![error.to_string()],
        Ok(_) => Vec::new(),
    }
}

#[test]
fn what_it_is_for_follows_from_its_key() {
    let (certificate, key) = made(&["Shop.example.com", "*.shop.example.com"]);
    let trusted = parsed(json!({"certificate": certificate}));
    assert_eq!((trusted.usage, trusted.server_names.len()), (Usage::UpstreamTrust, 0));
    let shown = parsed(json!({"certificate": certificate, "privateKey": key}));
    assert_eq!(shown.usage, Usage::Server);
    assert_eq!(shown.server_names, ["*.shop.example.com", "shop.example.com"]);
    let elsewhere = json!({"certificate": certificate, "privateKey": key, "serverNames": ["Other.example"]});
    assert_eq!(parsed(elsewhere).server_names, ["other.example"]);
    let named = json!({"certificate": certificate, "privateKey": key, "usage": "named"});
    assert_eq!(parsed(named).usage, Usage::Named);
}

#[test]
fn the_key_is_in_the_payload_and_nowhere_else() {
    let (certificate, key) = made(&["a.example"]);
    let whole = document(json!({"certificate": certificate, "privateKey": key}));
    let read = Certificate::parse(&whole).expect("a sound document").certificate;
    let secret = key.lines().nth(1).expect("a line of base64");
    let concealed = Certificate::concealed(whole.clone());
    assert!(!concealed.to_string().contains(secret) && !format!("{read:?}").contains(secret));
    let artifact = Artifact::Certificate(read);
    assert_eq!(artifact.revealed(concealed), whole);
    let back = Artifact::from_payload(artifact.kind(), artifact.to_payload().as_bytes());
    assert_eq!(back.expect("its own payload"), artifact);
}

#[test]
fn every_fault_is_told_at_its_field_without_the_key() {
    let (certificate, key) = made(&["a.example"]);
    let (nameless, its_key) = made(&[]);
    for (spec, fields) in [
        (json!({}), vec!["spec.certificate"]),
        (json!({"certificate": "-----BEGIN"}), vec!["spec.certificate"]),
        (json!({"certificate": format!("{certificate}{key}")}), vec!["spec.certificate"]),
        (json!({"certificate": certificate, "usage": "server"}), vec!["spec.privateKey"]),
        (json!({"certificate": certificate, "usage": "other"}), vec!["spec.usage"]),
        (json!({"certificate": certificate, "privateKey": "a key"}), vec!["spec.privateKey"]),
        (
            json!({"certificate": certificate, "privateKey": key, "usage": "clientTrust"}),
            vec!["spec.privateKey"],
        ),
        (json!({"certificate": certificate, "serverNames": ["a.example"]}), vec!["spec.serverNames"]),
        (json!({"certificate": nameless, "privateKey": its_key}), vec!["spec.serverNames"]),
        (json!({"certificate": nameless, "privateKey": its_key, "default": true}), vec![]),
        (
            json!({"certificate": certificate, "privateKey": key,
                   "serverNames": ["*", "a.*.b", "-a", "10.0.0.1", "a_b.example"], "ocspResponse": "{}"}),
            vec![
                "spec.serverNames[0]",
                "spec.serverNames[1]",
                "spec.serverNames[2]",
                "spec.serverNames[3]",
                "spec.ocspResponse",
            ],
        ),
        (json!({"certificate": certificate, "privateKey": key, "ocspResponse": "AAAA"}), vec![]),
        // Of base64's characters, and none: no runtime could use the certificate.
        (
            json!({"certificate": certificate, "privateKey": key, "ocspResponse": "AAAAA"}),
            vec!["spec.ocspResponse"],
        ),
        (
            json!({"certificate": certificate, "privateKey": key, "ocspResponse": ""}),
            vec!["spec.ocspResponse"],
        ),
    ] {
        assert_eq!(faults(spec.clone()), fields, "{spec}");
        if let Err(refusal) = Certificate::parse(&document(spec)) {
            assert!(!refusal.to_string().contains("a key"), "{refusal}");
        }
    }
}

#[test]
fn the_first_certificate_of_a_text_speaks() {
    let (first, second) = (made(&["A.example"]).0, made(&["b.example"]).0);
    let facts = Facts::of(&format!("# a bundle\n{first}\n{second}")).expect("two certificates");
    assert_eq!((facts.count, facts.dns_names.as_slice()), (2, &["a.example".to_owned()][..]));
    assert!(facts.subject.contains("the first") && facts.subject == facts.issuer, "{facts:?}");
    assert!(facts.not_before < facts.not_after);
    assert_eq!(Facts::of(""), Err(PemError::Nothing));
    let broken = first.replace("MII", "AII");
    assert_eq!(Facts::of(&format!("{second}{broken}")), Err(PemError::Unreadable(2)));
}
