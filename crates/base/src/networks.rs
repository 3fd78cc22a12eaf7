// SPDX-License-Identifier: Apache-2.0
//! Which addresses a list names: single ones, networks by their prefix, or all. An IPv4
//! address that a socket shows as an IPv6 one is the same address. Configuration makes
//! these; whoever takes connections asks.

use std::net::IpAddr;

/// A set of addresses, as an operator wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Networks(Vec<Block>);

/// The addresses that begin as `base` does, for `prefix` bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    All,
    Prefix { base: IpAddr, prefix: u32 },
}

impl Networks {
    /// Nobody.
    pub fn none() -> Networks {
        Networks(Vec::new())
    }

    /// Everybody.
    pub fn all() -> Networks {
        Networks(vec![Block::All])
    }

    /// Adds `*`, an address such as `10.0.0.1`, or a network such as `10.0.0.0/8`.
    ///
    /// # Errors
    /// When the text is none of them, in words.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let wrong = || format!("\"{text}\" is no address, no network such as 10.0.0.0/8, and not *");
        // As the contract has it, IPv6 is meant as well.
        if matches!(text, "*" | "0.0.0.0/0") {
            self.0.push(Block::All);
            return Ok(());
        }
        let (address, prefix) = text.split_once('/').map_or((text, None), |(one, two)| (one, Some(two)));
        let base: IpAddr = address.parse().map_err(|_| wrong())?;
        let base = base.to_canonical();
        let width = width(base);
        let prefix = prefix.map_or(Some(width), |digits| digits.parse().ok().filter(|bits| *bits <= width));
        self.0.push(Block::Prefix { base, prefix: prefix.ok_or_else(wrong)? });
        Ok(())
    }

    /// Whether this address is among them.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|block| match block {
            Block::All => true,
            Block::Prefix { base, prefix } => {
                let differing = width(*base).saturating_sub(*prefix);
                let shifted = |address| number(address).checked_shr(differing).unwrap_or(0);
                base.is_ipv4() == address.is_ipv4() && shifted(*base) == shifted(address)
            }
        })
    }
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { u32::BITS } else { u128::BITS }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::Networks;

    fn check(list: &[&str], inside: &[&str], outside: &[&str]) {
        let mut networks = Networks::none();
        list.iter().for_each(|text| networks.add(text).unwrap());
        for (addresses, expected) in [(inside, true), (outside, false)] {
            for address in addresses {
                assert_eq!(networks.contains(address.parse().unwrap()), expected, "{address} in {list:?}");
            }
        }
    }

    #[test]
    fn addresses_are_found_by_their_prefix() {
        check(&[], &[], &["127.0.0.1", "::1"]);
        check(&["*"], &["127.0.0.1", "::1"], &[]);
        check(&["0.0.0.0/0"], &["127.0.0.1", "::1"], &[]);
        check(&["127.0.0.1", "::1"], &["127.0.0.1", "::ffff:127.0.0.1", "::1"], &["127.0.0.2", "::2"]);
        check(&["10.0.0.0/8"], &["10.0.0.0", "10.255.255.255", "::ffff:10.1.1.1"], &["11.0.0.0", "9.1.1.1"]);
        check(&["10.1.2.3/24"], &["10.1.2.255"], &["10.1.3.0"]);
        check(&["2001:db8::/32", "::/0"], &["2001:db8::1", "::1"], &["10.0.0.1"]);
        check(&["fe80::/64"], &["fe80::1"], &["fe80:0:0:1::1"]);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "x", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0/8", "localhost", "10.0.0.0/-1"] {
            assert!(Networks::none().add(text).is_err(), "{text}");
        }
    }
}
