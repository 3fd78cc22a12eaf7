// SPDX-License-Identifier: Apache-2.0
//! Certificates that a REST API names in vain: they are not there, or have no key to be
//! shown with. The API is stored all the same, for a certificate may come later; until then
//! the runtimes fail its connections (invariant 7), and whoever deploys it is warned.

use ferrogate_model::kinds::{Artifact, Certificate};
use ferrogate_model::{Handle, Kind, ResourceName, Violation};

use super::Admitted;
use crate::snapshot::Snapshot;

/// What this document names in vain, when its whole batch is added to what stands.
pub fn warnings<'a>(
    document: &Admitted,
    batch: impl Iterator<Item = &'a Admitted> + Clone,
    snapshot: Option<&Snapshot>,
) -> Vec<Violation> {
    let Artifact::RestApi(api) = &document.artifact else { return Vec::new() };
    let mut found = Vec::new();
    for (index, definition) in api.upstream_definitions.iter().enumerate() {
        let Some(tls) = &definition.tls else { continue };
        let named = [("caCertificate", &tls.ca_certificate), ("clientCertificate", &tls.client_certificate)];
        for (field, handle) in named {
            let Some(handle) = handle else { continue };
            let lacks = match certificate(handle, batch.clone(), snapshot) {
                None => "does not exist",
                Some(found) if field == "clientCertificate" && found.private_key.is_none() => {
                    "has no private key"
                }
                Some(_) => continue,
            };
            let field = format!("spec.upstreamDefinitions[{index}].tls.{field}");
            let message = format!("Certificate '{handle}' {lacks}: connections fail as long as it is so");
            found.push(Violation { field, message });
        }
    }
    found
}

/// The certificate with this name, as it will be.
fn certificate<'a>(
    handle: &Handle,
    mut batch: impl Iterator<Item = &'a Admitted>,
    snapshot: Option<&Snapshot>,
) -> Option<Certificate> {
    let name = ResourceName::new(Kind::Certificate, handle.clone());
    let artifact = match batch.find(|one| one.name == name) {
        Some(written) => written.artifact.clone(),
        None => {
            let payload = snapshot?.get(&name)?.stored.payload.as_deref()?;
            Artifact::from_payload(Kind::Certificate, payload.as_bytes()).ok()?
        }
    };
    match artifact {
        Artifact::Certificate(certificate) => Some(certificate),
        Artifact::RestApi(_) | Artifact::Secret(_) => None,
    }
}
