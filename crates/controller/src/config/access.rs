// SPDX-License-Identifier: Apache-2.0
//! Who may use the management API (contract 1.3 and 7.2): users with passwords, and an
//! identity provider's tokens. Checks nobody; `auth` does.

use std::collections::{BTreeMap, BTreeSet};

use ferrogate_base::config::Reader;
use ferrogate_base::secret::Secret;
use serde::Deserialize;

use crate::auth::admin_password::ADMIN_NAME;
use crate::auth::basic::{Password, User, is_hash};
use crate::auth::jwt::JwtSettings;
use crate::auth::roles::{ADMIN, ROLES};

pub(super) const ADMIN_PASSWORD: &str = "controller.admin_password";
const USERS: &str = "controller.auth.basic.users";
const NO_HASH: &str = "the password is said to be hashed and is no argon2id or bcrypt hash";

/// `controller.auth.basic.users[]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfiguredUser {
    username: String,
    password: String,
    #[serde(default)]
    password_hashed: bool,
    #[serde(default)]
    roles: Vec<String>,
}

pub(super) fn basic(reader: &mut Reader<'_>) -> Option<Vec<User>> {
    const HASH: &str = "controller.auth.basic.admin_password_hash";
    const NAME: &str = "controller.auth.basic.admin_username";
    let enabled = reader.bool("controller.auth.basic.enabled", true);
    let configured: Vec<ConfiguredUser> = reader.tables(USERS);
    faults(&configured).into_iter().for_each(|fault| reader.problem(USERS, fault));
    // The variables that the contract's shipped file wires to its first user work without a file too.
    let name = reader.name(NAME, ADMIN_NAME);
    let hash = reader.secret(HASH);
    if !configured.is_empty() {
        reader.overruled(HASH, "users are listed");
    } else if let Some(hash) = hash {
        if !is_hash(hash.expose()) {
            reader.problem(HASH, NO_HASH);
        }
        let roles = vec![ADMIN.to_owned()];
        return enabled.then(|| vec![User { name, password: Password::Hashed(hash), roles }]);
    }
    let user = |user: ConfiguredUser| {
        let password = Secret::new(user.password);
        let password =
            if user.password_hashed { Password::Hashed(password) } else { Password::Plain(password) };
        User { name: user.username, password, roles: user.roles }
    };
    enabled.then(|| configured.into_iter().map(user).collect())
}

/// Says so where the administrator's password is not the one that counts.
pub(super) fn overruled_password(reader: &mut Reader<'_>, basic: Option<&[User]>) {
    match basic {
        Some([]) => {}
        Some(_) => reader.overruled(ADMIN_PASSWORD, "users are configured, and have passwords of their own"),
        None => reader.overruled(ADMIN_PASSWORD, "basic authentication is off"),
    }
}

/// Everything wrong with the users, each by name. A password is never repeated.
fn faults(users: &[ConfiguredUser]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut seen = BTreeSet::new();
    for ConfiguredUser { username, password, password_hashed, roles } in users {
        let mut fault = |fault: &str| faults.push(format!("user '{username}': {fault}"));
        if username.is_empty() {
            fault("a username is needed");
        }
        if username.contains(':') {
            fault("a username cannot contain a colon");
        }
        // Names are compared without regard to case, and the first of two would always be the one.
        if !username.is_empty() && !seen.insert(username.to_lowercase()) {
            fault("an earlier user has this name, but for upper and lower case");
        }
        if password.is_empty() {
            fault("a password is needed");
        } else if *password_hashed && !is_hash(password) {
            fault(NO_HASH);
        }
        for role in roles.iter().filter(|role| !ROLES.contains(&role.as_str())) {
            fault(&no_role(role));
        }
    }
    faults
}

fn no_role(name: &str) -> String {
    format!("'{name}' is no role: one of {}", ROLES.join(", "))
}

pub(super) fn jwt(reader: &mut Reader<'_>) -> Option<JwtSettings> {
    let key = |name: &str| format!("controller.auth.idp.{name}");
    let enabled = reader.bool(&key("enabled"), false);
    let settings = JwtSettings {
        jwks_url: reader.string(&key("jwks_url"), ""),
        issuer: reader.string(&key("issuer"), ""),
        audience: reader.strings(&key("audience"), &[]),
        roles_claim: reader.string(&key("roles_claim"), "roles"),
        role_mapping: role_mapping(reader, &key("role_mapping")),
    };
    if !enabled {
        return None;
    }
    for (name, value) in [
        ("jwks_url", &settings.jwks_url),
        ("issuer", &settings.issuer),
        ("roles_claim", &settings.roles_claim),
    ] {
        if value.is_empty() {
            reader.problem(&key(name), "is needed when auth.idp.enabled is true");
        }
    }
    Some(settings)
}

fn role_mapping(reader: &mut Reader<'_>, key: &str) -> BTreeMap<String, Vec<String>> {
    let subtree = reader.subtree(key);
    let mapping: BTreeMap<String, Vec<String>> = serde_json::from_value(subtree).unwrap_or_else(|_| {
        reader.problem(key, "must map each local role to a list of the provider's values");
        BTreeMap::new()
    });
    for name in mapping.keys().filter(|name| !ROLES.contains(&name.as_str())) {
        reader.problem(key, no_role(name));
    }
    if mapping.values().filter(|values| values.iter().any(|value| value == "*")).count() > 1 {
        reader.problem(key, "only one role can be mapped from \"*\"");
    }
    mapping
}
