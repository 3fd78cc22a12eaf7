// SPDX-License-Identifier: Apache-2.0
//! A configuration file with its tokens, read by both roles as at a start: every setting
//! gets a value whatever the file says, and what it is not understood for is told.

use std::collections::BTreeMap;
use std::path::Path;

use ferrogate_base::config::{Reader, Sources};
use ferrogate_base::duration::parse_go;

use crate::Target;

/// The target.
pub const TARGET: Target = Target {
    name: "config",
    run,
    rounds: 3000,
    words: &[
        "[controller.server]\n",
        "[runtime]\n",
        "[router]\n",
        "[[controller.auth.basic.users]]\n",
        "[policy_engine.admin]\n",
        "{{ env \"SET\" }}",
        "{{ env \"NONE\" \"5\" }}",
        "{{ file \"/etc/hostname\" }}",
        "{{",
        "}}",
        "\"\"\"",
        "'''",
        " = ",
        "[\"a\", \"b\"]",
        "1979-05-27T07:32:00Z",
        "0x1f",
        "inf",
        "nan",
        "true",
        "\u{e000}",
        "# {{\n",
        "\\\"",
        "a.b.c = 1\n",
        "timeout = ",
        "\"30s\"",
        "-1",
        "controllers = ",
        "listen.http = ",
        "\"127.0.0.1:0\"",
        "\"off\"",
    ],
};

/// What a setting that is a secret must not be shown as.
const PLANTED: &str = "planted5password";

fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let env = [("SET", "17"), ("PASSWORD", PLANTED)].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut sources = Sources::new(BTreeMap::from(env));
    sources.read_text(Path::new("fuzzed.toml"), text);
    for role in [controller, runtime] {
        let finished = role(&sources);
        for problem in &finished.problems {
            assert!(!problem.message.is_empty());
        }
        assert!(!finished.effective.to_string().is_empty());
    }
    if let Some(word) = text.split_whitespace().next() {
        std::hint::black_box(parse_go(word).is_ok());
    }
}

fn controller(sources: &Sources) -> ferrogate_base::config::Finished {
    let mut reader = Reader::new(sources);
    let _config = ferrogate_controller::config::Config::read(&mut reader);
    reader.finish(&ferrogate_controller::config::SECTIONS, &["runtime", "router", "policy_engine"])
}

fn runtime(sources: &Sources) -> ferrogate_base::config::Finished {
    let mut reader = Reader::new(sources);
    let _config = ferrogate_runtime::config::Config::read(&mut reader);
    let sections = ferrogate_runtime::config::Config::SECTIONS;
    reader.finish(&sections, &["controller", "immutable_gateway"])
}
