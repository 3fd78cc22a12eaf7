// SPDX-License-Identifier: Apache-2.0
//! Where a process listens, told to people and programs. The file in the data directory
//! is written once everything is bound: with port 0 it is the only way to learn the
//! ports, and its appearance says that the process is up.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use anyhow::Context;
use ferrogate_base::listen::BindError;

/// The file in the data directory: a JSON object from listener to address.
pub const LISTENERS_FILE: &str = "listeners.json";

/// Listeners by name, without those that are off.
pub type Listeners = BTreeMap<&'static str, SocketAddr>;

/// Keeps those that listen.
pub fn collect(named: &[(&'static str, Option<SocketAddr>)]) -> Listeners {
    named.iter().filter_map(|(name, address)| Some((*name, (*address)?))).collect()
}

/// Writes the file; a reader sees all of it or none.
pub fn write(data_dir: &Path, listeners: &Listeners) -> anyhow::Result<()> {
    let path = data_dir.join(LISTENERS_FILE);
    let draft = data_dir.join(format!("{LISTENERS_FILE}.new"));
    let text = serde_json::to_vec(listeners)?;
    let written = std::fs::write(&draft, text).and_then(|()| std::fs::rename(&draft, &path));
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// An address to connect to: what listens everywhere is reached on loopback.
pub fn reachable(mut address: SocketAddr) -> SocketAddr {
    let loopback: IpAddr =
        if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    if address.ip().is_unspecified() {
        address.set_ip(loopback);
    }
    address
}

/// One line per listener.
pub fn lines(listeners: &Listeners) -> String {
    listeners.iter().map(|(name, address)| row(name, &address.to_string())).collect()
}

/// One line of what a process says about itself at its start.
pub fn row(name: &str, value: &str) -> String {
    format!("  {name:<16} {value}\n")
}

/// That an address cannot be listened on, with the flag that names another. In `standalone` two of
/// the runtime's flags are told apart from the controller's.
pub fn taken(error: &BindError, standalone: bool) -> anyhow::Error {
    let flag = match error.key.rsplit_once('.') {
        Some(("runtime.listen", name @ ("admin" | "metrics"))) if standalone => {
            format!("--listen-runtime-{name}")
        }
        Some((_, name)) => format!("--listen-{name}"),
        None => error.key.to_owned(),
    };
    anyhow::anyhow!("{error}; give another address with {flag}, or off")
}

#[cfg(test)]
mod tests {
    use super::{BindError, reachable, taken};

    #[test]
    fn what_listens_everywhere_is_reached_on_loopback() {
        for (listens, reached) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("192.0.2.1:80", "192.0.2.1:80"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
        ] {
            assert_eq!(reachable(listens.parse().expect("an address")).to_string(), reached);
        }
    }

    #[test]
    fn a_taken_port_is_told_with_the_flag_for_another() {
        for (key, standalone, flag) in [
            ("controller.listen.management", true, "--listen-management"),
            ("runtime.listen.https", true, "--listen-https"),
            ("runtime.listen.admin", true, "--listen-runtime-admin"),
            ("runtime.listen.admin", false, "--listen-admin"),
        ] {
            let address = ([127, 0, 0, 1], 9090).into();
            let error =
                BindError { key, purpose: "p", address, reason: "the port is already taken".to_owned() };
            let told = taken(&error, standalone).to_string();
            for part in [key, "127.0.0.1:9090", "already taken", &format!("with {flag},")] {
                assert!(told.contains(part), "{part} is missing in {told}");
            }
        }
    }
}
