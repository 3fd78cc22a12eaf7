// SPDX-License-Identifier: Apache-2.0
//! The defaults, the keys of contract 7.2, and every complaint at its key.

use std::collections::BTreeMap;
use std::path::Path;

use ferrogate_base::config::{Problem, Reader, Sources};
use ferrogate_model::template::Lookup as _;

use super::{Config, Environment, SECTIONS};

fn read(env: &[(&str, &str)], file: &str) -> (Config, Vec<Problem>) {
    let env: BTreeMap<String, String> =
        env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let mut sources = Sources::new(env);
    sources.read_text(Path::new("test.toml"), file);
    let mut reader = Reader::new(&sources);
    let config = Config::read(&mut reader);
    (config, reader.finish(&SECTIONS, &["router", "policy_engine"]).problems)
}

#[test]
fn the_defaults_are_the_contract_s_and_have_no_problem() {
    let (config, problems) = read(&[], "");
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(config.management.map(|address| address.port()), Some(9090));
    assert_eq!(config.stream.map(|address| address.to_string()).as_deref(), Some("127.0.0.1:18000"));
    assert_eq!(config.gateway_id, "platform-gateway-id");
    assert_eq!(config.database_url.expose(), "sqlite://./data/gateway.db");
    assert!(config.basic.is_some_and(|users| users.is_empty()) && config.jwt.is_none());
}

#[test]
fn a_file_with_the_contract_s_keys_works() {
    let file = r#"
        [controller.server]
        api_port = 7090
        gateway_id = "gw"
        [controller.storage]
        type = "postgres"
        [controller.storage.postgres]
        host = "db.example"
        user = "u@x"
        password = "p:/?"
        database = "gateways"
        sslmode = "verify-full"
        [controller.event_hub]
        poll_interval = "3s"
        [[controller.encryption.providers]]
        type = "aesgcm"
        keys = [{version = "new", file = "/keys/new.bin"}, {version = "old", file = "/keys/old.bin"}]
        [[controller.auth.basic.users]]
        username = "ops"
        password = "secret"
        roles = ["admin"]
        [controller.auth.idp]
        enabled = true
        jwks_url = "https://idp.example/keys"
        issuer = "https://idp.example"
        [controller.auth.idp.role_mapping]
        admin = ["ops", "*"]
        [router.vhosts.main]
        default = "*.example.com"
        domains = ["api.example.com", "*.api.example.com"]
    "#;
    let (config, problems) = read(&[("FERROGATE_CONTROLLER_ADMIN_PASSWORD", "mine")], file);
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(config.management.map(|address| address.port()), Some(7090));
    assert_eq!(
        config.database_url.expose(),
        "postgres://u%40x:p%3A%2F%3F@db.example:5432/gateways?sslmode=verify%2Dfull"
    );
    assert_eq!(config.basic.map(|users| users.len()), Some(1));
    assert_eq!(config.defaults.main_host, "*.example.com");
    assert_eq!(config.defaults.main_domains, ["api.example.com", "*.api.example.com"]);
    assert_eq!(config.admin_password.map(|password| password.matches("mine")), Some(true));
    assert!(config.immutable.is_none() && config.jwt.is_some());
    let keys = config.encryption.iter().map(|key| (key.version.as_str(), key.path.to_str()));
    let wanted = [("new", Some("/keys/new.bin")), ("old", Some("/keys/old.bin"))];
    assert_eq!(keys.collect::<Vec<_>>(), wanted);
}

#[test]
fn an_immutable_gateway_has_a_directory_and_a_database_of_its_own() {
    let file = "[immutable_gateway]\nenabled = true\n";
    let (config, problems) = read(&[], file);
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(config.immutable.as_deref(), Some(Path::new(super::ARTIFACTS_DIR)));
    let (_, problems) = read(&[("FERROGATE_CONTROLLER_DATABASE_URL", "postgres://x/y")], file);
    assert_eq!(problems.len(), 1, "{problems:?}");
}

#[test]
fn the_generic_database_keys_win_over_those_of_the_kind() {
    let file = r#"
        [controller.storage]
        type = "postgres"
        [controller.storage.postgres]
        host = "old.example"
        user = "kept"
        [controller.storage.database]
        host = "db.example"
        port = 6432
        name = "g"
        path = "unused.db"
        [controller.storage.database.options]
        sslmode = "disable"
        application_name = "x"
    "#;
    let (config, problems) = read(&[], file);
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(config.database_url.expose(), "postgres://kept@db.example:6432/g?sslmode=disable");
    let (config, _) = read(&[], "[controller.storage.database]\npath = \"/x/y.db\"");
    assert_eq!(config.database_url.expose(), "sqlite:///x/y.db");
    let (_, problems) = read(&[("FERROGATE_CONTROLLER_DATABASE_URL", "mysql://x")], "");
    assert_eq!(problems.len(), 1, "{problems:?}");
}

#[test]
fn the_stream_s_older_key_and_a_disabled_listener_s_port_are_read() {
    let file = "[controller.server]\nxds_port = 7000\n[controller.metrics]\nenabled = false\nport = 9091";
    let (config, problems) = read(&[], file);
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(config.stream.map(|address| address.to_string()).as_deref(), Some("127.0.0.1:7000"));
    assert_eq!(config.metrics, None);
}

#[test]
fn an_administrator_can_be_given_by_name_and_hash() {
    let env = [
        ("FERROGATE_CONTROLLER_AUTH_BASIC_ADMIN_USERNAME", "root"),
        ("FERROGATE_CONTROLLER_AUTH_BASIC_ADMIN_PASSWORD_HASH", "$2y$hash"),
    ];
    let names = |file| {
        let users = read(&env, file).0.basic.unwrap_or_default();
        users.into_iter().map(|user| (user.name, user.roles)).collect::<Vec<_>>()
    };
    assert_eq!(names(""), [("root".to_owned(), vec!["admin".to_owned()])]);
    let file = "[[controller.auth.basic.users]]\nusername = \"ops\"\npassword = \"x\"";
    assert_eq!(names(file), [("ops".to_owned(), Vec::new())]);
}

#[test]
fn every_problem_is_told_at_its_key() {
    let file = r#"
        [controller.storage]
        type = "postgres"
        [controller.stream.tls]
        cert_file = "a.pem"
        [controller.encryption]
        key_file = "k"
        providers = [{type = "vault"}]
        [[controller.auth.basic.users]]
        username = ""
        password = "x"
        [controller.auth.idp]
        enabled = true
        [controller.auth.idp.role_mapping]
        admin = ["*"]
        developer = ["*"]
        [router.vhosts.sandbox]
        domains = ["http://x"]
        [controller.sever]
        api_port = 1
    "#;
    let (_, problems) = read(&[], file);
    let keys: Vec<&str> = problems.iter().filter_map(|problem| problem.key.as_deref()).collect();
    for key in [
        "controller.storage.postgres.host",
        "controller.stream.tls.cert_file",
        "controller.auth.basic.users",
        "controller.encryption.key_file",
        "controller.encryption.providers",
        "controller.auth.idp.jwks_url",
        "controller.auth.idp.issuer",
        "controller.auth.idp.role_mapping",
        "router.vhosts.sandbox.domains",
    ] {
        assert!(keys.contains(&key), "{key} is missing in {problems:?}");
    }
    assert!(keys.iter().any(|key| key.starts_with("controller.sever")), "{problems:?}");
}

#[test]
fn templates_do_not_see_the_gateway_s_own_settings() {
    assert_eq!(Environment.env("FERROGATE_ADMIN_PASSWORD"), None);
    assert_eq!(Environment.env("APIP_GW_CONTROLLER_STORAGE_POSTGRES_PASSWORD"), None);
    assert!(Environment.env("PATH").is_some());
}
