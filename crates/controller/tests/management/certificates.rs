// SPDX-License-Identifier: Apache-2.0
//! Certificates: the endpoints of contract 2.6, the artifact beyond them, and that a private
//! key is in no answer and not in the clear in the database.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ferrogate_model::ResourceName;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Gateway, send};

fn made(name: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate");
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// One that says in two places how it was signed, and not the same: it can be read, and not used.
fn unusable() -> String {
    const ECDSA_WITH_SHA256: [u8; 8] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
    let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).expect("a certificate");
    let mut der = made.cert.der().to_vec();
    let mut places = der.windows(ECDSA_WITH_SHA256.len());
    let outer = places.rposition(|bytes| bytes == ECDSA_WITH_SHA256).expect("rcgen signs in this way");
    der[outer + ECDSA_WITH_SHA256.len() - 1] = 0x03;
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der))
}

/// A line of the key that nothing else has.
fn secret(key: &str) -> &str {
    key.lines().nth(1).expect("a line of base64")
}

fn document(name: &str, certificate: &str, key: Option<&str>) -> String {
    let spec = json!({"certificate": certificate, "privateKey": key});
    let metadata = json!({"name": name});
    json!({"apiVersion": "gateway.api-platform.wso2.com/v1", "kind": "Certificate",
           "metadata": metadata, "spec": spec})
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_has_the_contract_s_shapes_and_words() {
    let gateway = Gateway::start().await;
    let empty = gateway.get("/certificates").await.json();
    assert_eq!(empty, json!({"certificates": null, "totalCount": 0, "totalBytes": 0, "status": "success"}));
    let (first, second) = (made("a.example").0, made("b.example").0);
    let bundle = format!("{first}{second}");
    let upload = json!({"name": "partners", "certificate": bundle}).to_string();
    let created = gateway.post("/certificates", upload.clone()).await;
    let body = created.json();
    assert_eq!(created.status, StatusCode::CREATED, "{created:?}");
    for (field, value) in [
        ("id", json!("partners")),
        ("name", json!("partners")),
        ("count", json!(2)),
        ("message", json!("Certificate uploaded and SDS updated successfully")),
        ("status", json!("success")),
        ("usage", json!("upstreamTrust")),
    ] {
        assert_eq!(body[field], value, "{field} of {body}");
    }
    assert!(body["subject"].as_str().is_some_and(|subject| subject.contains("CN=")), "{body}");
    assert_eq!(body["notAfter"].as_str().map(str::len), Some("2030-01-01 00:00:00".len()), "{body}");

    let list = gateway.get("/certificates").await.json();
    assert_eq!((&list["totalCount"], &list["totalBytes"]), (&json!(1), &json!(bundle.len())));
    assert_eq!(list["certificates"][0]["name"], "partners");
    let reloaded = gateway.post("/certificates/reload", "").await;
    assert_eq!(reloaded.json()["totalBytes"], json!(bundle.len()));
    assert_eq!(reloaded.json()["message"], "Certificates reloaded and SDS updated successfully");

    let again = gateway.post("/certificates", upload).await.told();
    let said = "configuration already exists: certificate 'partners' already exists";
    assert_eq!(again, (409, said.to_owned()));
    let numbered =
        gateway.post("/certificates", json!({"name": 5, "certificate": bundle}).to_string()).await.told();
    assert_eq!(numbered, (400, "Invalid request body: name: expected text (in quotes)".to_owned()));
    let gone = gateway.delete("/certificates/partners").await;
    assert_eq!(
        (gone.status.as_u16(), gone.json()),
        (
            200,
            json!({"status": "success", "id": "partners", "revision": gone.revision(),
                   "message": "Certificate deleted and SDS updated successfully"})
        )
    );
    let (status, message) = gateway.delete("/certificates/partners").await.told();
    assert!(status == 404 && message.starts_with("Certificate not found or failed to delete: "), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_the_contract_s_words() {
    let gateway = Gateway::start().await;
    let (certificate, key) = made("a.example");
    let (_, another) = made("a.example");
    for (body, message) in [
        ("{".to_owned(), "Invalid request body: "),
        ("name: a\ncertificate: x\n".to_owned(), "Invalid request body: "),
        (json!({"name": "a"}).to_string(), "name and certificate are required fields"),
        (json!({"certificate": certificate}).to_string(), "name and certificate are required fields"),
        (
            json!({"name": "a", "certificate": "x"}).to_string(),
            "Invalid certificate: no valid certificates found in PEM data",
        ),
        (
            json!({"name": "a", "certificate": certificate, "privateKey": another}).to_string(),
            "Invalid certificate: spec.privateKey: The private key is not the certificate's",
        ),
        (
            json!({"name": "reload", "certificate": certificate}).to_string(),
            "Invalid certificate: metadata.name: ",
        ),
        (
            json!({"name": "a", "certificate": format!("{certificate}{}", unusable())}).to_string(),
            "Invalid certificate: certificate 2 in the PEM data cannot be used: ",
        ),
    ] {
        let (status, told) = gateway.post("/certificates", body).await.told();
        assert!(status == 400 && told.starts_with(message), "{status} {told}");
        assert!(!told.contains(secret(&key)) && !told.contains(secret(&another)), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_key_comes_in_and_does_not_come_out() {
    let gateway = Gateway::start().await;
    let (certificate, key) = made("shop.example");
    let created = gateway.post("/certificates", document("shop", &certificate, Some(&key))).await;
    assert_eq!(created.status, StatusCode::CREATED, "{created:?}");
    assert_eq!(created.json()["serverNames"], json!(["shop.example"]));
    // A whole document may be YAML, as that of every kind.
    let lines: String = certificate.lines().map(|line| format!("    {line}\n")).collect();
    let yaml = format!("kind: Certificate\nmetadata: {{name: y}}\nspec:\n  certificate: |\n{lines}");
    let dry = gateway.post("/certificates?dryRun=true", yaml).await;
    assert!(dry.status.is_success(), "{dry:?}");
    assert_eq!(created.json()["resource"]["state"], "deployed");
    let (renewed, its_key) = made("shop.example");
    let replaced = gateway.put("/certificates/shop", document("shop", &renewed, Some(&its_key))).await;
    assert_eq!((replaced.status.as_u16(), replaced.revision()), (200, 2), "{replaced:?}");

    let mut answers = vec![created.text, replaced.text];
    for path in [
        "/certificates",
        "/certificates/shop",
        "/certificates/shop/revisions",
        "/certificates/shop/revisions/1",
        "/revisions",
        "/rest-apis",
    ] {
        answers.push(gateway.get(path).await.text);
    }
    answers.push(send(gateway.request(Method::GET, "/certificates/shop")).await.text);
    for answer in &answers {
        assert!(!answer.contains(secret(&key)) && !answer.contains(secret(&its_key)), "{answer}");
    }
    let read: Value = gateway.get("/certificates/shop").await.json();
    assert_eq!((&read["spec"]["certificate"], &read["spec"]["privateKey"]), (&json!(renewed), &Value::Null));

    // The old key comes back with the old certificate, although no answer shows it.
    let back = gateway.post("/certificates/shop/rollback", r#"{"revision": 1}"#).await;
    assert_eq!(back.status, StatusCode::OK, "{back:?}");
    let snapshot = gateway.controller.replica.current().expect("ready");
    let name: ResourceName = "certificates/shop".parse().expect("a name");
    let payload = snapshot.get(&name).and_then(|entry| entry.stored.payload.clone()).expect("deployed");
    let payload: Value = serde_json::from_str(&payload).expect("JSON");
    assert_eq!((&payload["certificate"], &payload["privateKey"]), (&json!(certificate), &json!(key)));

    let database = std::fs::read_dir(gateway.dir.path()).expect("a directory");
    let mut read = 0;
    for file in database.map(|file| file.expect("readable").path()) {
        if file.to_string_lossy().contains("gateway.db") {
            let bytes = std::fs::read(&file).expect("readable");
            read += bytes.len();
            let part = secret(&key).as_bytes();
            assert!(!bytes.windows(part.len()).any(|window| window == part), "{}", file.display());
        }
    }
    assert!(read > 0, "no database was looked at");
}
