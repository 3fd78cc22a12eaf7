// SPDX-License-Identifier: Apache-2.0
//! An execution condition: compiled, and evaluated in every phase of a request. It is
//! refused or evaluated; a condition that fails fails the request, and never lets the
//! policy be skipped by a panic.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use ferrogate_policy::harness::{Probe, Request, Response, Route, spec};
use ferrogate_policy::{Definition, Registry, Services};
use serde_json::json;

use crate::Target;

/// The target.
pub const TARGET: Target = Target {
    name: "condition",
    run,
    rounds: 6000,
    words: &[
        "request.Headers",
        "request.Path",
        "request.Body.Content",
        "response.ResponseStatus",
        "processing.phase",
        "request.Metadata",
        ".size()",
        ".matches('(a*)*$')",
        ".contains('x')",
        ".startsWith('/')",
        ".all(v, v != '')",
        ".exists(v, v == 'b')",
        ".map(v, v + v)",
        ".filter(v, true)",
        " && ",
        " || ",
        " ? true : ",
        " in ",
        "has(",
        "[0]",
        "['accept']",
        "!",
        "-9223372036854775808",
        " / 0",
        " % 0",
        "18446744073709551615u",
        "b'\\xff'",
        "'\\u0000'",
        "timestamp('2024-01-01T00:00:00Z')",
        "duration('1h')",
        "int(",
        "string(",
        "double(",
        "type(",
        "{'a': 1}",
        "[1, 2, 3]",
        "null",
        "((((((((",
        "))))))))",
        "1e308 * 10.0",
        "optional.of(1)",
        "max(1, 2)",
        " * ",
    ],
};

fn run(data: &[u8]) {
    static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
        let probe: Arc<dyn Definition> = Arc::new(Probe::named("probe", "v1.0.0"));
        Registry::new(vec![probe]).expect("the probe is well formed")
    });
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut probe = spec("probe", json!({}));
    probe.execution_condition = Some(text.to_owned());
    let Ok(route) = Route::with_policies(&REGISTRY, &[probe], &[], &Services::in_memory()) else { return };
    let request = Request::new("POST", "/books?x=aaaaaaaaaaaaaaaaaaaaaaaaaaaa!")
        .with("accept", "a")
        .with("accept", "b")
        .with("x-bytes", [0xff, 0xfe]);
    let response = Response::new(404).with("server", "s");
    let outcome =
        route.run(request, Bytes::from_static(b"body \xff"), response, Bytes::from_static(b"answer"));
    // The probe itself neither answers nor fails: only the condition can.
    assert_eq!(outcome.answer, None);
}
