// SPDX-License-Identifier: Apache-2.0
//! TLS towards clients: one configuration for all workers, so that a session begun with one
//! is resumed with any. Which certificate is shown is looked up in the current snapshot at
//! each handshake; deploying one touches no connection. The configuration is made anew only
//! when the trust in clients changes, by a deployment or because an authority begins or expires,
//! and with it the key of its tickets: a session that was begun under another trust is not
//! resumed. `listener` hands it to `conn`.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use tokio_rustls::TlsAcceptor;

use super::certificates::Shelf;
use super::trust::{Authority, Span, Trusted, trusted};
use super::{TlsError, read_certificates, read_key, shared_provider, versions};
use crate::config::{ClientAuthentication, DownstreamTls};
use crate::state::State;

/// What clients are told by ALPN: HTTP/2 before HTTP/1.1 (contract 1.1).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// TLS towards clients.
pub struct ServerTls {
    state: Arc<State>,
    terms: Terms,
    current: ArcSwap<Made>,
    making: Mutex<()>,
}

/// What does not change.
struct Terms {
    resolver: Arc<Resolver>,
    versions: Vec<&'static SupportedProtocolVersion>,
    authentication: ClientAuthentication,
    /// Who may issue clients' certificates, by the settings.
    issuers: Vec<Authority>,
}

/// A configuration and the trust it was made with.
struct Made {
    trust: Shelf,
    /// How long the same of them are valid.
    during: Span,
    /// `None` when clients must prove themselves and nobody may issue certificates to them.
    config: Option<Arc<ServerConfig>>,
}

/// Finds what a client is shown.
struct Resolver {
    state: Arc<State>,
    /// When no artifact is for it.
    fallback: Arc<CertifiedKey>,
}

/// A key is reachable from here.
impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.state.load().certificates.shown(&hello);
        Some(shown.unwrap_or_else(|| self.fallback.clone()))
    }
}

impl ServerTls {
    /// Shows the certificates of this state, and where it has none for a client, the one of
    /// the settings.
    ///
    /// # Errors
    /// When a file is unreadable, or certificate and key do not belong together.
    pub fn new(settings: &DownstreamTls, state: Arc<State>) -> Result<ServerTls, TlsError> {
        let (chain, key) = match (&settings.cert_path, &settings.key_path) {
            (Some(cert), Some(key)) => (read_certificates(cert)?, read_key(key)?),
            (None, None) | (Some(_), None) | (None, Some(_)) => self_signed()?,
        };
        let fallback = Arc::new(CertifiedKey::from_der(chain, key, &shared_provider())?);
        let resolver = Arc::new(Resolver { state: state.clone(), fallback });
        let issuers = match &settings.client_ca_file {
            Some(path) => Authority::all(&read_certificates(path)?)?,
            None => Vec::new(),
        };
        let versions = versions(settings.minimum, settings.maximum);
        let terms = Terms { resolver, versions, authentication: settings.client_authentication, issuers };
        let trust = state.load().certificates.client_trust().clone();
        let current = ArcSwap::from_pointee(terms.make(&trust, UnixTime::now())?);
        Ok(ServerTls { state, terms, current, making: Mutex::default() })
    }

    /// For the next handshake. `None` when nobody could prove who they are although all must, or
    /// when the library fails, which is logged: a client is turned away rather than let in
    /// unverified.
    #[must_use]
    pub fn acceptor(&self) -> Option<TlsAcceptor> {
        self.acceptor_at(UnixTime::now())
    }

    fn acceptor_at(&self, now: UnixTime) -> Option<TlsAcceptor> {
        let snapshot = self.state.load();
        let trust = snapshot.certificates.client_trust();
        let current = self.current.load();
        if current.is_for(trust, now) {
            return current.config.clone().map(TlsAcceptor::from);
        }
        let _one_at_a_time = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current.load();
        if current.is_for(trust, now) {
            return current.config.clone().map(TlsAcceptor::from);
        }
        match self.terms.make(trust, now) {
            Ok(made) => {
                let config = made.config.clone();
                self.current.store(Arc::new(made));
                config.map(TlsAcceptor::from)
            }
            Err(error) => {
                tracing::error!(%error, "clients cannot be spoken to over TLS");
                None
            }
        }
    }
}

impl Made {
    fn is_for(&self, trust: &Shelf, now: UnixTime) -> bool {
        self.trust.ptr_eq(trust) && self.during.contains(&now)
    }
}

impl Terms {
    fn make(&self, trust: &Shelf, now: UnixTime) -> Result<Made, TlsError> {
        let all = self.issuers.iter().chain(trust.values().flat_map(|one| one.authorities()));
        let Trusted { roots, during } = trusted(all, now);
        Ok(Made { trust: trust.clone(), during, config: self.config(roots)? })
    }

    fn config(&self, issuers: RootCertStore) -> Result<Option<Arc<ServerConfig>>, TlsError> {
        let builder =
            ServerConfig::builder_with_provider(shared_provider()).with_protocol_versions(&self.versions)?;
        let builder = match (self.authentication, issuers.is_empty()) {
            // Nobody could show a good one, so nobody is asked.
            (ClientAuthentication::None, _) | (ClientAuthentication::Optional, true) => {
                builder.with_no_client_auth()
            }
            (ClientAuthentication::Required, true) => {
                tracing::warn!("clients must show certificates, and nobody is trusted to issue them");
                return Ok(None);
            }
            (wanted, false) => {
                let issuers = Arc::new(issuers);
                let verifier = WebPkiClientVerifier::builder_with_provider(issuers, shared_provider());
                let optional = wanted == ClientAuthentication::Optional;
                let verifier = if optional { verifier.allow_unauthenticated() } else { verifier };
                builder.with_client_cert_verifier(verifier.build()?)
            }
        };
        let mut config = builder.with_cert_resolver(self.resolver.clone());
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        // Sealed sessions that clients keep, so that nothing is stored here and any worker opens them.
        config.ticketer = rustls::crypto::ring::Ticketer::new()?;
        Ok(Some(Arc::new(config)))
    }
}

/// A certificate nobody trusts, so that the HTTPS port answers before an operator has
/// configured one. It is new at every start and never written to disk.
fn self_signed() -> Result<(Vec<rustls_pki_types::CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError>
{
    tracing::warn!("no certificate is configured for the HTTPS listener: a self-signed one was made");
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    Ok((vec![made.cert.der().clone()], key.into()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use rustls_pki_types::UnixTime;

    use super::super::trust::made_file;
    use super::ServerTls;
    use crate::config::{ClientAuthentication, DownstreamTls};
    use crate::state::State;

    #[test]
    fn an_issuer_of_clients_begins_and_expires_without_a_deployment() {
        let (_folder, file) = made_file(1_000, 2_000);
        let settings = DownstreamTls {
            client_authentication: ClientAuthentication::Required,
            client_ca_file: Some(file),
            ..DownstreamTls::default()
        };
        let tls = ServerTls::new(&settings, Arc::new(State::default())).expect("a configuration");
        assert!(tls.acceptor().is_none(), "it has expired long ago");
        let at = |seconds| tls.acceptor_at(UnixTime::since_unix_epoch(Duration::from_secs(seconds)));
        assert!(at(999).is_none(), "not yet");
        let (first, last) = (at(1_000).expect("valid"), at(2_000).expect("still valid"));
        assert!(Arc::ptr_eq(first.config(), last.config()), "nothing is made anew meanwhile");
        assert!(at(2_001).is_none(), "no more");
    }
}
