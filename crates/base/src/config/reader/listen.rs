// SPDX-License-Identifier: Apache-2.0
//! Addresses to listen on, which have two forms: one setting that says all of it, and the
//! older pair of a port and a switch. A part of [`Reader`]; it binds nothing.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{Reader, quoted};

/// Older keys that a listen address may be given by instead of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct ListenKeys<'a> {
    /// A port on the default address.
    pub port: Option<&'a str>,
    /// Whether to listen at all.
    pub enabled: Option<&'a str>,
}

impl Reader<'_> {
    /// An address to listen on, `IP:PORT` with port 0 for any free one; `None` for `off`.
    /// The key's own value wins over the older keys.
    pub fn listen(&mut self, key: &str, default: &str, older: ListenKeys<'_>) -> Option<SocketAddr> {
        // A preset replaces the default only: the older keys win over it.
        let default = self.sources.preset_of(key).unwrap_or(default);
        let default = parse_listen(default).ok().flatten();
        let mut fallback = default;
        let listens = older.enabled.map(|enabled| self.bool(enabled, default.is_some()));
        // The port is read even where nothing listens: it stays a known key, and a wrong one is told.
        let standard = default.map_or(0, |address| u64::from(address.port()));
        let number = older.port.map(|port| self.integer(port, standard, 0..=u64::from(u16::MAX)));
        let derived = [older.port, older.enabled].into_iter().flatten();
        let derived = derived.filter_map(|key| self.sources.find_set(key)).map(|(_, origin)| origin).next();
        if listens == Some(false) {
            fallback = None;
        } else if let Some(number) = number
            && (default.is_some() || derived.is_some())
        {
            let address = default.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip());
            fallback = Some(SocketAddr::new(address, u16::try_from(number).unwrap_or_default()));
        }
        let show =
            |value: &Option<SocketAddr>| value.map_or_else(|| quoted("off"), |at| quoted(&at.to_string()));
        let found = self.sources.find_set(key);
        let own = found.is_some();
        let address = self.interpret(key, found, fallback, parse_listen, show);
        if let (false, Some(origin)) = (own, derived) {
            self.effective.record(key, show(&address), origin);
        }
        address
    }
}

fn parse_listen(text: &str) -> Result<Option<SocketAddr>, String> {
    if text.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    let wrong = || format!("{} is not an address to listen on: write IP:PORT, or off", quoted(text));
    if let Ok(address) = text.parse() {
        return Ok(Some(address));
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().map_err(|_| wrong())?;
    let address = match host {
        "" | "*" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        _ => return Err(wrong()),
    };
    Ok(Some(SocketAddr::new(address, port)))
}
