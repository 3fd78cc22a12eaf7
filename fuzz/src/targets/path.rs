// SPDX-License-Identifier: Apache-2.0
//! A request's path, normalised and looked up. Input is text: the first line is host,
//! method and path of a request, every other line the host and path of a route, with `=`
//! in front for an exact one. Normalising twice changes nothing; what is found matches,
//! nothing better was there, and nothing that matches is missed.

use std::cmp::Ordering;
use std::sync::Arc;

use ferrogate_model::kinds::rest_api::Method;
use ferrogate_model::route::{PathPattern, Route, precedence};
use ferrogate_model::{Handle, Kind, ResourceName};
use ferrogate_runtime::router::{
    Entry, EscapedSlashes, Normalised, Rewrite, Table, normalise, normalise_with,
};

use crate::Target;

/// The target.
pub const TARGET: Target = Target {
    name: "path",
    run,
    rounds: 16000,
    words: &[
        "/",
        "//",
        "/.",
        "/..",
        "/../",
        "%2e",
        "%2E%2e",
        "%2f",
        "%5c",
        "\\",
        "%",
        "%%32%65",
        "%25",
        "%00",
        "?",
        "{x}",
        "{a}.{b}",
        "/*",
        "*",
        "\n* /",
        "\n*.example.com ",
        "\na.* ",
        "\n* =",
        ":80",
        "EXAMPLE.com.",
        "[::1]",
        "é",
    ],
};

/// More routes than these make nothing new.
const MAX_ROUTES: usize = 24;

fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.lines();
    let mut request = lines.next().unwrap_or_default().splitn(3, ' ');
    let (host, method, path) = (
        request.next().unwrap_or_default(),
        request.next().unwrap_or_default(),
        request.next().unwrap_or_default(),
    );
    let normal = normalised(path);
    let routes: Vec<Route> =
        lines.take(MAX_ROUTES).enumerate().filter_map(|(index, line)| route(line, index)).collect();
    look_up(host, method, &normal, &routes);
    for route in &routes {
        let upstream = Rewrite::new("/context", &route.full_path).upstream_path(&normal, "/base");
        assert!(upstream.starts_with("/base"), "{upstream:?} leaves the base path");
    }
}

fn normalised(path: &str) -> String {
    let normal = normalise(path).into_owned();
    assert_eq!(normalise(&normal), normal, "normalising {path:?} twice");
    if path.starts_with('/') {
        assert!(normal.starts_with('/') && !normal.contains("//"), "{path:?} gave {normal:?}");
        let dots = normal.split('/').any(|segment| matches!(segment, "." | ".."));
        assert!(!dots && !normal.contains('\\'), "{path:?} gave {normal:?}");
    }
    for action in
        [EscapedSlashes::Reject, EscapedSlashes::UnescapeAndRedirect, EscapedSlashes::UnescapeAndForward]
    {
        match normalise_with(path, action, false) {
            Normalised::Path(once) => {
                let again = normalise_with(&once, action, false);
                assert_eq!(
                    again,
                    Normalised::Path(once.clone()),
                    "normalising {path:?} twice under {action:?}"
                );
            }
            // A redirect leads to a path that is not redirected again.
            Normalised::Redirect(to) => {
                assert_eq!(
                    normalise_with(&to, action, false),
                    Normalised::Path(to.clone().into()),
                    "from {path:?}"
                );
            }
            Normalised::Rejected => assert_eq!(action, EscapedSlashes::Reject),
        }
    }
    normal
}

fn route(line: &str, index: usize) -> Option<Route> {
    let (host, path) = line.split_once(' ')?;
    let (path, exact) = path.strip_prefix('=').map_or((path, false), |path| (path, true));
    path.starts_with('/').then(|| Route {
        host: host.to_ascii_lowercase(),
        method: Method::Get,
        full_path: path.into(),
        path: PathPattern::new("/", path, exact),
        headers: Vec::new(),
        operation: index,
        sandbox: false,
    })
}

fn look_up(host: &str, method: &str, path: &str, routes: &[Route]) {
    let mut table = Table::default();
    let name = ResourceName::new(Kind::RestApi, Handle::try_new("x").expect("a handle"));
    let mut entries = Vec::new();
    for route in routes {
        let entry = Entry::try_new(route, route.host.as_str().into(), name.clone(), Arc::new(route.clone()));
        let entry = Arc::new(entry.expect("a route without conditions"));
        table.insert(Arc::clone(&entry));
        entries.push(entry);
    }
    let found = table.find(host, method, path, &|_| None);
    if let Some(found) = found {
        assert!(found.path.matches(path) && method == "GET", "{path:?} found {}", found.full_path);
        let rivals = routes.iter().filter(|route| route.host == found.host && route.path.matches(path));
        for rival in rivals {
            let order = precedence(rival, found);
            assert_ne!(
                order,
                Ordering::Less,
                "{path:?}: {} comes before {}",
                rival.full_path,
                found.full_path
            );
        }
    } else if method == "GET" && routes.iter().all(|route| route.host == "*") {
        assert!(!routes.iter().any(|route| route.path.matches(path)), "{path:?} missed a route");
    }
    assert!(entries.iter().all(|entry| table.remove(entry)), "an entry that was added cannot be removed");
    assert!(table.is_empty() && table.find(host, method, path, &|_| None).is_none());
}
