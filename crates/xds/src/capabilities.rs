// SPDX-License-Identifier: Apache-2.0
//! What a runtime says it can run, so that a controller can withhold what an older
//! runtime cannot, and say so. Stated on every connect; the serving session asks
//! [`withheld`] for each resource before it sends it.

use std::collections::BTreeSet;

use ferrogate_model::Kind;

use crate::catalog::Encoded;
use crate::wire;

/// The capabilities of one runtime: `rest-api/v1`, `policy/set-headers/v1` and the like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Capabilities(BTreeSet<String>);

impl Capabilities {
    /// The kinds this build can decode. The runtime adds its policies.
    #[must_use]
    pub fn of_this_build() -> Capabilities {
        Kind::ALL.into_iter().filter_map(wire::capability).map(str::to_owned).collect()
    }

    /// Adds one.
    #[must_use]
    pub fn with(mut self, capability: impl Into<String>) -> Capabilities {
        self.0.insert(capability.into());
        self
    }

    /// Whether it is among them.
    #[must_use]
    pub fn has(&self, capability: &str) -> bool {
        self.0.contains(capability)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Whether nothing that exists today would be withheld for a kind it lacks.
    #[must_use]
    pub fn cover_every_kind(&self) -> bool {
        Kind::ALL.into_iter().filter_map(wire::capability).all(|capability| self.has(capability))
    }
}

impl FromIterator<String> for Capabilities {
    fn from_iter<I: IntoIterator<Item = String>>(capabilities: I) -> Capabilities {
        Capabilities(capabilities.into_iter().collect())
    }
}

/// Why a resource must not be sent to a runtime with these capabilities; `None` when it may.
///
/// The answer depends on the kind alone, so it is the same for every version of a
/// resource. An answer that depended on the content would have to account for the older
/// version the runtime keeps: the digest the session states would no longer be the
/// catalog's less what was withheld.
#[must_use]
pub fn withheld(capabilities: &Capabilities, resource: &Encoded) -> Option<String> {
    let needed = wire::capability(resource.name.kind)?;
    (!capabilities.has(needed)).then(|| format!("withheld: the runtime does not state '{needed}'"))
}

#[cfg(test)]
mod tests {
    use super::{Capabilities, withheld};
    use crate::wire;
    use ferrogate_model::{Resource, Revision};

    #[test]
    fn a_kind_that_is_not_stated_is_withheld_with_a_reason() {
        let resource = wire::encode(&Resource {
            name: "rest-apis/a".parse().unwrap(),
            version: Revision(1),
            payload: "{}".into(),
        })
        .unwrap();
        assert_eq!(withheld(&Capabilities::of_this_build(), &resource), None);
        let none = Capabilities::default().with("policy/set-headers/v1");
        assert!(withheld(&none, &resource).is_some_and(|reason| reason.contains("rest-api/v1")));
        assert!(!none.cover_every_kind());
        assert!(Capabilities::of_this_build().cover_every_kind());
    }
}
