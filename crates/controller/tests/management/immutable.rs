// SPDX-License-Identifier: Apache-2.0
//! Immutable mode (contract 7.2): the files decide, and a faulty one stops the start.

use std::path::Path;

use ferrogate_controller::run::Controller;

use crate::harness::{Gateway, Setup, api, api_with, config, parts};

fn toml(files: &Path, database: &Path) -> String {
    format!(
        "controller.storage.sqlite.path = {database:?}\nimmutable_gateway.enabled = true\n\
         immutable_gateway.artifacts_dir = {files:?}\ncontroller.encryption.key_file = {:?}\n",
        database.with_file_name("key.bin")
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immutable_gateway_serves_its_files_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (files, database) = (dir.path().join("files"), dir.path().join("immutable.db"));
    std::fs::create_dir_all(files.join("nested")).expect("made");
    std::fs::write(dir.path().join("key.bin"), [7; 32]).expect("written");
    let write = |name: &str, text: String| std::fs::write(files.join(name), text).expect("written");
    let templated = "http://{{ secret \"host\" }}";
    write("a.yaml", api("a", "/a").replace("http://127.0.0.1:8089", &format!("'{templated}'")));
    write("nested/b.yml", format!("{}\n---\n{}", api("b", "/b"), api("c", "/c")));
    let secret = "{\"kind\": \"Secret\", \"metadata\": {\"name\": \"host\"}, \
         \"spec\": {\"displayName\": \"h\", \"value\": \"127.0.0.1:8089\"}}";
    write("z.json", secret.to_owned());
    write("notes.txt", "not for the gateway".to_owned());
    let start = || Gateway::with(Setup { toml: toml(&files, &database), ..Setup::default() });
    let gateway = start().await;
    assert_eq!(gateway.get("/rest-apis").await.json()["count"], 3);
    assert_eq!(gateway.controller.replica.position().revision.0, 4);
    let refused = gateway.post("/rest-apis", api("x", "/x")).await;
    assert_eq!(refused.status, 405, "{refused:?}");
    drop(gateway.controller.shutdown(std::time::Duration::from_secs(5)).await);

    let unchanged = start().await;
    assert_eq!(unchanged.controller.replica.position().revision.0, 4, "the same files make no revision");
    drop(unchanged.controller.shutdown(std::time::Duration::from_secs(5)).await);
    write("nested/b.yml", api("b", "/moved"));
    let changed = start().await;
    assert_eq!(changed.controller.replica.position().revision.0, 6, "one replaced, one deleted");
    assert_eq!(changed.get("/rest-apis/b").await.json()["spec"]["context"], "/moved");
    assert_eq!(changed.get("/rest-apis/c").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_file_stops_the_start_and_is_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (files, database) = (dir.path().join("files"), dir.path().join("immutable.db"));
    std::fs::create_dir_all(&files).expect("made");
    std::fs::write(dir.path().join("key.bin"), [7; 32]).expect("written");
    let started = async || {
        let config = config(dir.path(), &toml(&files, &database));
        Controller::start(config, parts(None)).await.err().map(|error| error.to_string()).unwrap_or_default()
    };
    let sound = api("a", "/a");
    for (text, wanted) in [
        (sound.replace("context: /a", "context: a"), "spec.context: Context must start with /"),
        (format!("{sound}\n---\n{sound}"), "metadata.name: rest-apis/a stands in"),
        (format!("{sound}\n---\n{}", api("b", "/a")), "GET * /a/books"),
        (
            sound.replace("url: http://127.0.0.1:8089", "url: '{{ secret \"none\" }}'"),
            "failed to resolve secret \"none\"",
        ),
        ("a: [".to_owned(), "failed to parse configuration"),
        (api_with("a", "/a", "  policies:\n    - name: nothing\n"), "policy 'nothing' not found"),
    ] {
        std::fs::write(files.join("faulty.yaml"), &text).expect("written");
        let error = started().await;
        assert!(error.contains(wanted) && error.contains("faulty.yaml"), "{text}: {error}");
    }
    std::fs::remove_dir_all(&files).expect("removed");
    assert!(started().await.contains("artifacts_dir"), "a directory that is not there");
}
