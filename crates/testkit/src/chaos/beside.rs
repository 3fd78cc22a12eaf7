// SPDX-License-Identifier: Apache-2.0
//! The fault beside another: a link of another part that breaks while the first fault lasts.
//! It has a band of its own in the history, so that a failed request is explained by whichever
//! of the two broke its connection and by no other. [`super::faults`] carries both out at once
//! and measures from the end of the last.

use std::time::Duration;

use tokio::time::sleep;

use super::clients::Shared;
use super::faults::{affected, victim};
use super::schedule::{Beside, Kind, Place};
use super::world::World;
use crate::link::{Link, Mode, Switch};

/// The fault beside another. It holds switches and nothing of the world, which the first has.
pub struct Second {
    beside: Beside,
    kind: Kind,
    victim: String,
    links: Vec<Switch>,
}

impl Second {
    /// Takes what it needs of the world.
    #[must_use]
    pub fn of(world: &World, beside: Beside) -> Second {
        let links = world.links(beside.place, beside.victim).iter().map(Link::switch).collect();
        let kind = Kind::Link(beside.place, beside.breakage);
        Second { beside, kind, victim: victim(world, kind, beside.victim), links }
    }

    /// Answers when it was over, and its number.
    pub async fn carry_out(&self, shared: &Shared, first: usize) -> (u64, usize) {
        let Beside { place: _, victim: index, breakage, after, length } = self.beside;
        sleep(after).await;
        let band = shared.history.begin_band(self.kind.name(), self.victim.clone());
        shared.history.band(band, |band| {
            band.breaks = affected(self.kind, index);
            band.lingers = lingers(self.kind);
            band.paired = true;
            band.note = format!("while fault {} lasted", first + 1);
        });
        hold(&self.links, breakage.mode(), length).await;
        (end(shared, band), band)
    }
}

/// Has links behave in this way for this long.
pub async fn hold(links: &[Switch], mode: Option<Mode>, length: Duration) {
    let Some(mode) = mode else { return };
    links.iter().for_each(|link| link.set(mode));
    sleep(length).await;
    links.iter().for_each(|link| link.set(Mode::Pass));
}

/// Notes that the fault is over; answers when that is.
pub fn end(shared: &Shared, band: usize) -> u64 {
    let ended = shared.history.now();
    shared.history.band(band, |band| band.ended = ended);
    ended
}

/// Whether connections broken by it may stay silent after its end.
#[must_use]
pub fn lingers(kind: Kind) -> bool {
    matches!(kind, Kind::Freeze(_) | Kind::Link(Place::Balancer, _))
}
