// SPDX-License-Identifier: Apache-2.0
//! From a deserializer to a value, within the limit on depth and without repeated keys. Go's
//! YAML readers, whose behaviour the contract has, know from the type of a field whether a
//! plain scalar is text; here the table in [`Place`] knows it. A field that it does not name
//! must be quoted where it looks like a number. Called by [`super`] alone.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::MAX_DEPTH;

/// A document of a YAML text, read with the knowledge of where text is meant.
pub(super) struct Document(pub(super) Value);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Document, D::Error> {
        Seed { place: Place::Root, depth: 0 }.deserialize(deserializer).map(Document)
    }
}

/// Reads a JSON text, which says by itself what is text and what is not.
pub(super) fn read_json<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    Seed { place: Place::Any, depth: 0 }.deserialize(deserializer)
}

/// Where in a document a value stands, as far as that decides how YAML reads a plain scalar:
/// `version: 1.10` means the text `1.10`, and as a number it would be `1.1`. JSON says which
/// of the two is meant, and is read as [`Place::Any`] throughout. A list's elements stand
/// where the list does.
#[derive(Clone, Copy)]
enum Place {
    Root,
    Metadata,
    Spec,
    Upstreams,
    Upstream,
    Definitions,
    Targets,
    References,
    Timeouts,
    Operations,
    Match,
    MatchPath,
    HeaderMatch,
    Policies,
    /// A map or list of nothing but texts.
    Texts,
    Text,
    Any,
}

impl Place {
    /// Where the value of this key stands in a map that stands here.
    fn below(self, key: &str) -> Place {
        match (self, key) {
            (Place::Texts, _)
            | (Place::Root, "apiVersion" | "kind")
            | (Place::Metadata, "name")
            | (Place::Spec, "displayName" | "version" | "context" | "deploymentState")
            | (Place::Spec, "description" | "value" | "usage" | "certificate" | "privateKey")
            | (Place::Upstream, "url" | "ref" | "hostRewrite" | "protocol")
            | (Place::Definitions, "name" | "basePath" | "protocol")
            | (Place::Targets, "url" | "zone")
            | (Place::References, "ref")
            | (Place::Timeouts, "timeout" | "idleTimeout" | "connect")
            | (Place::Operations, "method" | "path")
            | (Place::Match, "method")
            | (Place::MatchPath, "type" | "value")
            | (Place::HeaderMatch, "name" | "value" | "type")
            | (Place::Policies, "name" | "version" | "executionCondition") => Place::Text,
            (Place::Metadata, "labels" | "annotations")
            | (Place::Spec, "vhosts" | "subscriptionPlans" | "serverNames") => Place::Texts,
            (Place::Root, "metadata") => Place::Metadata,
            (Place::Root, "spec") => Place::Spec,
            (Place::Spec, "upstream") => Place::Upstreams,
            (Place::Upstreams, _) => Place::Upstream,
            (Place::Upstream, "split" | "mirror") => Place::References,
            (Place::Spec, "upstreamDefinitions") => Place::Definitions,
            (Place::Definitions, "upstreams") => Place::Targets,
            (Place::Spec | Place::Operations, "resilience") | (Place::Definitions, "timeout") => {
                Place::Timeouts
            }
            (Place::Spec, "operations") => Place::Operations,
            (Place::Operations, "match") => Place::Match,
            (Place::Match, "path") => Place::MatchPath,
            (Place::Match, "headers") => Place::HeaderMatch,
            (Place::Spec | Place::Operations, "policies") => Place::Policies,
            _ => Place::Any,
        }
    }

    /// Where the elements of a list stand that stands here.
    const fn element(self) -> Place {
        match self {
            Place::Texts => Place::Text,
            other => other,
        }
    }
}

/// Reads a value at a place, counting the depth.
#[derive(Clone, Copy)]
struct Seed {
    place: Place,
    depth: usize,
}

impl Seed {
    fn deeper<E: serde::de::Error>(self) -> Result<Seed, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(format!("the document is nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(Seed { place: self.place, depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Seed {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.place {
            Place::Text => deserializer.deserialize_option(self),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Seed {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self.place, Place::Text) { "text" } else { "a value" })
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.place {
            Place::Text => String::deserialize(deserializer).map(Value::String),
            _ => deserializer.deserialize_any(self),
        }
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: serde::de::Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let element = Seed { place: inner.place.element(), ..inner };
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(element)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut values = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(Seed { place: inner.place.below(&key), ..inner })?;
            if values.contains_key(&key) {
                return Err(A::Error::custom(format!("the key '{key}' stands twice in one map")));
            }
            values.insert(key, value);
        }
        Ok(Value::Object(values))
    }
}
