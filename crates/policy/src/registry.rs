// SPDX-License-Identifier: Apache-2.0
//! The registry: the policies a process can run, by name and version, each with its
//! parameters' schema compiled once. It is filled at start from a list handed in and
//! never changes afterwards; it knows no concrete policy. The controller resolves
//! against it to admit artifacts, the runtime to build [`crate::Chain`]s.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::definition::Definition;
use crate::operator::OperatorSection;
use crate::params::ParamFault;

/// The policies a process can run.
pub struct Registry {
    by_name: BTreeMap<&'static str, Vec<Registered>>,
}

/// One registered policy and its compiled schema.
pub struct Registered {
    /// What the policy says of itself.
    pub definition: Arc<dyn Definition>,
    version: Version,
    schema: Value,
    validator: jsonschema::Validator,
    operator: Option<Operator>,
}

/// What the operator says of a policy.
struct Operator {
    section: OperatorSection,
    schema: Value,
    validator: jsonschema::Validator,
    /// What was configured, and defaults for the rest.
    values: Value,
}

/// A list of definitions that cannot be registered: a fault of the build, found at start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The version is not of the form `vX.Y.Z`.
    #[error("policy '{name}' has the malformed version '{version}'")]
    Version {
        /// The policy.
        name: &'static str,
        /// Its version.
        version: &'static str,
    },
    /// The parameters' schema is not JSON, or no schema.
    #[error("policy '{name}' has an unusable parameter schema: {message}")]
    Schema {
        /// The policy.
        name: &'static str,
        /// What the schema library says.
        message: String,
    },
    /// Two definitions have one name and one version.
    #[error("policy '{name}' {version} is registered twice")]
    Duplicate {
        /// The policy.
        name: &'static str,
        /// The version.
        version: &'static str,
    },
}

/// Why a policy named by an artifact could not be resolved (contract 3.5).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// No version was asked for and the name is unknown.
    #[error("policy '{0}' not found in loaded policy definitions")]
    UnknownPolicy(String),
    /// The name, or this major version of it, is unknown.
    #[error("policy '{name}' major version '{version}' not found in loaded policy definitions")]
    UnknownMajor {
        /// The policy asked for.
        name: String,
        /// The major version asked for.
        version: String,
    },
    /// More than one version of this major is registered.
    #[error("multiple matching versions for policy '{name}' major '{version}'; cannot resolve uniquely")]
    Ambiguous {
        /// The policy asked for.
        name: String,
        /// The major version asked for.
        version: String,
    },
    /// A full version was asked for.
    #[error(
        "policy '{0}' version must be major-only (e.g., v1); full semantic version (e.g., v1.0.0) is not allowed"
    )]
    FullVersion(String),
    /// The version is of no known form.
    #[error("invalid version format '{version}' for policy '{name}'; expected major-only version (e.g., v1)")]
    Malformed {
        /// The policy asked for.
        name: String,
        /// The version asked for.
        version: String,
    },
}

/// A full version; ordered as versions are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    major: u64,
    minor: u64,
    patch: u64,
}

impl Registry {
    /// Registers these definitions and compiles their schemas.
    ///
    /// # Errors
    /// When a definition contradicts itself or another one.
    pub fn new(definitions: Vec<Arc<dyn Definition>>) -> Result<Registry, RegistryError> {
        let mut by_name: BTreeMap<&'static str, Vec<Registered>> = BTreeMap::new();
        for definition in definitions {
            let registered = Registered::new(definition)?;
            let (name, version) = (registered.definition.name(), registered.definition.version());
            let versions = by_name.entry(name).or_default();
            match versions.binary_search_by_key(&registered.version, |other| other.version) {
                Ok(_) => return Err(RegistryError::Duplicate { name, version }),
                Err(place) => versions.insert(place, registered),
            }
        }
        Ok(Registry { by_name })
    }

    /// The policy an artifact means by this name and version; an absent or empty version is the latest.
    ///
    /// # Errors
    /// When that is no one policy.
    pub fn resolve(&self, name: &str, version: Option<&str>) -> Result<&Registered, ResolveError> {
        let versions = self.by_name.get(name).map_or(&[][..], Vec::as_slice);
        let Some(version) = version.filter(|version| !version.is_empty()) else {
            return versions.last().ok_or_else(|| ResolveError::UnknownPolicy(name.to_owned()));
        };
        let (name, version) = (name.to_owned(), version.to_owned());
        let Some(major) = parse_major(&version) else {
            return Err(match Version::parse(&version) {
                Some(_) => ResolveError::FullVersion(name),
                None => ResolveError::Malformed { name, version },
            });
        };
        let mut matching = versions.iter().filter(|registered| registered.version.major == major);
        match (matching.next(), matching.next()) {
            (Some(registered), None) => Ok(registered),
            (Some(_), Some(_)) => Err(ResolveError::Ambiguous { name, version }),
            (None, _) => Err(ResolveError::UnknownMajor { name, version }),
        }
    }

    /// The sections of the operator's configuration that policies here read.
    #[must_use]
    pub fn sections(&self) -> BTreeSet<&'static str> {
        self.iter().filter_map(|registered| Some(registered.operator.as_ref()?.section.name)).collect()
    }

    /// Gives every policy that reads this section what the operator configured in it. Wrong
    /// values change nothing.
    ///
    /// # Errors
    /// With every fault, at its field below the section.
    pub fn configure(&mut self, section: &str, values: &Value) -> Result<(), Vec<ParamFault>> {
        let registered = self.by_name.values_mut().flatten();
        let mut operators: Vec<&mut Operator> = registered
            .filter_map(|registered| registered.operator.as_mut())
            .filter(|operator| operator.section.name == section)
            .collect();
        let mut faults = Vec::new();
        let mut checked = Vec::with_capacity(operators.len());
        for operator in &operators {
            match operator.read(values) {
                Ok(values) => checked.push(values),
                Err(found) => faults.extend(found),
            }
        }
        // Policies that share a section find the same faults.
        faults.sort_by(|a: &ParamFault, b| (&a.field, &a.message).cmp(&(&b.field, &b.message)));
        faults.dedup();
        if !faults.is_empty() {
            return Err(faults);
        }
        for (operator, values) in operators.iter_mut().zip(checked) {
            operator.values = values;
        }
        Ok(())
    }

    /// Every registered policy, by name and then by version: the catalogue.
    pub fn iter(&self) -> impl Iterator<Item = &Registered> {
        self.by_name.values().flatten()
    }
}

impl Registered {
    fn new(definition: Arc<dyn Definition>) -> Result<Registered, RegistryError> {
        let name = definition.name();
        let version = Version::parse(definition.version())
            .ok_or(RegistryError::Version { name, version: definition.version() })?;
        let unusable = |message: String| RegistryError::Schema { name, message };
        let schema: Value =
            serde_json::from_str(definition.schema()).map_err(|error| unusable(error.to_string()))?;
        let validator = jsonschema::validator_for(&schema).map_err(|error| unusable(error.to_string()))?;
        let operator =
            definition.operator_section().map(|section| Operator::new(name, section)).transpose()?;
        Ok(Registered { definition, version, schema, validator, operator })
    }

    /// What the operator configured for it, with defaults; null when it reads no section.
    #[must_use]
    pub fn operator_values(&self) -> &Value {
        self.operator.as_ref().map_or(&Value::Null, |operator| &operator.values)
    }

    /// The parameters' schema.
    #[must_use]
    pub fn schema(&self) -> &Value {
        &self.schema
    }

    /// The parameters as the policy compiles them: absent ones an empty object, strings
    /// turned into the numbers and booleans that the schema asks for (contract 3.5), and the
    /// operator's beneath them (contract 5.3).
    ///
    /// # Errors
    /// With every place where the parameters break the schema.
    pub fn check_params(&self, params: &Value) -> Result<Value, Vec<ParamFault>> {
        let params = crate::params::coerce(&self.schema, params);
        let faults = crate::params::faults(&self.validator, &params);
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(match &self.operator {
            Some(operator) => crate::operator::overlay(&operator.values, params),
            None => params,
        })
    }
}

impl Operator {
    fn new(name: &'static str, section: OperatorSection) -> Result<Operator, RegistryError> {
        let unusable = |message: String| RegistryError::Schema { name, message };
        let schema: Value =
            serde_json::from_str(section.schema).map_err(|error| unusable(error.to_string()))?;
        let validator = jsonschema::validator_for(&schema).map_err(|error| unusable(error.to_string()))?;
        let values = crate::operator::with_defaults(&schema, Value::Object(Map::new()));
        Ok(Operator { section, schema, validator, values })
    }

    fn read(&self, values: &Value) -> Result<Value, Vec<ParamFault>> {
        let given = crate::params::coerce(&self.schema, &crate::operator::lower_keys(values.clone()));
        let faults = crate::params::faults(&self.validator, &given);
        if !faults.is_empty() {
            return Err(faults);
        }
        let values = crate::operator::with_defaults(&self.schema, given);
        match (self.section.check)(&values) {
            Ok(()) => Ok(values),
            Err(fault) => Err(vec![fault]),
        }
    }
}

impl Version {
    /// `vX.Y.Z`.
    fn parse(text: &str) -> Option<Version> {
        let mut numbers = text.strip_prefix('v')?.split('.').map(parse_number);
        let version = Version { major: numbers.next()??, minor: numbers.next()??, patch: numbers.next()?? };
        numbers.next().is_none().then_some(version)
    }
}

/// `vN`.
fn parse_major(text: &str) -> Option<u64> {
    parse_number(text.strip_prefix('v')?)
}

/// Digits only: `u64::from_str` would take a sign.
fn parse_number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Registry, RegistryError};
    use crate::definition::Definition;
    use crate::harness::Probe;

    fn registry() -> Registry {
        let probe = |name, version| -> Arc<dyn Definition> { Arc::new(Probe::named(name, version)) };
        Registry::new(vec![
            probe("one", "v1.2.3"),
            probe("two", "v1.0.0"),
            probe("two", "v10.0.0"),
            probe("two", "v2.1.0"),
            probe("twins", "v1.0.0"),
            probe("twins", "v1.0.1"),
        ])
        .expect("the probes are well formed")
    }

    #[test]
    fn versions_resolve_as_the_contract_says() {
        let registry = registry();
        for (name, version, expected) in [
            ("one", Some("v1"), Ok("v1.2.3")),
            ("one", None, Ok("v1.2.3")),
            ("one", Some(""), Ok("v1.2.3")),
            ("two", None, Ok("v10.0.0")),
            ("two", Some("v2"), Ok("v2.1.0")),
            ("none", None, Err("policy 'none' not found in loaded policy definitions")),
            (
                "none",
                Some("v1"),
                Err("policy 'none' major version 'v1' not found in loaded policy definitions"),
            ),
            (
                "one",
                Some("v2"),
                Err("policy 'one' major version 'v2' not found in loaded policy definitions"),
            ),
            (
                "twins",
                Some("v1"),
                Err("multiple matching versions for policy 'twins' major 'v1'; cannot resolve uniquely"),
            ),
            (
                "one",
                Some("v1.2.3"),
                Err("policy 'one' version must be major-only (e.g., v1); full semantic version \
                     (e.g., v1.0.0) is not allowed"),
            ),
            (
                "one",
                Some("1"),
                Err("invalid version format '1' for policy 'one'; expected major-only version (e.g., v1)"),
            ),
            (
                "one",
                Some("v+1"),
                Err("invalid version format 'v+1' for policy 'one'; expected major-only version (e.g., v1)"),
            ),
            (
                "one",
                Some("v"),
                Err("invalid version format 'v' for policy 'one'; expected major-only version (e.g., v1)"),
            ),
        ] {
            let found = registry
                .resolve(name, version)
                .map(|registered| registered.definition.version())
                .map_err(|error| error.to_string());
            assert_eq!(found, expected.map_err(str::to_owned), "{name} {version:?}");
        }
    }

    #[test]
    fn a_catalogue_that_contradicts_itself_is_refused() {
        let twice: Vec<Arc<dyn Definition>> =
            vec![Arc::new(Probe::named("a", "v1.0.0")), Arc::new(Probe::named("a", "v1.0.0"))];
        assert_eq!(
            Registry::new(twice).err(),
            Some(RegistryError::Duplicate { name: "a", version: "v1.0.0" })
        );
        let malformed: Vec<Arc<dyn Definition>> = vec![Arc::new(Probe::named("a", "1.0"))];
        assert_eq!(
            Registry::new(malformed).err(),
            Some(RegistryError::Version { name: "a", version: "1.0" })
        );
        let bad_schema: Vec<Arc<dyn Definition>> =
            vec![Arc::new(Probe::named("a", "v1.0.0").with_schema(r#"{"type":"nonsense"}"#))];
        assert!(matches!(Registry::new(bad_schema), Err(RegistryError::Schema { name: "a", .. })));
    }

    #[test]
    fn the_catalogue_is_sorted() {
        let names: Vec<_> = registry()
            .iter()
            .map(|registered| format!("{} {}", registered.definition.name(), registered.definition.version()))
            .collect();
        assert_eq!(
            names,
            ["one v1.2.3", "twins v1.0.0", "twins v1.0.1", "two v1.0.0", "two v2.1.0", "two v10.0.0"]
        );
    }
}
