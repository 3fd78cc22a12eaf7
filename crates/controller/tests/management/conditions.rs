// SPDX-License-Identifier: Apache-2.0
//! Concurrent edits, retries, and dry runs.

use reqwest::Method;
use serde_json::json;

use crate::harness::{Gateway, api, send};

#[tokio::test(flavor = "multi_thread")]
async fn if_match_guards_concurrent_edits() {
    let gateway = Gateway::start().await;
    let first = gateway.create("x", "/x").await;
    let put = |tag: String| {
        gateway.request(Method::PUT, "/rest-apis/x").header("if-match", tag).body(api("x", "/y"))
    };
    let done = send(put(format!("\"{first}\""))).await;
    assert_eq!(done.status, 200, "{done:?}");
    let late = send(put(format!("\"{first}\""))).await;
    assert_eq!((late.status.as_u16(), late.header("etag")), (412, done.header("etag")));
    let late = send(gateway.request(Method::DELETE, "/rest-apis/x").header("if-match", "\"1\"")).await;
    assert_eq!(late.status, 412);
    assert_eq!(send(put("nonsense".to_owned())).await.status, 400);
    assert_eq!(send(put("*".to_owned())).await.status, 200);
    let gone = send(gateway.request(Method::DELETE, "/rest-apis/none").header("if-match", "\"1\"")).await;
    assert_eq!(gone.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn preconditions_hold_of_dry_runs_and_rollbacks_as_well() {
    let gateway = Gateway::start().await;
    let first = gateway.create("x", "/x").await;
    let now = gateway.put("/rest-apis/x", api("x", "/y")).await.revision();
    let (stale, fresh) = (format!("\"{first}\""), format!("W/\"{first}\" , \"{now}\""));
    let back = format!("{{\"revision\": {first}}}");
    for (method, path, body) in [
        (Method::PUT, "/rest-apis/x?dryRun", api("x", "/z")),
        (Method::DELETE, "/rest-apis/x?dryRun", String::new()),
        (Method::POST, "/rest-apis/x/rollback?dryRun", back.clone()),
        (Method::POST, "/rest-apis/x/rollback", back.clone()),
        (Method::POST, "/rollback?dryRun", back.clone()),
        (Method::POST, "/rollback", back.clone()),
        (Method::POST, "/apply", api("x", "/z")),
        (Method::PUT, "/rest-apis/x", api("x", "/z")),
    ] {
        let ask = |header: &'static str, value: &str| {
            send(gateway.request(method.clone(), path).header(header, value).body(body.clone()))
        };
        for (header, value) in [("if-match", stale.as_str()), ("if-none-match", fresh.as_str())] {
            // A bundle has no tag that could be excluded.
            if (path, header) != ("/apply", "if-none-match") {
                let refused = ask(header, value).await;
                assert_eq!(refused.status, 412, "{method} {path} {header}: {refused:?}");
            }
        }
        if path.contains("dryRun") {
            assert_eq!(ask("if-match", &fresh).await.status, 200, "{method} {path}");
        }
    }
    assert_eq!(gateway.controller.replica.position().revision.0, now, "nothing was written");
    let new = gateway.request(Method::PUT, "/rest-apis/x").header("if-none-match", "*");
    assert_eq!(send(new.body(api("x", "/z"))).await.status, 412);
    let new = gateway.request(Method::PUT, "/rest-apis/new").header("if-none-match", "*");
    assert_eq!(send(new.body(api("new", "/new"))).await.status, 404, "PUT does not create");

    let read = |path: &'static str, tag: &str| {
        send(gateway.request(Method::GET, path).header("if-none-match", tag.to_owned()))
    };
    let known = read("/rest-apis/x", &fresh).await;
    let tag = format!("\"{now}\"");
    assert_eq!(
        (known.status.as_u16(), known.header("etag"), known.text.as_str()),
        (304, Some(tag.as_str()), "")
    );
    assert_eq!(read("/rest-apis/x", &stale).await.status, 200);
    assert_eq!(read("/rest-apis/x/revisions/1", "\"1\"").await.status, 304);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_with_its_key_applies_once() {
    let gateway = Gateway::start().await;
    let key = uuid::Uuid::new_v4().to_string();
    let create = || {
        let request = gateway.request(Method::POST, "/rest-apis").header("idempotency-key", key.clone());
        send(request.body(api("x", "/x")))
    };
    let (first, again) = (create().await, create().await);
    assert_eq!((first.status.as_u16(), first.revision()), (201, 1), "{first:?}");
    assert_eq!((again.status.as_u16(), again.revision()), (201, 1), "{again:?}");
    let other = gateway.request(Method::POST, "/rest-apis").header("idempotency-key", key.clone());
    let misused = send(other.body(api("y", "/y"))).await;
    assert!(misused.status == 409 && misused.text.contains("another request"), "{misused:?}");
    assert_eq!(gateway.get("/rest-apis/y").await.status, 404);
    let key = uuid::Uuid::new_v4().to_string();
    let delete =
        || send(gateway.request(Method::DELETE, "/rest-apis/x").header("idempotency-key", key.clone()));
    let (first, again) = (delete().await, delete().await);
    assert_eq!((first.revision(), again.revision(), again.status.as_u16()), (2, 2, 200), "{again:?}");

    let batch = gateway.get(&format!("/batches/{key}")).await.json();
    assert_eq!((&batch["outcome"], &batch["last"]), (&json!("committed"), &json!(2)));
    let unknown = gateway.get(&format!("/batches/{}", uuid::Uuid::new_v4())).await.json();
    assert_eq!(unknown["outcome"], "not committed");
    assert_eq!(gateway.get("/batches/nonsense").await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_stores_nothing_and_finds_what_a_write_would() {
    let gateway = Gateway::start().await;
    gateway.create("books", "/books").await;
    let fine = gateway.post("/rest-apis?dryRun=true", api("new", "/new")).await;
    assert_eq!((fine.status.as_u16(), &fine.json()["status"]["dryRun"]), (200, &json!(true)), "{fine:?}");
    assert_eq!(fine.header("x-revision"), None);
    for (method, path, body, status) in [
        (Method::POST, "/rest-apis", api("books", "/x"), 409),
        (Method::POST, "/rest-apis", api("x", "/books"), 409),
        (Method::POST, "/rest-apis", api("x", "no-slash"), 400),
        (Method::PUT, "/rest-apis/none", api("none", "/none"), 404),
        (Method::PUT, "/rest-apis/books", api("books", "/moved"), 200),
        (Method::DELETE, "/rest-apis/none", String::new(), 404),
        (Method::DELETE, "/rest-apis/books", String::new(), 200),
        (Method::POST, "/apply", format!("{}---\n{}", api("a", "/a"), api("books", "/b")), 200),
        (Method::POST, "/apply", format!("{}---\n{}", api("a", "/a"), api("b", "/books")), 409),
    ] {
        let request = gateway.request(method.clone(), &format!("{path}?dryRun"));
        let answer = send(request.body(body)).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {path}: {answer:?}");
    }
    let cased = gateway.put("/rest-apis/books?dryrun=true", api("books", "/moved")).await.told();
    assert_eq!(cased, (400, "unknown query parameter 'dryrun': write 'dryRun'".to_owned()));
    let taken = "route conflict: route GET * /books/books is already served by RestApi 'books'";
    for path in ["/rest-apis?dryRun", "/rest-apis"] {
        assert_eq!(gateway.post(path, api("x", "/books")).await.told(), (409, taken.to_owned()), "{path}");
    }
    assert_eq!(gateway.controller.replica.position().revision.0, 1, "only the first write happened");
}
