// SPDX-License-Identifier: Apache-2.0
//! What waiting for runtimes came to, told to people on standard error whatever the answer's
//! own form: who serves it, who does not, and who was not counted because nobody hears of
//! them. The verbs that write call it; it decides their exit code.

use serde_json::Value;

use super::show::{field, items};
use crate::cli::{Exit, Waiting};
use crate::output;

/// Says who serves a change, if the answer tells.
pub fn report(live: Option<&Value>, waiting: &Waiting) -> Exit {
    let Some(live) = live.filter(|live| !live.is_null()) else { return Exit::Done };
    let (exit, said) = verdict(live, &waiting.scope);
    output::note(&said);
    exit
}

fn verdict(live: &Value, scope: &str) -> (Exit, String) {
    let served = live.get("live").and_then(Value::as_bool) == Some(true);
    let counted = live.get("runtimes").and_then(Value::as_u64).unwrap_or_default();
    let (exit, mut said) = match (served, counted) {
        (true, 0) => {
            let place = if scope == "all" { String::new() } else { format!(" in {scope}") };
            let line = format!("stored, but no runtime is connected{place}: nothing serves it yet\n");
            (Exit::NotLive, line)
        }
        (true, 1) => (Exit::Done, "live on 1 runtime\n".to_owned()),
        (true, _) => (Exit::Done, format!("live on {counted} runtimes\n")),
        (false, _) => (Exit::NotLive, "stored, but not live everywhere in time:\n".to_owned()),
    };
    if let Some(unknown) = live.get("unknown").and_then(Value::as_str) {
        said.push_str(&format!("  {unknown}\n"));
    }
    for straggler in items(live, "stragglers") {
        said.push_str(&format!("  {}\n", runtime(straggler, "at")));
    }
    for absent in items(live, "absent") {
        said.push_str(&format!("  not counted: {}\n", runtime(absent, "last at")));
    }
    (exit, said)
}

/// A runtime that does not serve it, and why; `at` introduces the revision it has.
fn runtime(one: &Value, at: &str) -> String {
    let (id, zone, detail) = (field(one, "runtime"), field(one, "zone"), field(one, "detail"));
    let zone = if zone.is_empty() { String::new() } else { format!(" (zone {zone})") };
    let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
    format!("{id}{zone}: {}, {at} revision {}{detail}", field(one, "reason"), field(one, "applied"))
}

#[cfg(test)]
mod tests {
    use super::{Exit, verdict};
    use serde_json::{Value, json};

    fn check(live: Value, scope: &str, exit: Exit, said: &str) {
        assert_eq!(verdict(&live, scope), (exit, said.to_owned()), "{live}");
    }

    #[test]
    fn runtimes_are_counted_in_words() {
        check(json!({"live": true, "runtimes": 2}), "all", Exit::Done, "live on 2 runtimes\n");
        check(json!({"live": true, "runtimes": 1}), "zone:a", Exit::Done, "live on 1 runtime\n");
    }

    #[test]
    fn a_change_that_nobody_serves_is_not_live() {
        let nobody = json!({"live": true, "runtimes": 0, "stragglers": [], "absent": []});
        let told = "stored, but no runtime is connected in zone:typo: nothing serves it yet\n";
        check(nobody.clone(), "zone:typo", Exit::NotLive, told);
        check(nobody, "all", Exit::NotLive, "stored, but no runtime is connected: nothing serves it yet\n");
    }

    #[test]
    fn who_was_not_counted_is_named() {
        let gone = json!({"runtime": "r2", "zone": "", "reason": "disconnected", "applied": 4});
        let told = "live on 1 runtime\n  not counted: r2: disconnected, last at revision 4\n";
        check(json!({"live": true, "runtimes": 1, "absent": [gone]}), "all", Exit::Done, told);
    }

    #[test]
    fn a_straggler_s_line_has_no_empty_parts() {
        let straggler = |zone: &str, detail: Value| {
            let one =
                json!({"runtime": "r", "zone": zone, "reason": "behind", "applied": 3, "detail": detail});
            json!({"live": false, "runtimes": 1, "stragglers": [one]})
        };
        let head = "stored, but not live everywhere in time:\n";
        let bare = straggler("", Value::Null);
        check(bare, "all", Exit::NotLive, &format!("{head}  r: behind, at revision 3\n"));
        let full = straggler("a", json!("no such policy"));
        let told = format!("{head}  r (zone a): behind, at revision 3: no such policy\n");
        check(full, "all", Exit::NotLive, &told);
    }
}
