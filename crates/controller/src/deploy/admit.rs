// SPDX-License-Identifier: Apache-2.0
//! Admission: from a document's value to something that may be stored. Templates are
//! rendered, the artifact is read and validated, every policy chain is compiled by the
//! very code the runtimes run and the result dropped. Pure but for the lookups it is
//! given; it touches neither the store nor the snapshot. A rendered payload may hold
//! secrets: it goes to the store and the stream, never into an answer or a log.

use std::sync::Arc;

use ferrogate_model::document::Defaults;
use ferrogate_model::kinds::rest_api::{DeploymentState, PolicySpec, RestApi};
use ferrogate_model::kinds::{ARTIFACT_ID, Artifact, Secret};
use ferrogate_model::template::{self, Lookup, Rendered};
use ferrogate_model::violation::IGNORED;
use ferrogate_model::{Kind, Refusal as ModelRefusal, ResourceName, Violation, Violations, route};
use ferrogate_policy::{Attachment, Chain, Registry, Services, operation_prefix};
use ferrogate_store::Expect;
use serde::Deserialize as _;
use serde_json::Value;
use uuid::Uuid;

use super::certificates;
use super::secrets::{self, Secrets, Visible};

/// What admission needs of the world.
pub struct Admission {
    /// The policies there are.
    pub registry: Arc<Registry>,
    /// What compiled policies may touch; a trial compile touches nothing.
    pub services: Services,
    /// The values of omitted fields.
    pub defaults: Defaults,
    /// The variables that templates see.
    pub environment: Arc<dyn Lookup + Send + Sync>,
}

/// A document that may be stored.
#[derive(Clone)]
pub struct Admitted {
    /// The artifact's key.
    pub name: ResourceName,
    /// The artifact.
    pub artifact: Artifact,
    /// The document as it is stored and answered: as written, with the gateway's virtual
    /// hosts filled in where the author named none.
    pub source: Value,
    /// The canonical payload; `None` while undeployed.
    pub payload: Option<String>,
    /// The secrets whose values are in the payload.
    pub references: Vec<ResourceName>,
    /// What must still be so of them when this is committed.
    pub expects: Vec<Expect>,
    /// What no other artifact may hold.
    pub claims: Vec<String>,
    /// The claim on display name and version, for telling a refusal's cause.
    pub name_claim: String,
    /// The internal id the document asks for.
    pub uuid: Option<Uuid>,
    /// Fields without effect, and what the document names in vain.
    pub warnings: Violations,
}

/// Why a document may not be stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It cannot be read as an artifact at all.
    #[error("{0}")]
    Unreadable(String),
    /// A template cannot be rendered.
    #[error("{0}")]
    Template(String),
    /// A template names a secret that is not known here; perhaps not yet.
    #[error("{0}")]
    MissingSecret(String),
    /// It breaks rules.
    #[error("{0}")]
    Invalid(Violations),
}

impl Admission {
    /// Admits one document as an artifact of this kind. A strict client has fields without
    /// effect refused.
    ///
    /// # Errors
    /// With everything that is wrong with the document.
    pub fn admit(
        &self,
        kind: Kind,
        mut source: Value,
        strict: bool,
        secrets: &Secrets,
    ) -> Result<Admitted, Refusal> {
        if let Value::Object(document) = &mut source {
            // Written by the gateway; a client may send back what it was answered.
            document.remove("status");
        }
        match kind {
            Kind::RestApi => self.rest_api(source, strict, secrets),
            Kind::Secret => secret(source, strict),
            Kind::Certificate => certificates::admit(source, strict),
        }
    }

    /// As [`Admission::admit`], of many documents of one batch: the secrets among them are
    /// seen by the others, whatever their order.
    #[must_use]
    pub fn admit_all(
        &self,
        documents: Vec<(Kind, Value)>,
        strict: bool,
        mut secrets: Secrets,
    ) -> Vec<Result<Admitted, Refusal>> {
        let mut results: Vec<Option<Result<Admitted, Refusal>>> = documents.iter().map(|_| None).collect();
        let (first, others): (Vec<_>, Vec<_>) =
            documents.into_iter().enumerate().partition(|(_, (kind, _))| *kind == Kind::Secret);
        for (index, (kind, document)) in first.into_iter().chain(others) {
            let admitted = self.admit(kind, document, strict, &secrets);
            if let Ok(admitted) = &admitted {
                secrets.write(admitted);
            }
            if let Some(place) = results.get_mut(index) {
                *place = Some(admitted);
            }
        }
        results.into_iter().flatten().collect()
    }

    fn rest_api(&self, source: Value, strict: bool, secrets: &Secrets) -> Result<Admitted, Refusal> {
        let visible = Visible { environment: self.environment.as_ref(), secrets };
        let Rendered { value, secrets: concealed, references } = template::render(&source, &visible)
            .map_err(|errors| match errors.miss_a_secret() {
                true => Refusal::MissingSecret(errors.to_string()),
                false => Refusal::Template(errors.to_string()),
            })?;
        let mut admitted =
            self.judge(source, &value, strict).map_err(|refusal| redacted(refusal, &concealed))?;
        // What is not served holds no value, and need not be made anew with it.
        if admitted.payload.is_some() {
            admitted.references = references.iter().filter_map(|handle| secrets::name(handle)).collect();
        }
        admitted.expects = admitted.references.iter().filter_map(|name| secrets.expectation(name)).collect();
        Ok(admitted)
    }

    /// What is admitted keeps the source; what is judged has its templates rendered.
    fn judge(&self, mut source: Value, rendered: &Value, strict: bool) -> Result<Admitted, Refusal> {
        let parsed = match RestApi::parse(rendered, &self.defaults) {
            Ok(parsed) => parsed,
            Err(ModelRefusal::Unreadable(error)) => return Err(Refusal::Unreadable(error.to_string())),
            Err(ModelRefusal::Invalid(violations)) => {
                return Err(Refusal::Invalid(self.with_policies(violations, rendered)));
            }
        };
        if strict {
            refuse_warnings(&parsed.warnings)?;
        }
        let api = parsed.api;
        ferrogate_policy::admit(&api, &self.registry, &self.services).map_err(Refusal::Invalid)?;
        RestApi::fill_hosts(&mut source, &self.defaults);
        let payload = match api.state {
            DeploymentState::Deployed => {
                let payload = serde_json::to_string(&api);
                Some(payload.map_err(|error| Refusal::Unreadable(error.to_string()))?)
            }
            DeploymentState::Undeployed => None,
        };
        let uuid = api.annotations.get(ARTIFACT_ID).and_then(|text| Uuid::parse_str(text).ok());
        let (claims, name_claim) = (route::claims(&api), route::name_claim(&api));
        let artifact = Artifact::RestApi(api);
        Ok(Admitted {
            name: artifact.name(),
            artifact,
            source,
            payload,
            references: Vec::new(),
            expects: Vec::new(),
            claims,
            name_claim,
            uuid,
            warnings: parsed.warnings,
        })
    }

    /// The faults of the document's policies too, although the rest did not become an API:
    /// an author corrects everything in one round. Lists that cannot be read were reported.
    fn with_policies(&self, mut violations: Violations, document: &Value) -> Violations {
        let spec = document.get("spec").unwrap_or(&Value::Null);
        let api = policy_list(spec);
        let operations = spec.get("operations").and_then(Value::as_array);
        let lists = operations.into_iter().flatten().map(policy_list).enumerate();
        // Only what the shape was faulted for: one field may break several rules of a schema.
        let told: Vec<String> = violations.0.iter().map(|known| known.field.clone()).collect();
        let (registry, services) = (&self.registry, &self.services);
        let (attachment, empty) = (Attachment::default(), Chain::default());
        let outer = Chain::of_api(&api, &attachment, registry, services).err();
        let own = lists.filter_map(|(index, list)| {
            empty.followed_by(&list, &attachment, registry, services, &operation_prefix(index)).err()
        });
        let faults = outer.into_iter().chain(own).flat_map(|faults| faults.0);
        violations.0.extend(faults.filter(|fault| !told.contains(&fault.field)));
        violations.arrange();
        violations
    }
}

/// The kind a document says it is of.
///
/// # Errors
/// When it names none that there is.
pub fn kind_of(document: &Value) -> Result<Kind, Violation> {
    let kind = document.get("kind").and_then(Value::as_str).and_then(Kind::from_document_name);
    kind.ok_or_else(|| {
        let kinds = Kind::ALL.map(|kind| format!("'{}'", kind.document_name())).join(", ");
        Violation { field: "kind".to_owned(), message: format!("Unsupported kind (must be one of {kinds})") }
    })
}

/// A secret's source is kept without its value; its templates, if it has any, are text.
fn secret(source: Value, strict: bool) -> Result<Admitted, Refusal> {
    let parsed = Secret::parse(&source)?;
    concealed(Artifact::Secret(parsed.secret), Secret::concealed(source), parsed.warnings, strict)
}

/// What is stored of an artifact that depends on no other, with the document that tells of it.
pub(super) fn concealed(
    artifact: Artifact,
    source: Value,
    warnings: Violations,
    strict: bool,
) -> Result<Admitted, Refusal> {
    if strict {
        refuse_warnings(&warnings)?;
    }
    Ok(Admitted {
        name: artifact.name(),
        payload: Some(artifact.to_payload()),
        artifact,
        source,
        references: Vec::new(),
        expects: Vec::new(),
        claims: Vec::new(),
        name_claim: String::new(),
        uuid: None,
        warnings,
    })
}

/// Warnings as violations. What is refused is not ignored, whatever the warning says.
fn refuse_warnings(warnings: &Violations) -> Result<(), Refusal> {
    let mut violations = Violations::default();
    for Violation { field, message } in &warnings.0 {
        violations.push(field.clone(), message.strip_suffix(IGNORED).unwrap_or(message));
    }
    violations.into_result(()).map_err(Refusal::Invalid)
}

impl From<ModelRefusal> for Refusal {
    fn from(refusal: ModelRefusal) -> Refusal {
        match refusal {
            ModelRefusal::Unreadable(error) => Refusal::Unreadable(error.to_string()),
            ModelRefusal::Invalid(violations) => Refusal::Invalid(violations),
        }
    }
}

/// Messages quote values, and a value may be a secret that a template put there.
fn redacted(refusal: Refusal, secrets: &[String]) -> Refusal {
    let clean =
        |text: String| secrets.iter().fold(text, |text, secret| text.replace(secret.as_str(), "******"));
    match refusal {
        Refusal::Unreadable(text) => Refusal::Unreadable(clean(text)),
        Refusal::Template(text) => Refusal::Template(clean(text)),
        Refusal::MissingSecret(text) => Refusal::MissingSecret(clean(text)),
        Refusal::Invalid(violations) => Refusal::Invalid(Violations(
            violations
                .0
                .into_iter()
                .map(|one| Violation { field: one.field, message: clean(one.message) })
                .collect(),
        )),
    }
}

fn policy_list(owner: &Value) -> Vec<PolicySpec> {
    let items = owner.get("policies").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let read: Result<Vec<PolicySpec>, _> = items.iter().map(PolicySpec::deserialize).collect();
    // One unreadable item would shift the indices of those after it.
    read.unwrap_or_default()
}
