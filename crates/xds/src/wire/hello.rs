// SPDX-License-Identifier: Apache-2.0
//! The first request of a stream: who the runtime is and what it holds, in the node's
//! metadata. One position, one digest and the exceptions; never a map of all names,
//! which would outgrow a message. Numbers travel as text, since a double cannot hold them.

use std::collections::BTreeMap;

use ferrogate_model::{Digest, Epoch, GatewayId, Position, ResourceName, Revision};

use super::SUBSCRIPTION;
use crate::capabilities::Capabilities;
use crate::node::{NodeInfo, RuntimeInfo};
use crate::protocol::{DeltaDiscoveryRequest, ListValue, Node, Struct, Value, ValueKind};
use crate::sink::Held;

/// How many refused resources are named. A runtime with more states no digest, and is
/// sent everything.
pub const MAX_REJECTED: usize = 1000;
/// How many capabilities are read; more are refused.
const MAX_CAPABILITIES: usize = 1000;
/// The longest text read from the metadata; a longer one is refused.
const MAX_TEXT_BYTES: usize = 512;

/// A first request.
#[derive(Clone, Debug, PartialEq)]
pub struct Hello {
    /// Who and where.
    pub runtime: RuntimeInfo,
    /// The digest of what is held at the stated position; `None` to be sent everything.
    pub digest: Option<Digest>,
    /// Refused, to be sent again.
    pub rejected: Vec<ResourceName>,
}

/// A first request that is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// A needed field is missing or has the wrong type.
    #[error("the node has no usable '{0}'")]
    Missing(&'static str),
    /// A field is too long or a list has too many entries.
    #[error("the node's '{0}' is over its limit")]
    TooLong(&'static str),
}

/// The first request of a runtime. With `distrust` it states no digest.
pub(crate) fn to_message(node: &NodeInfo, held: &Held, distrust: bool) -> DeltaDiscoveryRequest {
    let whole = distrust || held.rejected.len() > MAX_REJECTED;
    let digest = if whole { String::new() } else { held.digest.to_string() };
    let rejected = held.rejected.keys().take(MAX_REJECTED).map(|name| text(name.to_string()));
    let metadata = [
        ("gateway", text(node.gateway.as_str())),
        ("zone", text(&*node.zone)),
        ("version", text(&*node.version)),
        ("epoch", text(held.position.epoch.to_string())),
        ("revision", text(held.position.revision.to_string())),
        ("digest", text(digest)),
        ("rejected", list(rejected)),
        ("from_cache", ValueKind::BoolValue(held.from_cache)),
        ("capabilities", list(node.capabilities.iter().map(text))),
    ];
    let fields =
        metadata.into_iter().map(|(key, kind)| (key.to_owned(), Value { kind: Some(kind) })).collect();
    DeltaDiscoveryRequest {
        node: Some(Node { id: node.id.clone(), metadata: Some(Struct { fields }) }),
        type_url: SUBSCRIPTION.to_owned(),
        resource_names_subscribe: vec!["*".to_owned()],
        ..DeltaDiscoveryRequest::default()
    }
}

/// Reads a first request.
pub(crate) fn from_message(message: DeltaDiscoveryRequest) -> Result<Hello, HelloError> {
    let node = message.node.ok_or(HelloError::Missing("node"))?;
    if node.id.is_empty() {
        return Err(HelloError::Missing("id"));
    }
    if node.id.len() > MAX_TEXT_BYTES {
        return Err(HelloError::TooLong("id"));
    }
    let fields = Fields(node.metadata.unwrap_or_default().fields.into_iter().collect());
    let capabilities = fields.list("capabilities", MAX_CAPABILITIES)?;
    // A name this version cannot read is of a kind it cannot send either.
    let rejected = fields.list("rejected", MAX_REJECTED)?;
    let rejected = rejected.iter().filter_map(|name| name.parse().ok()).collect();
    let runtime = RuntimeInfo {
        node: NodeInfo {
            id: node.id,
            gateway: GatewayId::from(fields.text("gateway")?),
            zone: fields.text("zone")?.to_owned(),
            version: fields.text("version")?.to_owned(),
            capabilities: capabilities.into_iter().collect::<Capabilities>(),
        },
        stated: Position::new(Epoch(fields.number("epoch")?), Revision(fields.number("revision")?)),
        from_cache: matches!(fields.kind("from_cache"), Some(ValueKind::BoolValue(true))),
    };
    Ok(Hello { runtime, digest: digest(fields.text("digest")?), rejected })
}

struct Fields(BTreeMap<String, Value>);

impl Fields {
    fn kind(&self, key: &str) -> Option<&ValueKind> {
        self.0.get(key)?.kind.as_ref()
    }

    fn text(&self, key: &'static str) -> Result<&str, HelloError> {
        match self.kind(key) {
            Some(ValueKind::StringValue(text)) if text.len() <= MAX_TEXT_BYTES => Ok(text),
            Some(ValueKind::StringValue(_)) => Err(HelloError::TooLong(key)),
            _ => Err(HelloError::Missing(key)),
        }
    }

    fn number(&self, key: &'static str) -> Result<u64, HelloError> {
        self.text(key)?.parse().map_err(|_| HelloError::Missing(key))
    }

    fn list(&self, key: &'static str, limit: usize) -> Result<Vec<String>, HelloError> {
        let Some(ValueKind::ListValue(list)) = self.kind(key) else {
            return Err(HelloError::Missing(key));
        };
        if list.values.len() > limit {
            return Err(HelloError::TooLong(key));
        }
        let entry = |value: &Value| match &value.kind {
            Some(ValueKind::StringValue(text)) if text.len() <= MAX_TEXT_BYTES => Ok(text.clone()),
            Some(ValueKind::StringValue(_)) => Err(HelloError::TooLong(key)),
            _ => Err(HelloError::Missing(key)),
        };
        list.values.iter().map(entry).collect()
    }
}

/// 64 hexadecimal digits; anything else is "no digest", which only costs a full update.
fn digest(text: &str) -> Option<Digest> {
    let mut bytes = [0_u8; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Digest::from_bytes(&bytes)
}

fn text(text: impl Into<String>) -> ValueKind {
    ValueKind::StringValue(text.into())
}

fn list(entries: impl Iterator<Item = ValueKind>) -> ValueKind {
    ValueKind::ListValue(ListValue { values: entries.map(|kind| Value { kind: Some(kind) }).collect() })
}

#[cfg(test)]
mod tests {
    use super::{HelloError, MAX_REJECTED, from_message, to_message};
    use crate::capabilities::Capabilities;
    use crate::node::NodeInfo;
    use crate::protocol::{DeltaDiscoveryRequest, Value, ValueKind};
    use crate::sink::Held;
    use ferrogate_model::{Digest, Epoch, GatewayId, Position, Revision};

    fn node() -> NodeInfo {
        NodeInfo {
            id: "runtime-1".to_owned(),
            gateway: GatewayId::from("default"),
            zone: "a".to_owned(),
            version: "0.1.0".to_owned(),
            capabilities: Capabilities::of_this_build().with("policy/set-headers/v1"),
        }
    }

    fn held(rejected: usize) -> Held {
        let name = |index| format!("rest-apis/r{index}").parse().unwrap();
        Held {
            position: Position::new(Epoch(u64::MAX), Revision(u64::MAX - 1)),
            digest: Digest([1, 2, 3, u64::MAX]),
            rejected: (0..rejected).map(|index| (name(index), Revision(1))).collect(),
            from_cache: true,
        }
    }

    #[test]
    fn a_first_request_survives_the_round_trip() {
        let held = held(2);
        let hello = from_message(to_message(&node(), &held, false)).unwrap();
        assert_eq!(hello.runtime.node, node());
        assert_eq!(hello.runtime.stated, held.position);
        assert!(hello.runtime.from_cache);
        assert_eq!(hello.digest, Some(held.digest));
        assert_eq!(hello.rejected.len(), 2);
    }

    #[test]
    fn distrust_and_too_many_rejects_state_no_digest() {
        assert_eq!(from_message(to_message(&node(), &held(0), true)).unwrap().digest, None);
        let hello = from_message(to_message(&node(), &held(MAX_REJECTED + 1), false)).unwrap();
        assert_eq!((hello.digest, hello.rejected.len()), (None, MAX_REJECTED));
    }

    #[test]
    fn a_request_that_is_none_names_the_field() {
        assert_eq!(from_message(DeltaDiscoveryRequest::default()), Err(HelloError::Missing("node")));
        for (key, kind, error) in [
            ("epoch", ValueKind::NumberValue(1.0), HelloError::Missing("epoch")),
            ("revision", ValueKind::StringValue("-1".to_owned()), HelloError::Missing("revision")),
            ("zone", ValueKind::StringValue("z".repeat(513)), HelloError::TooLong("zone")),
            ("rejected", ValueKind::BoolValue(true), HelloError::Missing("rejected")),
        ] {
            let mut request = to_message(&node(), &held(0), false);
            let metadata = request.node.as_mut().unwrap().metadata.as_mut().unwrap();
            metadata.fields.insert(key.to_owned(), Value { kind: Some(kind) });
            assert_eq!(from_message(request), Err(error));
        }
    }
}
