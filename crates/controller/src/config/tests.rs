// SPDX-License-Identifier: Apache-2.0
//! The defaults, the keys of contract 7.2, and every complaint at its key.

use std::collections::BTreeMap;
use std::path::Path;

use ferrogate_base::config::{Problem, Reader, Sources};
use ferrogate_model::template::Lookup as _;

use super::{Config, Environment, SECTIONS};

/// A hash in bcrypt's form.
const HASH: &str = "$2y$04$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01232";

/// What is told at this key.
fn told(file: &str, key: &str) -> Vec<String> {
    let problems = read(&[], file).1;
    problems.into_iter().filter(|one| one.key.as_deref() == Some(key)).map(|one| one.message).collect()
}

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
        ("FERROGATE_CONTROLLER_AUTH_BASIC_ADMIN_PASSWORD_HASH", HASH),
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
fn every_fault_of_every_user_is_told_with_the_user() {
    let user = |fields: &str| format!("{{{fields}}}");
    let users = [
        user("username = 'ops', password = 'x', roles = ['admin', 'root']"),
        user("username = 'OPS', password = ''"),
        user("username = 'a:b', password = 'hush-hush', password_hashed = true"),
        user("username = 'dev', password = 'x', roles = ['developer', 'consumer']"),
        user("username = 5, password = 'x'"),
    ];
    let file = format!("[controller.auth.basic]\nusers = [{}]", users.join(", "));
    let faults = told(&file, "controller.auth.basic.users");
    for part in [
        "user 'ops': 'root' is no role: one of admin, developer",
        "user 'OPS': an earlier user has this name",
        "user 'OPS': a password is needed",
        "user 'a:b': a username cannot contain a colon",
        "user 'a:b': the password is said to be hashed",
        "entry 5: ",
    ] {
        assert!(faults.iter().any(|fault| fault.starts_with(part)), "{part} is missing in {faults:#?}");
    }
    assert_eq!(faults.len(), 6, "{faults:#?}");
    assert!(!faults.concat().contains("hush-hush"), "{faults:#?}");
    let hashed = format!(
        "[controller.auth.basic]\nusers = [{{username = 'a', password = '{HASH}', password_hashed = true}}]"
    );
    assert_eq!(told(&hashed, "controller.auth.basic.users"), Vec::<String>::new());
    let hash = "[controller.auth.basic]\nadmin_password_hash = 'plain'";
    assert_eq!(told(hash, "controller.auth.basic.admin_password_hash").len(), 1);
}

#[test]
fn a_mapping_to_what_is_no_role_is_told_by_name() {
    let key = "controller.auth.idp.role_mapping";
    let mapping = |lines: &str| told(&format!("[{key}]\n{lines}"), key);
    assert_eq!(mapping("admin = ['ops']\ndeveloper = ['*']\nconsumer = ['all']"), Vec::<String>::new());
    let faults = mapping("admin = ['ops']\nadmins = ['x']\nboss = ['y']");
    let wanted =
        ["admins", "boss"].map(|name| format!("'{name}' is no role: one of admin, developer, consumer"));
    assert_eq!(faults, wanted);
}

#[test]
fn what_would_be_useless_is_refused() {
    for (file, key) in [
        ("[router.vhosts.main]\ndefault = 'a b'", "router.vhosts.main.default"),
        ("[router.vhosts.sandbox]\ndefault = ''", "router.vhosts.sandbox.default"),
        ("[controller.server]\ngateway_id = ''", "controller.server.gateway_id"),
        (
            "[controller.admin_server]\nallowed_ips = ['10.0.0.0/8', 'x']",
            "controller.admin_server.allowed_ips",
        ),
        ("[controller.storage.postgres]\nsslmode = 'foo'", "controller.storage.postgres.sslmode"),
        (
            "[controller.storage.database.options]\nsslmode = 'foo'",
            "controller.storage.database.options.sslmode",
        ),
        ("[controller]\ndatabase_url = 'postgres://h/d?sslmode=foo'", "controller.database_url"),
        (
            "[controller.encryption]\nproviders = [{type = 'aesgcm', keys = [{version = 'a', file = 'x'}, {version = 'a', file = 'y'}]}]",
            "controller.encryption.providers",
        ),
        (
            "[controller.encryption]\nproviders = [{type = 'aesgcm', keys = [{version = 'a b', file = 'x'}]}]",
            "controller.encryption.providers",
        ),
    ] {
        assert_eq!(told(file, key).len(), 1, "{file}: {:?}", read(&[], file).1);
    }
}

#[test]
fn a_password_that_users_overrule_is_told() {
    let idle = |file: &str| {
        let env = BTreeMap::from([("FERROGATE_CONTROLLER_ADMIN_PASSWORD".to_owned(), "x".to_owned())]);
        let mut sources = Sources::new(env);
        sources.read_text(Path::new("test.toml"), file);
        let mut reader = Reader::new(&sources);
        let _config = Config::read(&mut reader);
        reader.finish(&SECTIONS, &[]).without_effect.concat()
    };
    assert_eq!(idle(""), "");
    for file in [
        "[controller.auth.basic]\nusers = [{username = 'a', password = 'x'}]".to_owned(),
        format!("[controller.auth.basic]\nadmin_password_hash = '{HASH}'"),
        "[controller.auth.basic]\nenabled = false".to_owned(),
    ] {
        assert!(
            idle(&file).starts_with("controller.admin_password (environment "),
            "{file}: {}",
            idle(&file)
        );
    }
}

#[test]
fn templates_do_not_see_the_gateway_s_own_settings() {
    assert_eq!(Environment.env("FERROGATE_ADMIN_PASSWORD"), None);
    assert_eq!(Environment.env("APIP_GW_CONTROLLER_STORAGE_POSTGRES_PASSWORD"), None);
    assert!(Environment.env("PATH").is_some());
}
