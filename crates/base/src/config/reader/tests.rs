// SPDX-License-Identifier: Apache-2.0
//! The reader over all its layers.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::{ListenKeys, Reader};
use crate::config::{Effective, Origin, Sources};

fn sources(env: &[(&str, &str)], files: &[&str]) -> Sources {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let mut sources = Sources::new(env);
    for (index, text) in files.iter().enumerate() {
        sources.read_text(Path::new(&format!("{index}.toml")), text);
    }
    sources
}

/// Reads with `read`, which must meet no problem.
fn clean<T>(sources: &Sources, read: impl FnOnce(&mut Reader<'_>) -> T) -> (T, Effective) {
    let mut reader = Reader::new(sources);
    let value = read(&mut reader);
    (value, reader.finish(&["a"], &["b"]).into_result().unwrap())
}

/// Reads with `read`, which must meet exactly these problems.
fn problems(sources: &Sources, read: impl FnOnce(&mut Reader<'_>), expected: &[&str]) {
    let mut reader = Reader::new(sources);
    read(&mut reader);
    let found = reader.finish(&["a"], &["b"]).problems;
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_flag_wins_over_environment_over_file_over_default() {
    let read = |sources: &Sources| {
        let (value, effective) = clean(sources, |reader| reader.integer("a.n", 1, 0..=9));
        (value, effective.get("a.n").unwrap().origin.clone())
    };
    assert_eq!(read(&sources(&[], &[])), (1, Origin::Default));
    let files = ["[a]\nn = 2", "[a]\nn = 3"];
    assert_eq!(read(&sources(&[], &files)), (3, Origin::File("1.toml".into())));
    let mut layered = sources(&[("FERROGATE_A_N", "4")], &files);
    assert_eq!(read(&layered), (4, Origin::Env("FERROGATE_A_N".to_owned())));
    layered.flag("a.n", "--n", "5");
    assert_eq!(read(&layered), (5, Origin::Flag("--n".to_owned())));
}

#[test]
fn files_merge_deeply_and_replace_arrays() {
    let sources = sources(&[], &["[a.x]\np = 1\nq = [1, 2]", "[a.x]\nq = [3]\n[a.y]\nr = true"]);
    let (values, _) = clean(&sources, |reader| {
        (reader.integer("a.x.p", 0, 0..=9), reader.strings("a.x.q", &[]), reader.bool("a.y.r", false))
    });
    assert_eq!(values, (1, vec!["3".to_owned()], true));
}

#[test]
fn tokens_become_the_wanted_type() {
    let text = r#"
        [a]
        port = {{ env "PORT" }}
        on = '{{ env "ON" "true" }}'
        wait = '{{ env "WAIT" "1m" }}'
        [[a.users]]
        name = '{{ env "WHO" "ann" }}'
        hashed = '{{ env "HASHED" "true" }}'
        [b]
        unused = '{{ env "NEVER_SET" }}'
    "#;
    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct User {
        name: String,
        hashed: bool,
    }
    let sources = sources(&[("PORT", "81")], &[text]);
    let (values, _) = clean(&sources, |reader| {
        let numbers = (reader.integer("a.port", 80, 1..=99), reader.bool("a.on", false));
        let wait = reader.duration("a.wait", Duration::ZERO, Duration::ZERO..=Duration::MAX);
        (numbers, wait, reader.tables::<User>("a.users"))
    });
    let ann = User { name: "ann".to_owned(), hashed: true };
    assert_eq!(values, ((81, true), Duration::from_secs(60), vec![ann]));
}

#[test]
fn every_problem_is_reported_at_once_with_key_and_origin() {
    let text = "[a]\nn = 12\nflag = 'yes'\nwait = '5'\nat = 'example.com:1'\ntoken = \"{{ env \"NO\" }}\"\nnn = 1\n[c]";
    let read = |reader: &mut Reader<'_>| {
        reader.integer("a.n", 1, 0..=9);
        reader.bool("a.flag", true);
        reader.duration("a.wait", Duration::ZERO, Duration::ZERO..=Duration::MAX);
        reader.listen("a.at", "127.0.0.1:1", ListenKeys::default());
        let _absent = reader.secret("a.token");
        reader.problem("a.n", "too odd");
    };
    problems(
        &sources(&[], &[text]),
        read,
        &[
            "a.n: 12 is out of range: 0 to 9 (file 0.toml)",
            "a.flag: \"yes\" is neither true nor false (file 0.toml)",
            "a.wait: \"5\": a unit is missing: one of ns, us, ms, s, m, h (file 0.toml)",
            "a.at: \"example.com:1\" is not an address to listen on: write IP:PORT, or off (file 0.toml)",
            "a.token: environment variable NO is not set and the token has no default (file 0.toml)",
            "a.n: too odd (file 0.toml)",
            "a.nn: unknown key: did you mean a.n? (file 0.toml)",
            "c: unknown key (file 0.toml)",
        ],
    );
}

#[test]
fn unreadable_files_and_bad_syntax_are_one_line() {
    let mut bad = sources(&[], &["[a]\nn = = 1"]);
    bad.read_file(Path::new("/no/such.toml"));
    let found = Reader::new(&bad).finish(&[], &[]).problems;
    assert_eq!(found.len(), 2);
    assert!(found[0].message.starts_with("0.toml:2: "), "{}", found[0]);
    assert!(found[1].message.starts_with("cannot read /no/such.toml: "), "{}", found[1]);
    assert!(found.iter().all(|problem| !problem.message.contains('\n')));
}

#[test]
fn accepted_and_foreign_keys_are_not_unknown() {
    let sources = sources(&[], &["[a.lua]\nscript = 'x'\n[a.free]\nany = {z = 1}\n[b]\nwhat = 1"]);
    let (free, _) = clean(&sources, |reader| {
        reader.accept("a.lua");
        reader.subtree("a.free")
    });
    assert_eq!(free["any"]["z"], 1);
}

#[test]
fn secrets_are_never_shown() {
    let sources = sources(&[("FERROGATE_A_TOKEN", "hush")], &[]);
    let (secret, effective) = clean(&sources, |reader| reader.secret("a.token"));
    assert!(secret.unwrap().matches("hush"));
    assert_eq!(effective.to_string(), "a.token = <redacted>  # environment FERROGATE_A_TOKEN\n");
}

#[test]
fn listen_addresses_come_from_their_key_or_the_older_ones() {
    let older = ListenKeys { port: Some("a.port"), enabled: Some("a.enabled") };
    let cases: &[(&str, &str, Option<&str>)] = &[
        ("", "0.0.0.0:8080", Some("0.0.0.0:8080")),
        ("[a]\nport = 81", "0.0.0.0:8080", Some("0.0.0.0:81")),
        ("[a]\nport = 81\nat = ':82'", "0.0.0.0:8080", Some("0.0.0.0:82")),
        ("[a]\nenabled = false", "0.0.0.0:8080", None),
        ("[a]\nenabled = false\nat = 'localhost:0'", "0.0.0.0:8080", Some("127.0.0.1:0")),
        ("[a]\nat = 'off'", "0.0.0.0:8080", None),
        ("", "off", None),
        ("[a]\nenabled = true\nport = 9091", "off", Some("0.0.0.0:9091")),
        ("[a]\nat = '[::1]:5'", "off", Some("[::1]:5")),
    ];
    for (text, default, expected) in cases {
        let sources = sources(&[], &[text]);
        let (address, _) = clean(&sources, |reader| reader.listen("a.at", default, older));
        assert_eq!(address.map(|at| at.to_string()).as_deref(), *expected, "{text}");
    }
}

#[test]
fn a_preset_listen_address_yields_to_the_older_keys() {
    let older = ListenKeys { port: Some("a.port"), enabled: None };
    for (text, expected) in
        [("", "127.0.0.1:8080"), ("[a]\nport = 81", "127.0.0.1:81"), ("[a]\nat = ':82'", "0.0.0.0:82")]
    {
        let mut sources = sources(&[], &[text]);
        sources.preset("a.at", "127.0.0.1:8080");
        let (address, _) = clean(&sources, |reader| reader.listen("a.at", "0.0.0.0:8080", older));
        assert_eq!(address.unwrap().to_string(), expected, "{text}");
    }
}

#[test]
fn durations_know_the_unit_of_their_key() {
    let sources = sources(&[], &["[a]\nx_ms = 1500\ny_seconds = 2\nz = '1h30m'"]);
    let all = || Duration::ZERO..=Duration::from_secs(86_400);
    let (values, effective) = clean(&sources, |reader| {
        ["a.x_ms", "a.y_seconds", "a.z"].map(|key| reader.duration(key, Duration::ZERO, all()).as_millis())
    });
    assert_eq!(values, [1500, 2000, 5_400_000]);
    assert_eq!(effective.get("a.z").unwrap().value, "\"1h30m\"");
}

#[test]
fn presets_and_aliases_take_their_places() {
    let mut sources = sources(&[("OLD_NAME", "x"), ("FERROGATE_A_LIST", "p, q")], &[]);
    sources.preset("a.dir", "preset");
    sources.env_alias("a.name", "OLD_NAME");
    let (values, _) = clean(&sources, |reader| {
        (reader.string("a.dir", "default"), reader.string("a.name", ""), reader.strings("a.list", &[]))
    });
    let expected = ("preset".to_owned(), "x".to_owned(), vec!["p".to_owned(), "q".to_owned()]);
    assert_eq!(values, expected);
    assert_eq!(
        BTreeMap::from([(Sources::env_name("a.b_c"), 1)]).first_key_value().unwrap().0,
        "FERROGATE_A_B_C"
    );
}

#[test]
fn choices_name_the_alternatives() {
    let choices = [("text", 1), ("json", 2)];
    let (value, _) = clean(&sources(&[], &["[a]\nf = 'JSON'"]), |reader| reader.choice("a.f", 1, &choices));
    assert_eq!(value, 2);
    let bad = sources(&[], &["[a]\nf = 'xml'"]);
    let read = |reader: &mut Reader<'_>| {
        reader.choice("a.f", 1, &choices);
    };
    problems(&bad, read, &["a.f: \"xml\" is not one of text, json (file 0.toml)"]);
}

#[test]
fn what_has_no_effect_is_told_apart_from_what_is_unknown() {
    let sources = sources(&[], &["[a]\nold.x = 1\nread = 3\n[b]\ny = 2"]);
    let mut reader = Reader::new(&sources);
    for key in ["a.old", "a.older", "a.read", "b"] {
        reader.accept(key);
    }
    // By another role in the same process.
    reader.string("a.read", "");
    let finished = reader.finish(&["a"], &["b"]);
    assert_eq!(finished.problems, []);
    assert_eq!(finished.without_effect, ["a.old", "b"]);
}

#[test]
fn the_port_of_what_does_not_listen_is_known_and_checked() {
    let read = |reader: &mut Reader<'_>| {
        let older = ListenKeys { port: Some("a.port"), enabled: Some("a.enabled") };
        assert_eq!(reader.listen("a.listen", "0.0.0.0:1", older), None);
    };
    problems(&sources(&[], &["[a]\nenabled = false\nport = 7"]), read, &[]);
    problems(
        &sources(&[], &["[a]\nenabled = false\nport = 70000"]),
        read,
        &["a.port: 70000 is out of range: 0 to 65535 (file 0.toml)"],
    );
}

#[test]
fn an_address_made_of_older_keys_says_which_layer_they_came_from() {
    let older = ListenKeys { port: Some("a.port"), enabled: Some("a.enabled") };
    let from = |sources: &Sources| {
        let (_, effective) = clean(sources, |reader| reader.listen("a.listen", "0.0.0.0:1", older));
        effective.get("a.listen").unwrap().clone()
    };
    let setting = from(&sources(&[], &["[a]\nport = 7"]));
    assert_eq!(setting.value, "\"0.0.0.0:7\"");
    assert_eq!(setting.origin, Origin::File("0.toml".into()));
    assert_eq!(from(&sources(&[], &[])).origin, Origin::Default);
}

#[test]
fn a_value_where_a_section_belongs_says_so() {
    let read = |reader: &mut Reader<'_>| {
        reader.integer("a.x.p", 1, 0..=9);
    };
    let wanted = |file: &str, told: &str| problems(&sources(&[], &[file]), read, &[told]);
    wanted("[a]\nx = 5", "a.x: a section is wanted, with keys of its own, not a number (file 0.toml)");
    wanted("a = 'y'", "a: a section is wanted, with keys of its own, not a text (file 0.toml)");
}

#[test]
fn every_wrong_table_of_a_list_is_told_and_counted_from_one() {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Row {
        n: u8,
    }
    let read = |reader: &mut Reader<'_>| {
        let rows: Vec<Row> = reader.tables("a.rows");
        assert_eq!(rows.iter().map(|row| row.n).collect::<Vec<_>>(), [2]);
    };
    problems(
        &sources(&[], &["[a]\nrows = [{m = 1}, {n = 2}, {n = 'x'}]"]),
        read,
        &[
            "a.rows: entry 1: unknown field `m`, expected `n` (file 0.toml)",
            "a.rows: entry 3: invalid type: string \"x\", expected u8 (file 0.toml)",
        ],
    );
}

#[test]
fn a_secret_that_nobody_set_is_shown_as_unset_and_a_name_is_not_empty() {
    let (_, effective) = clean(&sources(&[], &[]), |reader| reader.secret("a.token").is_none());
    assert_eq!(effective.to_string(), "a.token = <unset>  # default\n");
    let read = |reader: &mut Reader<'_>| {
        assert_eq!(reader.name("a.id", "own"), "own");
    };
    let told = "a.id: a name is wanted, not an empty text (file 0.toml)";
    problems(&sources(&[], &["[a]\nid = ' '"]), read, &[told]);
}

#[test]
fn networks_that_are_none_are_told() {
    let read = |reader: &mut Reader<'_>| {
        let networks = reader.networks("a.ips", &["*"]);
        assert!(networks.contains([10, 1, 1, 1].into()) && !networks.contains([11, 1, 1, 1].into()));
    };
    let told = "a.ips: \"x\" is no address, no network such as 10.0.0.0/8, and not * (file 0.toml)";
    problems(&sources(&[], &["[a]\nips = ['10.0.0.0/8', 'x']"]), read, &[told]);
}

#[test]
fn another_section_stands_in_for_a_key_that_nobody_set() {
    let read = |env: &[(&str, &str)], file: &str| {
        let mut sources = sources(env, &[file]);
        sources.stand_in("a.id", "b.id");
        sources.env_alias("b.id", "B_NAME");
        sources.preset("a.id", "preset");
        clean(&sources, |reader| reader.string("a.id", "")).0
    };
    assert_eq!(read(&[], ""), "preset");
    assert_eq!(read(&[], "[b]\nid = 'other'"), "other");
    assert_eq!(read(&[("B_NAME", "env")], "[b]\nid = 'other'"), "env");
    assert_eq!(read(&[("B_NAME", "env")], "[a]\nid = 'own'\n[b]\nid = 'other'"), "own");
}

#[test]
fn what_another_setting_overrules_is_told_if_somebody_made_it() {
    let idle = |env: &[(&str, &str)]| {
        let sources = sources(env, &[]);
        let mut reader = Reader::new(&sources);
        let _unused = reader.secret("a.token");
        reader.overruled("a.token", "there are users");
        reader.finish(&["a"], &["b"]).without_effect
    };
    assert_eq!(idle(&[]), Vec::<String>::new());
    let told = "a.token (environment FERROGATE_A_TOKEN: there are users)";
    assert_eq!(idle(&[("FERROGATE_A_TOKEN", "x")]), [told]);
}
