// SPDX-License-Identifier: Apache-2.0
//! Sealing anew: after a change of keys every stored payload, history included, comes under
//! the key that seals now, so that the older ones can be given up. It goes along the change
//! line in small transactions, each of which replaces texts that are still what they were
//! read as; it may be ended at any point and begun again, and controllers serve and write
//! meanwhile. `ferrogate reseal` calls [`run`].

use std::collections::BTreeMap;

use ferrogate_model::{GatewayId, ResourceName, Revision};
use ferrogate_store::{OpenError, Rewrite, Store, StoreError};

use super::files::{self, KeyFileError};
use super::store::{check_keys, crypto, place};
use super::{KeyRing, SealError, open};
use crate::config::Config;
use crate::run::open_store;
use crate::status::live::is_expired;

/// How many changes are looked at in one step: with the largest documents some hundred
/// megabytes, and a writer waits for no more than rewriting them.
const STEP: usize = 64;

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Everything up to here is done.
    pub reached: Revision,
    /// Where the line ended when it began.
    pub head: Revision,
    /// Payloads sealed anew.
    pub resealed: u64,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The version of the key that everything is sealed under.
    pub version: String,
    /// Payloads sealed anew.
    pub resealed: u64,
    /// What could not be opened, by the version of the key that sealed it.
    pub shut: BTreeMap<String, Shut>,
    /// Versions that are configured and that nothing needs any more.
    pub idle: Vec<String>,
}

/// Payloads that no configured key opens. They stay as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shut {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub first: (ResourceName, Revision),
}

/// Why not everything is sealed anew. What was done stays done.
#[derive(Debug, thiserror::Error)]
pub enum ResealError {
    /// The keys cannot be read.
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    /// There are none.
    #[error("no key is configured: name the new key and the old ones in controller.encryption.providers")]
    NoKeys,
    /// The database URL cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The database does not answer, or is another gateway's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nothing was ever stored there. Whoever meant another gateway must not be told that nothing
    /// needs an old key.
    #[error("the gateway '{0}' has nothing stored in this database: check the database and the gateway's id")]
    Nothing(GatewayId),
    /// A controller would not read what is sealed anew, or goes on sealing under another key.
    #[error(
        "{}: each controller must have '{version}' as its first key before anything is sealed anew under it; \
         restart these, and run this again",
        .controllers.join("; ")
    )]
    Controllers {
        /// The key that seals.
        version: String,
        /// Which, and what they seal under.
        controllers: Vec<String>,
    },
}

/// Seals everything anew that the configured gateway has stored.
///
/// # Errors
/// When a key, a controller or the database is not as it must be.
pub async fn run(config: &Config, tell: impl FnMut(Progress)) -> Result<Report, ResealError> {
    let ring = files::load(&config.encryption, &config.data_dir, false)?.ok_or(ResealError::NoKeys)?;
    let store = open_store(config)?;
    reseal(store.as_ref(), &ring, &GatewayId::from(config.gateway_id.as_str()), tell).await
}

/// As [`run`], of a store that is open.
///
/// # Errors
/// When a controller or the database is not as it must be.
pub async fn reseal(
    store: &dyn Store,
    ring: &KeyRing,
    gateway: &GatewayId,
    mut tell: impl FnMut(Progress),
) -> Result<Report, ResealError> {
    let head = store.head().await?.position.revision;
    if head == Revision::ZERO {
        return Err(ResealError::Nothing(gateway.clone()));
    }
    check_controllers(store, ring).await?;
    check_keys(store, Some(ring), gateway).await?;
    let mut report = Report { version: ring.version().to_owned(), ..Report::default() };
    let mut reached = Revision::ZERO;
    // To the end of the line, wherever that is by then: what is written meanwhile is current.
    loop {
        let payloads = store.payloads(reached, STEP, &ring.prefix()).await?;
        let (last, whole) = (payloads.last().map(|one| one.revision), payloads.len() >= STEP);
        let mut rewrites = Vec::new();
        for payload in payloads {
            let Some(from) = payload.text else { continue };
            let place = place(gateway, &payload.name.to_string());
            match open(Some(ring), &place, from.clone()) {
                Ok(plain) => {
                    let to = ring.seal(&place, &plain).map_err(crypto)?;
                    rewrites.push(Rewrite { revision: payload.revision, name: payload.name, from, to });
                }
                Err(SealError::Shut(version)) => {
                    let first = (payload.name, payload.revision);
                    report.shut.entry(version).or_insert(Shut { count: 0, first }).count += 1;
                }
                Err(error @ SealError::Crypto) => return Err(crypto(error).into()),
            }
        }
        if !rewrites.is_empty() {
            report.resealed += store.rewrite(&rewrites).await?;
        }
        reached = last.unwrap_or(reached);
        tell(Progress { reached, head, resealed: report.resealed });
        if !whole {
            break;
        }
    }
    // One that began meanwhile with older settings has sealed under another key what this
    // passed by.
    check_controllers(store, ring).await?;
    let idle = |version: &String| *version != report.version && !report.shut.contains_key(version);
    report.idle = ring.versions().into_iter().filter(idle).collect();
    Ok(report)
}

/// Whether every controller that is alive seals under the first key of this ring.
async fn check_controllers(store: &dyn Store, ring: &KeyRing) -> Result<(), ResealError> {
    let cluster = store.cluster().await?;
    let others = cluster.controllers.iter().filter(|one| {
        !is_expired(one.renewed_at, cluster.now)
            && one.sealing.first().map(String::as_str) != Some(ring.version())
    });
    let controllers: Vec<String> = others
        .map(|one| match one.sealing.first() {
            Some(version) => format!("controller {} seals under '{version}'", one.id),
            None => format!("controller {} has no key, or does not tell which", one.id),
        })
        .collect();
    if controllers.is_empty() {
        return Ok(());
    }
    Err(ResealError::Controllers { version: ring.version().to_owned(), controllers })
}
