// SPDX-License-Identifier: Apache-2.0
//! Who may do what: the role table of contract 1.3, extended by the endpoints that
//! exist beyond it. A path that is not in the table is allowed to nobody, so that a new
//! endpoint is closed until someone decides.

use http::Method;

/// May do everything.
pub const ADMIN: &str = "admin";
/// Deploys APIs.
pub const DEVELOPER: &str = "developer";

/// Uses APIs, in the contract; may do nothing here yet.
const CONSUMER: &str = "consumer";
/// The roles a user can have.
pub const ROLES: [&str; 3] = [ADMIN, DEVELOPER, CONSUMER];

/// The roles of which one is needed for this call. `path` is relative to the base path.
#[must_use]
pub fn required(method: &Method, path: &str) -> &'static [&'static str] {
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    let first = segments.next().unwrap_or_default();
    match first {
        "rest-apis" | "apply" => &[ADMIN, DEVELOPER],
        "policies" | "revisions" | "cluster" | "batches" if *method == Method::GET => &[ADMIN, DEVELOPER],
        "certificates" if *method == Method::GET => &[ADMIN, DEVELOPER],
        // Takes every artifact of the gateway back, other people's too.
        "rollback" | "secrets" | "certificates" => &[ADMIN],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::{ADMIN, DEVELOPER, required};

    #[test]
    fn the_table_closes_what_it_does_not_name() {
        let both: &[&str] = &[ADMIN, DEVELOPER];
        for (method, path, roles) in [
            (Method::POST, "/rest-apis", both),
            (Method::DELETE, "/rest-apis/a", both),
            (Method::POST, "/rest-apis/a/rollback", both),
            (Method::POST, "/apply", both),
            (Method::GET, "/cluster", both),
            (Method::POST, "/rollback", &[ADMIN]),
            (Method::POST, "/revisions", &[]),
            (Method::GET, "/secrets", &[ADMIN]),
            (Method::PUT, "/secrets/a", &[ADMIN]),
            (Method::GET, "/certificates", both),
            (Method::POST, "/certificates/reload", &[ADMIN]),
            (Method::GET, "/api-keys", &[]),
            (Method::GET, "/", &[]),
        ] {
            assert_eq!(required(&method, path), roles, "{method} {path}");
        }
    }
}
