// SPDX-License-Identifier: Apache-2.0
//! Where the store is: one URL, or put together from the keys of contract 7.2. What a
//! sound URL is, the store says; it may hold a password and stays a secret.

use std::path::Path;

use ferrogate_base::config::Reader;
use ferrogate_base::secret::Secret;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// The values of `sslmode` that PostgreSQL's clients know.
const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

pub(super) fn pool_size(reader: &mut Reader<'_>) -> u32 {
    let size = reader.integer("controller.storage.postgres.max_open_conns", 10, 1..=1_000);
    u32::try_from(size).unwrap_or(10)
}

/// `controller.database_url` wins; otherwise it is put together from the keys of contract 7.2,
/// of which the generic `storage.database` wins over the one of the kind.
pub(super) fn database_url(reader: &mut Reader<'_>, data_dir: &Path) -> Secret {
    const URL: &str = "controller.database_url";
    let configured = reader.secret(URL);
    let postgres = postgres_url(reader);
    let generic = reader.optional_path("controller.storage.database.path");
    let path = reader.optional_path("controller.storage.sqlite.path");
    let kind = reader.choice(
        "controller.storage.type",
        Kind::Sqlite,
        &[("sqlite", Kind::Sqlite), ("postgres", Kind::Postgres)],
    );
    if let Some(url) = configured {
        if let Err(error) = ferrogate_store::check(url.expose()) {
            reader.problem(URL, error.to_string());
        }
        return url;
    }
    match kind {
        Kind::Sqlite => {
            let path = generic.or(path).unwrap_or_else(|| data_dir.join("gateway.db"));
            Secret::new(format!("sqlite://{}", path.display()))
        }
        Kind::Postgres => postgres.unwrap_or_else(|| {
            reader.problem("controller.storage.postgres.host", "is needed for storage.type = \"postgres\"");
            Secret::new("postgres://localhost")
        }),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sqlite,
    Postgres,
}

fn postgres_url(reader: &mut Reader<'_>) -> Option<Secret> {
    let dsn = secret_of(reader, "dsn", "dsn");
    let host = text_of(reader, "host", "host", "");
    let port = port(reader);
    let database = text_of(reader, "name", "database", "gateway");
    let user = text_of(reader, "user", "user", "gateway");
    let password = secret_of(reader, "password", "password");
    let sslmode = text_of(reader, "options.sslmode", "sslmode", "require");
    if !SSL_MODES.contains(&sslmode.as_str()) {
        let told = format!("sslmode \"{sslmode}\" is not one of {}", SSL_MODES.join(", "));
        let generic = "controller.storage.database.options.sslmode";
        let key = if reader.is_set(generic) { generic } else { "controller.storage.postgres.sslmode" };
        reader.problem(key, told);
    }
    if dsn.is_some() {
        return dsn;
    }
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let password = password.map(|one| format!(":{}", encode(one.expose()))).unwrap_or_default();
    let (user, database) = (encode(&user), encode(&database));
    if host.is_empty() {
        return None;
    }
    Some(Secret::new(format!(
        "postgres://{user}{password}@{host}:{port}/{database}?sslmode={}",
        encode(&sslmode)
    )))
}

/// A setting under its generic name, else under the one of PostgreSQL. Both are read: a key
/// that loses is still a known key.
fn text_of(reader: &mut Reader<'_>, generic: &str, specific: &str, default: &str) -> String {
    let generic = reader.optional_string(&format!("controller.storage.database.{generic}"));
    let specific = reader.string(&format!("controller.storage.postgres.{specific}"), default);
    generic.unwrap_or(specific)
}

fn secret_of(reader: &mut Reader<'_>, generic: &str, specific: &str) -> Option<Secret> {
    let generic = reader.secret(&format!("controller.storage.database.{generic}"));
    let specific = reader.secret(&format!("controller.storage.postgres.{specific}"));
    generic.or(specific)
}

fn port(reader: &mut Reader<'_>) -> u64 {
    const GENERIC: &str = "controller.storage.database.port";
    let range = 1..=u64::from(u16::MAX);
    let specific = reader.integer("controller.storage.postgres.port", 5432, range.clone());
    let generic = reader.integer(GENERIC, 5432, range);
    if reader.is_set(GENERIC) { generic } else { specific }
}
