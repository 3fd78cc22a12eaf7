// SPDX-License-Identifier: Apache-2.0
//! TLS towards upstreams (contract 4.6): one configuration for each way an endpoint must
//! prove itself and each version of HTTP, made when it is first needed and shared by all
//! workers, so that sessions are resumed. Certificates are those of the current snapshot;
//! when they change, what was made is forgotten, and each configuration when an authority that
//! counts for it begins or expires. A certificate that is named and not there, or vouches for
//! nobody at that time, fails the connection: nothing is trusted in its place.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ferrogate_model::Handle;
use ferrogate_model::kinds::rest_api::{UpstreamProtocol, UpstreamTls as Wanted};
use rustls::client::danger::ServerCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{ServerName, UnixTime};
use tokio_rustls::TlsConnector;

use super::certificates::{Prepared, Shelf};
use super::trust::{Authority, Span, Trusted, trusted};
use super::verify::{Anything, Names, Rooted};
use super::{TlsError, read_certificates, shared_provider, versions};
use crate::config::UpstreamTls;
use crate::state::State;

/// The most configurations kept. When there are more, all are made anew as they are needed.
const MAX_MADE: usize = 10_000;

/// TLS towards upstreams.
pub struct ClientTls {
    settings: UpstreamTls,
    state: Arc<State>,
    /// The system's and the operator's.
    authorities: Vec<Authority>,
    made: Mutex<Made>,
}

/// Configurations and the certificates they were made with.
#[derive(Default)]
struct Made {
    of: Shelf,
    configs: HashMap<(Option<Arc<Wanted>>, UpstreamProtocol), Timed>,
}

/// A configuration, and the time that its roots are good for.
type Timed = (Arc<ClientConfig>, Span);

/// Why an upstream cannot be spoken to.
#[derive(Debug, thiserror::Error)]
pub enum TowardsError {
    /// Its name is none.
    #[error("'{0}' is no name for a certificate")]
    Name(String),
    /// The artifact names a certificate that is not there.
    #[error("there is no certificate '{0}'")]
    Missing(Handle),
    /// The artifact names an authority that is not valid yet, or no more.
    #[error("the certificate '{0}' vouches for nobody: it has expired or is not valid yet")]
    NotValid(Handle),
    /// The artifact names a certificate to show that has no private key.
    #[error("the certificate '{0}' has no private key")]
    NoKey(Handle),
    /// The TLS library refuses.
    #[error(transparent)]
    Config(#[from] rustls::Error),
}

impl ClientTls {
    /// Trusts whom the settings say, and whom the certificates of this state allow.
    ///
    /// # Errors
    /// When a configured file is unreadable or holds no certificate.
    pub fn new(settings: &UpstreamTls, state: Arc<State>) -> Result<ClientTls, TlsError> {
        if settings.disable_verification {
            tracing::warn!("certificates of https upstreams are not verified (disable_ssl_verification)");
        }
        let authorities = configured(settings)?;
        Ok(ClientTls { settings: settings.clone(), state, authorities, made: Mutex::default() })
    }

    /// How this host is spoken to, and the name it is asked for.
    ///
    /// # Errors
    /// When a certificate that is needed is not there, or the name is none.
    pub fn towards(
        &self,
        host: &str,
        wanted: Option<&Arc<Wanted>>,
        protocol: UpstreamProtocol,
    ) -> Result<(TlsConnector, ServerName<'static>), TowardsError> {
        self.towards_at(host, wanted, protocol, UnixTime::now())
    }

    fn towards_at(
        &self,
        host: &str,
        wanted: Option<&Arc<Wanted>>,
        protocol: UpstreamProtocol,
        now: UnixTime,
    ) -> Result<(TlsConnector, ServerName<'static>), TowardsError> {
        let name = wanted.and_then(|wanted| wanted.server_name.as_deref()).unwrap_or(host);
        let name = server_name(name)?;
        let snapshot = self.state.load();
        let all = snapshot.certificates.all();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if !made.of.ptr_eq(all) || made.configs.len() >= MAX_MADE {
            *made = Made { of: all.clone(), configs: HashMap::new() };
        }
        let key = (wanted.cloned(), protocol);
        if let Some((config, during)) = made.configs.get(&key)
            && during.contains(&now)
        {
            return Ok((TlsConnector::from(config.clone()), name));
        }
        let trust = snapshot.certificates.upstream_trust();
        let (config, during) = self.config(all, trust, wanted.map(Arc::as_ref), protocol, now)?;
        let config = Arc::new(config);
        made.configs.insert(key, (config.clone(), during));
        Ok((TlsConnector::from(config), name))
    }

    fn config(
        &self,
        all: &Shelf,
        trust: &Shelf,
        wanted: Option<&Wanted>,
        protocol: UpstreamProtocol,
        now: UnixTime,
    ) -> Result<(ClientConfig, Span), TowardsError> {
        let held = |handle: &Handle| all.get(handle).ok_or_else(|| TowardsError::Missing(handle.clone()));
        let own_root = wanted.and_then(|wanted| wanted.ca_certificate.as_ref()).map(held).transpose()?;
        let any = self.authorities.iter().chain(trust.values().flat_map(|root| root.authorities()));
        let Trusted { roots, during } = match own_root {
            Some(root) => trusted(root.authorities(), now),
            None => trusted(any, now),
        };
        if let Some(root) = own_root
            && roots.is_empty()
            && !self.settings.disable_verification
        {
            return Err(TowardsError::NotValid(root.handle().clone()));
        }
        let shown = wanted.and_then(|wanted| wanted.client_certificate.as_ref()).map(held).transpose()?;
        let names = wanted.map_or(&[][..], |wanted| &wanted.subject_alt_names);
        let verifier = self.verifier(roots, names)?;
        let builder = ClientConfig::builder_with_provider(shared_provider())
            .with_protocol_versions(&versions(self.settings.minimum, self.settings.maximum))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match shown {
            None => builder.with_no_client_auth(),
            Some(shown) => {
                let identity = SingleCertAndKey::from(shown_identity(shown)?);
                builder.with_client_cert_resolver(Arc::new(identity))
            }
        };
        let offered: &[&[u8]] = match protocol {
            UpstreamProtocol::Http1 => &[b"http/1.1"],
            UpstreamProtocol::Http2 => &[b"h2"],
            UpstreamProtocol::Auto => &[b"h2", b"http/1.1"],
        };
        config.alpn_protocols = offered.iter().map(|protocol| protocol.to_vec()).collect();
        Ok((config, during))
    }

    /// An artifact that names whom it expects is not overruled by `verify_host_name = false`.
    fn verifier(
        &self,
        roots: RootCertStore,
        names: &[String],
    ) -> Result<Arc<dyn ServerCertVerifier>, TowardsError> {
        if self.settings.disable_verification {
            return Ok(Anything::new(shared_provider()));
        }
        let names = match names {
            [] if self.settings.verify_host_name => Names::Asked,
            [] => Names::Any,
            names => Names::OneOf(names.iter().map(|name| server_name(name)).collect::<Result<_, _>>()?),
        };
        Ok(Rooted::new(roots, names, shared_provider()))
    }
}

fn shown_identity(shown: &Prepared) -> Result<Arc<CertifiedKey>, TowardsError> {
    shown.identity().cloned().ok_or_else(|| TowardsError::NoKey(shown.handle().clone()))
}

fn server_name(name: &str) -> Result<ServerName<'static>, TowardsError> {
    ServerName::try_from(name.to_owned()).map_err(|_| TowardsError::Name(name.to_owned()))
}

fn configured(settings: &UpstreamTls) -> Result<Vec<Authority>, TlsError> {
    let mut authorities = Vec::new();
    if settings.system_roots {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a system certificate could not be read");
        }
        authorities.extend(found.certs.iter().filter_map(|certificate| Authority::new(certificate).ok()));
        tracing::debug!(found = found.certs.len(), taken = authorities.len(), "system certificates loaded");
    }
    for path in &settings.extra_ca_files {
        authorities.extend(Authority::all(&read_certificates(path)?)?);
    }
    Ok(authorities)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use ferrogate_model::kinds::rest_api::UpstreamProtocol;
    use rustls_pki_types::UnixTime;

    use super::super::trust::made_file;
    use super::ClientTls;
    use crate::config::UpstreamTls;
    use crate::state::State;

    #[test]
    fn an_authority_that_expires_takes_its_configuration_and_sessions_along() {
        let (_folder, file) = made_file(1_000, 2_000);
        let settings =
            UpstreamTls { system_roots: false, extra_ca_files: vec![file], ..UpstreamTls::default() };
        let tls = ClientTls::new(&settings, Arc::new(State::default())).expect("a configuration");
        let at = |seconds| {
            let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
            let (connector, _) =
                tls.towards_at("localhost", None, UpstreamProtocol::Auto, now).expect("a configuration");
            connector.config().clone()
        };
        let (first, last, after) = (at(1_000), at(2_000), at(2_001));
        assert!(Arc::ptr_eq(&first, &last), "nothing is made anew meanwhile");
        assert!(!Arc::ptr_eq(&last, &after), "what was begun with it is resumed");
        assert!(Arc::ptr_eq(&after, &at(3_000)));
    }
}
