// SPDX-License-Identifier: Apache-2.0
//! `client-certificate-auth`: only clients that have proved in the TLS handshake who they are,
//! and of these the listed ones (an addition to the contract). What was verified is taken from
//! the exchange, never from a header. Whether clients are asked for a certificate at all is
//! the operator's setting of the listener; where they are not, nobody passes.

use std::sync::Arc;

use bytes::Bytes;
use ferrogate_policy::{
    Answer, Attachment, Auth, ClientCertificate, CompileError, Definition, Exchange, Hooks, Phases, Policy,
    PolicyError, RequestHead, Services, Verdict,
};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use crate::header_list;

/// The name artifacts use.
pub const NAME: &str = "client-certificate-auth";

const UNAUTHORIZED: &[u8] = br#"{"error":"Unauthorized","message":"Client certificate required"}"#;
const FORBIDDEN: &[u8] = br#"{"error":"Forbidden","message":"Client certificate not allowed"}"#;

/// The definition.
pub struct ClientCertificateAuth;

/// Who may pass: whom one of the lists names, or everybody who is verified when there is none. The
/// schema refuses an empty list, which would read as nobody and let everybody pass.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Params {
    subjects: Vec<String>,
    dns_names: Vec<String>,
    uris: Vec<String>,
    fingerprints: Vec<String>,
}

struct Instance(Params);

impl Definition for ClientCertificateAuth {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> &'static str {
        "v1.0.0"
    }

    fn description(&self) -> &'static str {
        "Lets clients pass that proved themselves by a certificate (mutual TLS)."
    }

    fn schema(&self) -> &'static str {
        include_str!("schema.json")
    }

    fn is_made_of_parameters(&self) -> bool {
        true
    }

    fn compile(&self, params: &Value, _: &Attachment, _: &Services) -> Result<Policy, CompileError> {
        let mut params = Params::deserialize(params).map_err(|error| header_list::unreadable(&error))?;
        params.dns_names.iter_mut().for_each(|name| name.make_ascii_lowercase());
        for fingerprint in &mut params.fingerprints {
            // Tools write them with colons and in capitals.
            *fingerprint = fingerprint.replace(':', "").to_ascii_lowercase();
        }
        Ok(Box::new(Instance(params)))
    }
}

impl Instance {
    fn allows(&self, certificate: &ClientCertificate) -> bool {
        let Params { subjects, dns_names, uris, fingerprints } = &self.0;
        let listed = |list: &[String], values: &[String]| values.iter().any(|value| list.contains(value));
        let open = [subjects, dns_names, uris, fingerprints].into_iter().all(Vec::is_empty);
        open || subjects.contains(&certificate.subject)
            || listed(dns_names, &certificate.dns_names)
            || listed(uris, &certificate.uris)
            || fingerprints.contains(&certificate.fingerprint)
    }
}

impl Hooks for Instance {
    fn phases(&self) -> Phases {
        Phases { request: true, ..Phases::default() }
    }

    fn on_request(
        &self,
        _head: &mut dyn RequestHead,
        exchange: &mut Exchange<'_>,
    ) -> Result<Verdict, PolicyError> {
        let Some(certificate) = &exchange.client_certificate else {
            return Ok(refusal(StatusCode::UNAUTHORIZED, UNAUTHORIZED));
        };
        if !self.allows(certificate) {
            return Ok(refusal(StatusCode::FORBIDDEN, FORBIDDEN));
        }
        exchange.auth = Some(Arc::new(Auth {
            authenticated: true,
            kind: "mtls",
            subject: certificate.subject.clone(),
            ..Auth::default()
        }));
        Ok(Verdict::Continue)
    }
}

fn refusal(status: StatusCode, body: &'static [u8]) -> Verdict {
    Verdict::Answer(Answer {
        status,
        headers: vec![(CONTENT_TYPE, HeaderValue::from_static("application/json"))],
        body: Bytes::from_static(body),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ferrogate_policy::harness::{Outcome, Request, Route, exercise};
    use ferrogate_policy::{ClientCertificate, Definition, Level, ResponseHead as _, Services};
    use serde_json::{Value, json};

    use super::ClientCertificateAuth;

    fn definition() -> Arc<dyn Definition> {
        Arc::new(ClientCertificateAuth)
    }

    const FINGERPRINT: &str = "0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9";

    fn send(params: &Value, certificate: Option<ClientCertificate>) -> Outcome {
        let route = Route::with_policy(&definition(), params, Level::Api, &Services::in_memory());
        let route = route.expect("valid parameters");
        // What a client writes into headers proves nothing.
        let request = Request::new("GET", "/").with("x-forwarded-client-cert", b"Subject=\"CN=ann\"");
        match certificate {
            Some(certificate) => route.proven(certificate).send(request),
            None => route.send(request),
        }
    }

    fn ann() -> Option<ClientCertificate> {
        Some(ClientCertificate {
            subject: "CN=ann".to_owned(),
            fingerprint: FINGERPRINT.to_owned(),
            dns_names: vec!["ann.example".to_owned()],
            uris: vec!["spiffe://example/ann".to_owned()],
            ..ClientCertificate::default()
        })
    }

    #[test]
    fn only_who_is_proven_and_listed_passes() {
        // As `openssl x509 -fingerprint` writes it.
        let pairs: Vec<String> =
            FINGERPRINT.as_bytes().chunks(2).map(|pair| String::from_utf8_lossy(pair).into_owned()).collect();
        let with_colons = pairs.join(":").to_ascii_uppercase();
        for (params, status) in [
            (json!({}), 200),
            (json!({"subjects": ["CN=ann"]}), 200),
            (json!({"dnsNames": ["Ann.example"]}), 200),
            (json!({"uris": ["spiffe://example/ann"]}), 200),
            (json!({ "fingerprints": [with_colons] }), 200),
            (json!({"subjects": ["CN=bob"], "fingerprints": [FINGERPRINT]}), 200),
            (json!({"subjects": ["CN=bob"]}), 403),
            (json!({"dnsNames": ["example"]}), 403),
            (json!({"fingerprints": ["0".repeat(64)]}), 403),
        ] {
            let outcome = send(&params, ann());
            assert_eq!(outcome.response.status().as_u16(), status, "{params}");
            let subject = outcome.auth.map(|auth| auth.subject.clone());
            assert_eq!(subject.as_deref(), (status == 200).then_some("CN=ann"), "{params}");
            assert_eq!(send(&params, None).response.status().as_u16(), 401, "{params}");
        }
    }

    #[test]
    fn a_list_that_names_nobody_is_refused() {
        for params in [
            json!({"subjects": []}),
            json!({"dnsNames": []}),
            json!({"uris": [], "subjects": ["CN=ann"]}),
            json!({"fingerprints": []}),
            json!({"fingerprints": ["abcd"]}),
            json!({"fingerprints": [":".repeat(64)]}),
            json!({"fingerprints": [FINGERPRINT, "0".repeat(63)]}),
            json!({"fingerprints": [format!("{FINGERPRINT}00")]}),
        ] {
            let refused = Route::with_policy(&definition(), &params, Level::Api, &Services::in_memory());
            assert!(refused.is_err(), "{params} was accepted");
        }
    }

    #[test]
    fn it_behaves_as_every_policy_must() {
        exercise(&definition(), &json!({"subjects": ["CN=ann"]}));
    }
}
