// SPDX-License-Identifier: Apache-2.0
//! Create, list, get, replace, delete (contract 2.1 and 2.2), and what every answer has.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{BASE, Gateway, api, api_with, send};

#[tokio::test(flavor = "multi_thread")]
async fn an_api_lives_and_dies() {
    let gateway = Gateway::start().await;
    let created = gateway.post("/rest-apis", api_with("books", "/books/$version", "")).await;
    assert_eq!(created.status, 201, "{created:?}");
    assert_eq!((created.revision(), created.header("etag")), (1, Some("\"1\"")));
    let body = created.json();
    assert_eq!(body["spec"]["context"], "/books/$version", "the source is answered, not what it resolves to");
    assert_eq!(body["spec"]["vhosts"], json!({"main": "*", "sandbox": "sandbox-*"}));
    assert_eq!(body["status"]["id"], "books");
    assert_eq!((&body["status"]["state"], &body["status"]["revision"]), (&json!("deployed"), &json!(1)));
    for time in ["createdAt", "updatedAt", "deployedAt"] {
        assert!(body["status"][time].as_str().is_some_and(|text| text.ends_with('Z')), "{body}");
    }

    // The writer reads its own write at once.
    let got = gateway.get("/rest-apis/books").await;
    assert_eq!((got.status.as_u16(), got.json()), (200, body.clone()));
    assert_eq!((got.header("x-ferrogate-revision"), got.header("x-ferrogate-stale")), (Some("1"), None));

    let replaced =
        gateway.put("/rest-apis/books", api_with("books", "/other", "  deploymentState: undeployed\n")).await;
    assert_eq!((replaced.status.as_u16(), replaced.revision()), (200, 2), "{replaced:?}");
    let status = &replaced.json()["status"];
    assert_eq!((&status["state"], status.get("deployedAt")), (&json!("undeployed"), None));
    assert_eq!(status["createdAt"], body["status"]["createdAt"]);

    let deleted = gateway.delete("/rest-apis/books").await;
    assert_eq!((deleted.status.as_u16(), deleted.revision()), (200, 3));
    let body = deleted.json();
    assert_eq!(
        (&body["status"], &body["message"], &body["id"]),
        (&json!("success"), &json!("RestAPI deleted successfully"), &json!("books"))
    );
    for answer in [gateway.get("/rest-apis/books").await, gateway.delete("/rest-apis/books").await] {
        assert_eq!(answer.told(), (404, "RestAPI with handle 'books' not found".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn undeployed_is_honoured_on_create_and_its_routes_are_free() {
    let gateway = Gateway::start().await;
    let created =
        gateway.post("/rest-apis", api_with("off", "/same", "  deploymentState: undeployed\n")).await;
    assert_eq!((created.status.as_u16(), &created.json()["status"]["state"]), (201, &json!("undeployed")));
    gateway.create("on", "/same").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_and_show_resolved_contexts() {
    let gateway = Gateway::start().await;
    gateway.create("one", "/one/$version").await;
    gateway.create("two", "/two").await;
    let off =
        gateway.post("/rest-apis", api_with("three", "/three", "  deploymentState: undeployed\n")).await;
    assert_eq!(off.status, 201);
    for (query, names) in [
        ("", &["one", "three", "two"][..]),
        ("?displayName=two", &["two"]),
        ("?displayName=", &["one", "three", "two"]),
        ("?context=/one/v1.0", &["one"]),
        ("?context=/one/$version", &[]),
        ("?version=v1.0&status=undeployed", &["three"]),
        ("?status=deployed", &["one", "two"]),
    ] {
        let list = gateway.get(&format!("/rest-apis{query}")).await.json();
        let apis = list["apis"].as_array().expect("a list");
        let found: Vec<&str> = apis.iter().filter_map(|api| api["metadata"]["name"].as_str()).collect();
        assert_eq!(found, names, "{query}");
        assert_eq!((&list["status"], &list["count"]), (&json!("success"), &json!(names.len())), "{query}");
    }
    let list = gateway.get("/rest-apis?displayName=one").await.json();
    assert_eq!(list["apis"][0]["spec"]["context"], "/one/v1.0");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_base_path_answers_and_the_bare_one_is_deprecated() {
    let gateway = Gateway::start().await;
    gateway.create("books", "/books").await;
    for base in [BASE, "/api/management/v0.9", ""] {
        let request = gateway.http.get(gateway.url(&format!("{base}/rest-apis/books")));
        let answer = send(request.basic_auth("admin", Some("correct horse"))).await;
        assert_eq!(answer.status, 200, "{base}");
        let deprecated = base.is_empty();
        assert_eq!(answer.header("deprecation"), deprecated.then_some("true"), "{base}");
        assert_eq!(
            answer.header("link"),
            deprecated.then_some("</api/management/v1/rest-apis/books>; rel=\"successor-version\"")
        );
        assert_eq!(
            answer.header("warning"),
            deprecated.then_some("299 - \"Deprecated API: migrate to /api/management/v1 prefix\"")
        );
        // A refused caller is told as well.
        let refused = send(gateway.http.get(gateway.url(&format!("{base}/rest-apis")))).await;
        assert_eq!(
            (refused.status.as_u16(), refused.header("deprecation")),
            (401, deprecated.then_some("true"))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_paths_and_methods_are_plain_and_open() {
    let gateway = Gateway::start().await;
    for path in ["/nothing", "/api/management/v2/rest-apis", "/api/management/v1/api-keys"] {
        let answer = send(gateway.http.get(gateway.url(path))).await;
        assert_eq!((answer.status.as_u16(), answer.text.trim()), (404, "404 page not found"), "{path}");
    }
    for base in [BASE, ""] {
        let request = gateway.http.request(Method::PATCH, gateway.url(&format!("{base}/rest-apis/books")));
        let answer = send(request).await;
        assert_eq!((answer.status.as_u16(), answer.text.trim()), (405, "Method Not Allowed"), "{base}");
        let allow = answer.header("allow").unwrap_or_default();
        assert!(["GET", "PUT", "DELETE"].iter().all(|method| allow.contains(method)), "{allow}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_carry_the_correlation_id_and_escape_markup() {
    let gateway = Gateway::start().await;
    let created =
        gateway.post("/rest-apis", api_with("marked", "/m", "  resilience:\n    timeout: '<b>&'\n")).await;
    assert!(created.text.contains("Invalid timeout format"), "{created:?}");
    let more = "  policies:\n    - name: respond\n      params:\n        body: '<b>&amp;</b>'\n";
    let created = gateway.post("/rest-apis", api_with("marked", "/m", more)).await;
    assert_eq!(created.status, 201, "{created:?}");
    assert!(created.text.ends_with("}\n") && !created.text.contains(['<', '>', '&']), "{}", created.text);
    assert_eq!(created.json()["spec"]["policies"][0]["params"]["body"], "<b>&amp;</b>");
    assert_eq!(created.header("content-type"), Some("application/json"));

    let made = created.header("x-correlation-id").expect("made").to_owned();
    assert!(uuid::Uuid::parse_str(&made).is_ok(), "{made}");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_and_yaml_say_the_same() {
    let gateway = Gateway::start().await;
    let document = |name: &str| {
        json!({
            "apiVersion": "gateway.api-platform.wso2.com/v1",
            "kind": "RestApi",
            "metadata": {"name": name},
            "spec": {
                "displayName": name, "version": "v1.0", "context": format!("/{name}"),
                "upstream": {"main": {"url": "http://127.0.0.1:8089"}},
                "operations": [{"method": "GET", "path": "/x"}],
            },
        })
        .to_string()
    };
    for (name, content_type, body) in [
        ("json", Some("application/json"), document("json")),
        ("either", Some("application/json; charset=utf-8"), document("either")),
        ("none", None, document("none")),
        ("yaml", Some("application/yaml"), api("yaml", "/yaml")),
    ] {
        let mut request = gateway.request(Method::POST, "/rest-apis").body(body);
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let answer = send(request).await;
        assert_eq!(answer.status, 201, "{name}: {answer:?}");
        assert_eq!(answer.json()["metadata"]["name"], Value::from(name));
    }
    let request = gateway.request(Method::POST, "/rest-apis").header("content-type", "application/json");
    assert_eq!(send(request.body(api("no", "/no"))).await.status, 400, "YAML is not JSON");
}
