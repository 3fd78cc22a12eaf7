// SPDX-License-Identifier: Apache-2.0
//! `ferrogate reseal`: everything that a gateway has stored comes under the first of its
//! keys. It reads a controller's configuration and goes to the database itself, since no
//! controller hands out what is sealed; what it does there is `ferrogate_controller::seal`.

use std::time::{Duration, Instant};

use ferrogate_controller::config::{Config, SECTIONS};
use ferrogate_controller::seal::reseal::{self, Progress, Report};

use super::controller;
use super::settings::{self, Loaded, Role};
use crate::cli::{Exit, ResealFlags};
use crate::output;

/// How often it says how far it is.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Runs to the end.
pub fn run(flags: &ResealFlags) -> anyhow::Result<Exit> {
    let mut sources = settings::sources(&flags.common);
    controller::layers(&mut sources, &flags.common, "controller");
    controller::store_flags(&mut sources, &flags.store);
    let role = Role { common: &flags.common, sections: &SECTIONS, logging: "controller" };
    match settings::load(&role, sources, Config::read)? {
        Loaded::Checked(exit) => Ok(exit),
        Loaded::Ready(config) => super::executor()?.block_on(seal(&config)),
    }
}

async fn seal(config: &Config) -> anyhow::Result<Exit> {
    let mut told = Instant::now();
    let tell = |Progress { reached, head, resealed }: Progress| {
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            output::note(&format!("at revision {reached} of {head}: {resealed} payloads sealed anew\n"));
        }
    };
    let Report { version, resealed, shut, idle } = reseal::run(config, tell).await?;
    output::line(&format!("{resealed} payloads sealed anew under '{version}'"))?;
    for (version, shut) in &shut {
        let (count, (name, revision)) = (shut.count, &shut.first);
        output::line(&format!(
            "{count} payloads are left sealed under '{version}', which none of the keys opens: the first is \
             {name} at revision {revision}"
        ))?;
    }
    if !idle.is_empty() {
        output::line(&format!(
            "nothing stored needs {} any more: it may be taken from the configuration of every controller. \
             Backups of the database from before do need it",
            idle.join(", ")
        ))?;
    }
    Ok(if shut.is_empty() { Exit::Done } else { Exit::Failed })
}
