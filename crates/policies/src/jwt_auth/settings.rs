// SPDX-License-Identifier: Apache-2.0
//! The operator's section, `jwtauth_v1`: read once at start and turned into the authority
//! that every instance shares. The schema says what may stand in it; what a schema cannot
//! say is checked here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use ferrogate_policy::fetch::Source;
use ferrogate_policy::{Fetch, ParamFault};
use serde::Deserialize;
use serde_json::Value;

use super::authority::{Authority, MAX_MANAGERS, Manager, Memory};
use super::cache::Cache;
use super::keys::{self, Keys, Schedule};
use super::token::ScopeClaim;
use crate::duration;

/// The part of the section that instances share. Keys are in lower case by now.
#[derive(Deserialize)]
struct Section {
    #[serde(default)]
    keymanagers: Vec<ManagerSection>,
    jwkscachettl: String,
    jwksfetchtimeout: String,
    jwksfetchretrycount: u32,
    jwksfetchretryinterval: String,
    leeway: String,
    validateissuer: bool,
    tokencaching: bool,
    tokencachettl: String,
    negativecachettl: String,
    cachemaxsize: usize,
}

#[derive(Deserialize)]
struct ManagerSection {
    name: String,
    issuer: Option<String>,
    scopeclaim: Option<String>,
    scopeclaimseparator: Option<String>,
    jwks: Jwks,
}

#[derive(Deserialize)]
struct Jwks {
    remote: Option<Remote>,
    local: Option<Local>,
}

#[derive(Deserialize)]
struct Remote {
    uri: String,
    certificatepath: Option<String>,
    #[serde(default)]
    skiptlsverify: bool,
}

#[derive(Deserialize)]
struct Local {
    inline: Option<String>,
    certificatepath: Option<String>,
}

/// Where a manager's keys are.
enum Place {
    Elsewhere(Source),
    Here(Vec<keys::Key>),
}

/// What the section's schema cannot say.
pub(super) fn check(values: &Value) -> Result<(), ParamFault> {
    let section = Section::read(values)?;
    section.schedule()?;
    for (field, text) in [
        ("leeway", &section.leeway),
        ("tokencachettl", &section.tokencachettl),
        ("negativecachettl", &section.negativecachettl),
    ] {
        time(field, text)?;
    }
    let count = section.keymanagers.len();
    if count > MAX_MANAGERS {
        return Err(fault("keymanagers", format!("at most {MAX_MANAGERS} are allowed")));
    }
    let names: BTreeSet<&str> = section.keymanagers.iter().map(|manager| manager.name.as_str()).collect();
    if names.len() < count {
        return Err(fault("keymanagers", "each needs a name of its own".to_owned()));
    }
    for (index, manager) in section.keymanagers.iter().enumerate() {
        manager.place().map_err(|message| fault(&format!("keymanagers.{index}.jwks"), message))?;
    }
    Ok(())
}

/// The authority of a section that was checked.
pub(super) fn authority(values: &Value, fetch: &Arc<dyn Fetch>) -> Result<Authority, ParamFault> {
    let section = Section::read(values)?;
    let schedule = section.schedule()?;
    let generation = Arc::new(AtomicU64::new(0));
    let mut managers = Vec::with_capacity(section.keymanagers.len());
    for (index, manager) in section.keymanagers.iter().enumerate() {
        let place =
            manager.place().map_err(|message| fault(&format!("keymanagers.{index}.jwks"), message))?;
        let fetch = Arc::clone(fetch);
        managers.push(Manager {
            name: manager.name.clone(),
            issuer: manager.issuer.clone().filter(|issuer| !issuer.is_empty()),
            scope_claim: ScopeClaim {
                name: manager.scopeclaim.clone(),
                separator: manager.scopeclaimseparator.clone().unwrap_or_else(|| " ".to_owned()),
            },
            keys: match place {
                Place::Elsewhere(source) => Keys::remote(source, schedule, fetch, Arc::clone(&generation)),
                Place::Here(keys) => Keys::fixed(keys, schedule, fetch),
            },
        });
    }
    let memory = Memory {
        cache: Cache::new(section.cachemaxsize),
        good_ms: time("tokencachettl", &section.tokencachettl)?,
        bad_ms: time("negativecachettl", &section.negativecachettl)?,
    };
    Ok(Authority {
        managers,
        validate_issuer: section.validateissuer,
        leeway_ms: time("leeway", &section.leeway)?,
        memory: section.tokencaching.then_some(memory),
        generation,
    })
}

impl Section {
    fn read(values: &Value) -> Result<Section, ParamFault> {
        Section::deserialize(values).map_err(|error| fault("", error.to_string()))
    }

    fn schedule(&self) -> Result<Schedule, ParamFault> {
        let span = |field: &str, text: &str| match time(field, text)? {
            0 => Err(fault(field, "must be longer than zero".to_owned())),
            millis => Ok(Duration::from_millis(millis)),
        };
        Ok(Schedule {
            ttl: span("jwkscachettl", &self.jwkscachettl)?,
            timeout: span("jwksfetchtimeout", &self.jwksfetchtimeout)?,
            retries: self.jwksfetchretrycount,
            pause: span("jwksfetchretryinterval", &self.jwksfetchretryinterval)?,
        })
    }
}

impl ManagerSection {
    fn place(&self) -> Result<Place, String> {
        match (&self.jwks.remote, &self.jwks.local) {
            (Some(remote), None) => {
                let parsed: Result<http::Uri, _> = remote.uri.parse();
                let usable = parsed.is_ok_and(|uri| {
                    uri.host().is_some() && matches!(uri.scheme_str(), Some("http" | "https"))
                });
                if !usable {
                    return Err("remote.uri must be an http or https address".to_owned());
                }
                Ok(Place::Elsewhere(Source::Http {
                    uri: remote.uri.clone(),
                    ca_file: remote.certificatepath.clone(),
                    skip_tls_verify: remote.skiptlsverify,
                }))
            }
            (None, Some(Local { inline: Some(inline), certificatepath: None })) => {
                keys::parse(inline.as_bytes())
                    .map(Place::Here)
                    .map_err(|error| format!("local.inline: {error}"))
            }
            (None, Some(Local { inline: None, certificatepath: Some(path) })) => {
                Ok(Place::Elsewhere(Source::File(path.clone())))
            }
            _ => Err("needs one of remote, local.inline and local.certificatePath".to_owned()),
        }
    }
}

fn time(field: &str, text: &str) -> Result<u64, ParamFault> {
    duration::millis(text).ok_or_else(|| fault(field, "must be a duration of at most 8760h".to_owned()))
}

fn fault(field: &str, message: String) -> ParamFault {
    ParamFault { field: field.to_owned(), message }
}
