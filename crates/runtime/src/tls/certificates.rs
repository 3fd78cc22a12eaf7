// SPDX-License-Identifier: Apache-2.0
//! The certificates of one snapshot, found by what is asked for: a server's name, an
//! artifact's handle, who may vouch for upstreams or clients. Persistent like the routing
//! table: cloning shares everything, a change copies what it touches. `prepare` makes
//! certificates, `state` puts them here, the two ends of TLS read.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ferrogate_model::Handle;
use ferrogate_model::kinds::Certificate;
use ferrogate_model::kinds::certificate::{Usage, certificates};
use imbl::{HashMap, OrdMap};
use rustls::server::ClientHello;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::shared_provider;
use super::trust::Authority;

/// Artifacts of one purpose, in the order of their names.
pub type Shelf = OrdMap<Handle, Arc<Prepared>>;

/// One artifact, ready for handshakes. It holds a private key, and has no `Debug`.
pub struct Prepared {
    handle: Handle,
    usage: Usage,
    names: Vec<String>,
    default: bool,
    /// Its certificates, each as one that may vouch for others.
    authorities: Vec<Authority>,
    identity: Option<Arc<CertifiedKey>>,
}

/// See the module.
#[derive(Clone, Default)]
pub struct Certificates {
    all: Shelf,
    by_name: HashMap<String, Shelf>,
    defaults: Shelf,
    upstream_trust: Shelf,
    client_trust: Shelf,
}

impl Prepared {
    /// Reads an artifact.
    ///
    /// # Errors
    /// When its certificate or key is of no use to this runtime.
    pub fn new(certificate: &Certificate) -> Result<Prepared, String> {
        let chain = certificates(&certificate.certificate).map_err(|error| error.to_string())?;
        // Found out here, so that what is trusted can be put together without a fault later.
        let authorities = Authority::all(&chain).map_err(|error| error.to_string())?;
        let identity = match &certificate.private_key {
            None => None,
            Some(key) => Some(Arc::new(identity(&chain, key, certificate.ocsp_response.as_deref())?)),
        };
        if identity.is_none() && certificate.usage == Usage::Server {
            return Err("it has no private key to be shown with".to_owned());
        }
        Ok(Prepared {
            handle: certificate.handle.clone(),
            usage: certificate.usage,
            names: certificate.server_names.clone(),
            default: certificate.default,
            authorities,
            identity,
        })
    }

    /// The artifact's name.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// What it lets be trusted.
    pub(super) fn authorities(&self) -> &[Authority] {
        &self.authorities
    }

    /// What it lets be shown.
    #[must_use]
    pub fn identity(&self) -> Option<&Arc<CertifiedKey>> {
        self.identity.as_ref()
    }
}

/// The words of a fault never quote the key.
fn identity(
    chain: &[CertificateDer<'static>],
    key: &str,
    ocsp: Option<&str>,
) -> Result<CertifiedKey, String> {
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| "its private key is no PEM")?;
    let identity = CertifiedKey::from_der(chain.to_vec(), key, &shared_provider());
    let mut identity = identity.map_err(|error| format!("its private key cannot be used: {error}"))?;
    if let Some(ocsp) = ocsp {
        identity.ocsp = Some(STANDARD.decode(ocsp).map_err(|_| "its OCSP response is no base64")?);
    }
    Ok(identity)
}

impl Certificates {
    /// Adds one whose handle is not there.
    pub(crate) fn put(&mut self, prepared: &Arc<Prepared>) {
        let put = |shelf: &mut Shelf| shelf.insert(prepared.handle.clone(), Arc::clone(prepared));
        put(&mut self.all);
        match prepared.usage {
            Usage::UpstreamTrust => drop(put(&mut self.upstream_trust)),
            Usage::ClientTrust => drop(put(&mut self.client_trust)),
            Usage::Named => {}
            Usage::Server => {
                for name in &prepared.names {
                    put(self.by_name.entry(name.clone()).or_default());
                }
                if prepared.default {
                    put(&mut self.defaults);
                }
            }
        }
    }

    /// Takes one out again.
    pub(crate) fn remove(&mut self, prepared: &Prepared) {
        for shelf in [&mut self.all, &mut self.defaults, &mut self.upstream_trust, &mut self.client_trust] {
            // A shelf that did not have it stays the same, and is known to be the same.
            if shelf.contains_key(&prepared.handle) {
                shelf.remove(&prepared.handle);
            }
        }
        for name in &prepared.names {
            let Some(shelf) = self.by_name.get_mut(name) else { continue };
            shelf.remove(&prepared.handle);
            if shelf.is_empty() {
                self.by_name.remove(name);
            }
        }
    }

    /// What to show to this client: a certificate for the name it asks for, exactly or by the
    /// wildcard above it, else a default one. Among several the first by handle whose key the
    /// client can verify, so that one name may have an ECDSA and an RSA certificate.
    pub(super) fn shown(&self, hello: &ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let named = name.as_deref().and_then(|name| self.named(name));
        let shelf = named.unwrap_or(&self.defaults);
        let identities = || shelf.values().filter_map(|prepared| prepared.identity.as_ref());
        let able =
            |identity: &&Arc<CertifiedKey>| identity.key.choose_scheme(hello.signature_schemes()).is_some();
        identities().find(able).or_else(|| identities().next()).cloned()
    }

    fn named(&self, name: &str) -> Option<&Shelf> {
        self.by_name.get(name).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.by_name.get(&format!("*.{parent}"))
        })
    }

    /// Every certificate.
    pub(super) fn all(&self) -> &Shelf {
        &self.all
    }

    /// Those by which any upstream may prove itself.
    pub(super) fn upstream_trust(&self) -> &Shelf {
        &self.upstream_trust
    }

    /// Those by which clients may prove themselves.
    pub(super) fn client_trust(&self) -> &Shelf {
        &self.client_trust
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ferrogate_model::kinds::Certificate;
    use serde_json::json;

    use super::{Certificates, Prepared};

    fn prepared(handle: &str, names: &[&str], default: bool) -> Arc<Prepared> {
        let made = rcgen::generate_simple_self_signed(vec![handle.to_owned()]).expect("a certificate");
        let document = json!({
            "kind": "Certificate",
            "metadata": {"name": handle},
            "spec": {
                "certificate": made.cert.pem(),
                "privateKey": made.signing_key.serialize_pem(),
                "serverNames": names,
                "default": default,
            },
        });
        let certificate = Certificate::parse(&document).expect("a sound document").certificate;
        Arc::new(Prepared::new(&certificate).expect("a sound certificate"))
    }

    /// Whose certificate a name finds.
    fn found(certificates: &Certificates, name: &str) -> Vec<String> {
        let shelf = certificates.named(name);
        shelf.into_iter().flat_map(|shelf| shelf.keys()).map(ToString::to_string).collect()
    }

    #[test]
    fn names_are_found_exactly_and_then_by_the_wildcard_above() {
        let mut certificates = Certificates::default();
        let wild = prepared("wild", &["*.example.com"], false);
        let exact = prepared("exact", &["a.example.com", "example.com"], true);
        certificates.put(&wild);
        certificates.put(&exact);
        assert_eq!(found(&certificates, "a.example.com"), ["exact"]);
        assert_eq!(found(&certificates, "b.example.com"), ["wild"]);
        assert_eq!(found(&certificates, "example.com"), ["exact"]);
        assert_eq!(found(&certificates, "b.a.example.com"), [""; 0], "a wildcard is one label");
        certificates.remove(&exact);
        assert_eq!(found(&certificates, "a.example.com"), ["wild"]);
        assert!(certificates.defaults.is_empty() && certificates.all.len() == 1);
    }

    #[test]
    fn of_two_for_one_name_each_takes_over_when_the_other_goes() {
        let mut certificates = Certificates::default();
        let (first, second) =
            (prepared("first", &["a.example"], false), prepared("second", &["a.example"], false));
        certificates.put(&second);
        certificates.put(&first);
        assert_eq!(found(&certificates, "a.example"), ["first", "second"]);
        let before = certificates.clone();
        certificates.remove(&first);
        assert_eq!(found(&certificates, "a.example"), ["second"]);
        assert_eq!(found(&before, "a.example"), ["first", "second"], "a snapshot does not change");
        certificates.remove(&second);
        assert!(certificates.by_name.is_empty());
    }
}
