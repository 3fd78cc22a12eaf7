// SPDX-License-Identifier: Apache-2.0
//! What is refused, with which status and which words (contract 1.5 and 2.2), and that
//! nothing of it is stored.

use futures::StreamExt as _;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Gateway, Setup, api, api_with, send};

fn fields(answer: &Answer) -> Vec<String> {
    let body = answer.json();
    let errors = body["errors"].as_array().map_or(&[][..], Vec::as_slice);
    errors.iter().filter_map(|error| error["field"].as_str().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_cannot_be_read_is_a_400_without_fields() {
    let gateway = Gateway::start().await;
    for (body, said) in [
        ("{{{".to_owned(), "failed to parse configuration"),
        (String::new(), "failed to parse configuration"),
        ("- a\n- list\n".to_owned(), "failed to parse configuration"),
        (api_with("x", "/x", "  vhosts: 5\n"), "failed to parse configuration"),
        (api("x", "'/{{ secret \"nowhere\" }}'"), "failed to resolve secret \"nowhere\""),
        (api("x", "'/{{ shout \"x\" }}'"), "function \"shout\" not defined"),
        (api("x", "'/{{ required \"say where\" (env \"NOT_SET_ANYWHERE\") }}'"), "say where"),
    ] {
        let answer = gateway.post("/rest-apis", body.clone()).await;
        let (status, message) = answer.told();
        assert!(status == 400 && message.contains(said), "{body}\n{answer:?}");
        assert_eq!(answer.json()["status"], "error");
        assert!(answer.json().get("errors").is_none(), "{answer:?}");
    }
    let put = gateway.put("/rest-apis/x", "{{{").await.told();
    assert!(put.0 == 400 && put.1.starts_with("Failed to parse configuration: "), "{put:?}");
    assert_eq!(gateway.get("/rest-apis").await.json()["count"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_violation_is_told_at_once_policies_included() {
    let gateway = Gateway::start().await;
    let policies = "  policies:\n    - name: no-such-policy\n      version: v1\n    - name: set-headers\n      \
                    version: v1\n      params:\n        nonsense: 1\n    - name: respond\n      \
                    executionCondition: 'this is ('\n";
    let valid_head = gateway.post("/rest-apis", api_with("x", "/x", policies)).await;
    assert_eq!(
        (valid_head.status.as_u16(), valid_head.told().1.as_str()),
        (400, "Configuration validation failed")
    );
    let of_policies = fields(&valid_head);
    assert!(of_policies.contains(&"spec.policies[0].version".to_owned()), "{valid_head:?}");
    assert!(of_policies.iter().any(|field| field.starts_with("spec.policies[1].params")), "{valid_head:?}");
    assert!(of_policies.contains(&"spec.policies[2].executionCondition".to_owned()), "{valid_head:?}");

    let faulty_head = gateway.post("/rest-apis", api_with("x", "no-slash", policies)).await;
    let all = fields(&faulty_head);
    assert_eq!(all.first().map(String::as_str), Some("spec.context"), "{faulty_head:?}");
    for field in &of_policies {
        assert!(all.contains(field), "{field} is missing in {all:?}");
    }
    let nameless = gateway.post("/rest-apis", api_with("'a b'", "no-slash", policies)).await;
    let all = fields(&nameless);
    let order: Vec<&str> =
        all.iter().map(|field| field.split(['[', '.']).take(2).last().unwrap_or_default()).collect();
    let mut wanted = vec!["context"];
    wanted.extend(vec!["policies"; of_policies.len()]);
    wanted.push("name");
    assert_eq!(order, wanted, "the contract's order: {all:?}");
    assert_eq!(gateway.get("/rest-apis").await.json()["count"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_name_what_is_in_the_way() {
    let gateway = Gateway::start().await;
    gateway.create("books", "/books").await;
    gateway.create("films", "/films").await;
    let taken_name = api("other", "/other").replace("displayName: other", "displayName: books");
    for (body, said) in [
        (
            api("books", "/new"),
            "configuration already exists: configuration with handle 'books' already exists",
        ),
        (
            taken_name.clone(),
            "configuration already exists: configuration with name 'books' and version 'v1.0' already exists",
        ),
        (
            api("other", "/books"),
            "route conflict: route GET * /books/books is already served by RestApi 'books'",
        ),
    ] {
        assert_eq!(gateway.post("/rest-apis", body).await.told(), (409, said.to_owned()));
    }
    let put = gateway.put("/rest-apis/films", api("films", "/books")).await.told();
    assert!(put.0 == 409 && put.1.contains("'books'"), "{put:?}");
    // What was refused left no trace: the names are still free.
    gateway.create("other", "/other").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn put_checks_the_handle_then_existence_then_the_document() {
    let gateway = Gateway::start().await;
    let mismatch = gateway.put("/rest-apis/a", api("b", "/b")).await.told();
    assert_eq!(mismatch, (400, "handle mismatch: path has 'a' but YAML metadata.name has 'b'".to_owned()));
    for body in [api("a", "/a"), api("a", "not-valid")] {
        assert_eq!(gateway.put("/rest-apis/a", body).await.status, 404);
    }
    gateway.create("a", "/a").await;
    let invalid = gateway.put("/rest-apis/a", api("a", "not-valid")).await;
    assert_eq!((invalid.status.as_u16(), fields(&invalid)), (400, vec!["spec.context".to_owned()]));
    assert_eq!(gateway.get("/rest-apis/a").await.json()["spec"]["context"], "/a", "the old one stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_a_413() {
    let setup = Setup { toml: "[controller.limits]\ndocument_bytes = 1000\n".to_owned(), ..Setup::default() };
    let gateway = Gateway::with(setup).await;
    let large = format!("{}# {}\n", api("x", "/x"), "x".repeat(1000));
    let answer = gateway.post("/rest-apis", large).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["status"]), (413, &json!("error")));
    // Each document of a bundle is held to it as well.
    let padded =
        api("y", "/y").replace("metadata:\n", &format!("metadata:\n  labels: {{a: {}}}\n", "x".repeat(1000)));
    let bundle = gateway.post("/apply", format!("{}---\n{padded}", api("z", "/z"))).await;
    assert_eq!(
        (bundle.status.as_u16(), fields(&bundle)),
        (400, vec!["document 2 (y)".to_owned()]),
        "{bundle:?}"
    );
    gateway.create("x", "/x").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_says_which_document_is_in_the_way_of_what() {
    let gateway = Gateway::start().await;
    gateway.create("books", "/books").await;
    let bundle = |first: String, second: String| format!("{first}---\n{second}");
    for path in ["/apply", "/apply?dryRun"] {
        for (body, said) in [
            (
                bundle(api("a", "/a"), api("b", "/books")),
                "document 2 (b): route conflict: route GET * /books/books is already served by RestApi 'books'",
            ),
            (
                bundle(api("a", "/a"), api("b", "/a")),
                "document 2 (b): route conflict: route GET * /a/books is that of document 1 (a) too",
            ),
            (
                bundle(api("a", "/a"), api("b", "/b").replace("displayName: b", "displayName: books")),
                "document 2 (b): configuration already exists: configuration with name 'books' and version \
                 'v1.0' already exists",
            ),
        ] {
            let told = gateway.post(path, body).await.told();
            assert_eq!(told, (409, said.to_owned()), "{path}");
        }
    }
    let unknown = api("m", "/m").replace("kind: RestApi", "kind: Mcp");
    let refused = gateway.post("/apply", bundle(unknown, api("b", "no-slash"))).await;
    assert_eq!(fields(&refused), ["document 1 (m): kind", "document 2 (b): spec.context"], "{refused:?}");
    let message = "Unsupported kind (must be one of 'RestApi', 'Secret', 'Certificate')";
    assert_eq!(refused.json()["errors"][0]["message"], message);
    assert_eq!(gateway.controller.replica.position().revision.0, 1, "nothing was stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immutable_gateway_refuses_writes_before_it_asks_who_writes() {
    let artifacts = tempfile::tempdir().expect("a temporary directory");
    let toml = format!("[immutable_gateway]\nenabled = true\nartifacts_dir = {:?}\n", artifacts.path());
    let gateway = Gateway::with(Setup { toml, ..Setup::default() }).await;
    for (method, path) in
        [(Method::POST, "/rest-apis"), (Method::DELETE, "/rest-apis/x"), (Method::POST, "/apply")]
    {
        let answer = send(gateway.http.request(method, gateway.url(path))).await;
        let said = "Gateway is in immutable mode. Mutating operations are not allowed.";
        assert_eq!(answer.told(), (405, said.to_owned()));
        assert_eq!(answer.header("deprecation"), Some("true"));
    }
    assert_eq!(gateway.get("/rest-apis").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_without_effect_are_warned_about_or_refused() {
    let gateway = Gateway::start().await;
    let body = api_with("x", "/x", "  contxt: /typo\n");
    let strict = gateway.post("/rest-apis?strict=true", body.clone()).await;
    assert_eq!((strict.status.as_u16(), fields(&strict)), (400, vec!["spec.contxt".to_owned()]));
    assert_eq!(strict.json()["errors"][0]["message"], "unknown field");
    let lenient = gateway.post("/rest-apis", body).await;
    assert_eq!(lenient.status, 201);
    assert_eq!(lenient.json()["status"]["warnings"][0]["field"], "spec.contxt");
    // What was answered can be sent back, its status included.
    let mut echoed = gateway.get("/rest-apis/x").await.json();
    echoed["spec"].as_object_mut().expect("an object").remove("contxt");
    let put = gateway.put("/rest-apis/x?strict=true", echoed.to_string()).await;
    assert_eq!((put.status.as_u16(), put.json()["status"].get("warnings")), (200, None), "{put:?}");
    assert_ne!(put.json()["spec"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_late_is_told_so_on_every_path() {
    let toml = "controller.limits.body_timeout = \"50ms\"\n".to_owned();
    let gateway = Gateway::with(Setup { toml, ..Setup::default() }).await;
    let description = gateway.get("/openapi.json").await.json();
    let paths = description["paths"].as_object().expect("paths");
    let mut asked = 0;
    for (path, operations) in paths {
        for (method, _) in operations
            .as_object()
            .expect("operations")
            .iter()
            .filter(|(_, operation)| operation.get("requestBody").is_some())
        {
            // The beginning of a document, and then nothing for as long as the client lives.
            let begun = futures::stream::iter([Ok::<_, std::io::Error>("{")]);
            let body = reqwest::Body::wrap_stream(begun.chain(futures::stream::pending()));
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).expect("a method");
            let answer = send(gateway.request(method, &path.replace("{id}", "x")).body(body)).await;
            assert_eq!(answer.status, 408, "{path}: {answer:?}");
            assert_eq!(answer.json()["status"], "error", "{path}");
            asked += 1;
        }
    }
    assert_eq!(asked, 11, "creating, replacing and rolling back of every kind, and both for all of them");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_named_in_vain_is_warned_about_or_refused() {
    let gateway = Gateway::start().await;
    let tls = "  upstreamDefinitions:\n    - name: other\n      upstreams: [{url: 'https://127.0.0.1:1'}]\n      \
               tls: {caCertificate: corp, clientCertificate: shown}\n";
    let body = api_with("x", "/x", tls);
    let named = ["caCertificate", "clientCertificate"]
        .map(|field| format!("spec.upstreamDefinitions[0].tls.{field}"))
        .to_vec();
    let warned = |answer: &Answer| {
        let status = answer.json()["status"].clone();
        let warnings = status["warnings"].as_array().cloned().unwrap_or_default();
        warnings.iter().map(|one| format!("{}: {}", one["field"], one["message"])).collect::<Vec<_>>()
    };
    let strict = gateway.post("/rest-apis?strict=true", body.clone()).await;
    assert_eq!((strict.status.as_u16(), fields(&strict)), (400, named), "{strict:?}");
    let tried = gateway.post("/rest-apis?dryRun=true", body.clone()).await;
    assert_eq!((tried.status.as_u16(), warned(&tried).len()), (200, 2), "{tried:?}");
    let lenient = gateway.post("/rest-apis", body.clone()).await;
    assert_eq!((lenient.status.as_u16(), warned(&lenient).len()), (201, 2), "{lenient:?}");

    // What the same batch writes is there; but it has no key to be shown with.
    let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).expect("a certificate");
    let certificate = |name: &str, key: Option<String>| {
        json!({"apiVersion": "gateway.api-platform.wso2.com/v1", "kind": "Certificate",
               "metadata": {"name": name},
               "spec": {"certificate": made.cert.pem(), "privateKey": key, "usage": "named"}})
    };
    let bundle = format!("{}\n---\n{}\n---\n{body}", certificate("corp", None), certificate("shown", None));
    let applied = gateway.post("/apply", bundle).await;
    let warnings = &applied.json()["results"][2]["status"]["warnings"];
    assert_eq!(warnings.as_array().map(Vec::len), Some(1), "{applied:?}");
    assert!(warnings[0]["message"].as_str().is_some_and(|told| told.contains("has no private key")));
    let keyed = certificate("shown", Some(made.signing_key.serialize_pem()));
    assert_eq!(gateway.put("/certificates/shown", keyed.to_string()).await.status, 200);
    let strict = gateway.put("/rest-apis/x?strict=true", body).await;
    assert_eq!((strict.status.as_u16(), warned(&strict)), (200, Vec::new()), "{strict:?}");
}
