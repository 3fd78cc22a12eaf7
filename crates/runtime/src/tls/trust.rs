// SPDX-License-Identifier: Apache-2.0
//! Who may vouch for the other end, and when. The TLS library takes name and key of an
//! authority and leaves its dates aside; they are kept here. For the moment of a handshake
//! the valid ones are selected, with the span of time in which nobody else would be: what is
//! made of a selection, sessions included, is made anew when its span is over. So an
//! authority comes and goes by its own dates, without a deployment. `certificates` and
//! settings name authorities, both ends of TLS select.

use std::ops::Range;
use std::time::Duration;

use rustls::{CertificateError, Error, RootCertStore};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// From its start until before its end.
pub(super) type Span = Range<UnixTime>;

/// One who may vouch for others.
pub(super) struct Authority {
    root: TrustAnchor<'static>,
    valid: Span,
}

/// Who may vouch at one moment.
pub(super) struct Trusted {
    /// Those valid then.
    pub roots: RootCertStore,
    /// While just these are.
    pub during: Span,
}

impl Authority {
    /// Reads a certificate.
    ///
    /// # Errors
    /// When it cannot be trusted as it stands.
    pub(super) fn new(certificate: &CertificateDer<'_>) -> Result<Authority, Error> {
        let unreadable = || Error::InvalidCertificate(CertificateError::BadEncoding);
        let mut store = RootCertStore::empty();
        store.add(certificate.clone())?;
        let root = store.roots.pop().ok_or_else(unreadable)?;
        let (_, read) = X509Certificate::from_der(certificate).map_err(|_| unreadable())?;
        let (first, last) = (read.validity().not_before.timestamp(), read.validity().not_after.timestamp());
        Ok(Authority { root, valid: instant(first)..instant(last.saturating_add(1)) })
    }

    /// Reads all of these.
    ///
    /// # Errors
    /// When one cannot be trusted as it stands.
    pub(super) fn all(certificates: &[CertificateDer<'_>]) -> Result<Vec<Authority>, Error> {
        certificates.iter().map(Authority::new).collect()
    }
}

/// A time before 1970, which the library does not have, counts as its beginning.
fn instant(seconds: i64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// Those of these that are valid now.
pub(super) fn trusted<'a>(authorities: impl IntoIterator<Item = &'a Authority>, now: UnixTime) -> Trusted {
    let mut roots = RootCertStore::empty();
    let mut during = instant(0)..instant(i64::MAX);
    for Authority { root, valid } in authorities {
        if valid.contains(&now) {
            roots.roots.push(root.clone());
        }
        // A clock that is set back may take back what had begun or ended.
        for change in [valid.start, valid.end] {
            if change <= now {
                during.start = during.start.max(change);
            } else {
                during.end = during.end.min(change);
            }
        }
    }
    Trusted { roots, during }
}

/// An authority that is valid from one second to another, as a certificate in PEM, and as read.
#[cfg(test)]
pub(super) fn made(first: u64, last: u64) -> (String, Authority) {
    let at = |seconds| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    (params.not_before, params.not_after) = (at(first), at(last));
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    let authority = Authority::new(certificate.der()).expect("a sound certificate");
    (certificate.pem(), authority)
}

/// The same in a file, in a folder that is gone with what is returned.
#[cfg(test)]
pub(super) fn made_file(first: u64, last: u64) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("authority.pem");
    std::fs::write(&file, made(first, last).0).expect("a written certificate");
    (folder, file)
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::UnixTime;

    use super::{Trusted, instant, made, trusted};

    #[test]
    fn an_authority_is_trusted_from_its_first_second_to_its_last() {
        let authorities = [made(1_000, 2_000).1, made(1_500, 3_000).1];
        let cases = [
            (999, 0, 0..1_000),
            (1_000, 1, 1_000..1_500),
            (1_500, 2, 1_500..2_001),
            (2_000, 2, 1_500..2_001),
            (2_001, 1, 2_001..3_001),
            (3_001, 0, 3_001..i64::MAX),
        ];
        for (now, count, span) in cases {
            let Trusted { roots, during } = trusted(&authorities, instant(now));
            assert_eq!(roots.len(), count, "at {now}");
            assert_eq!(during, instant(span.start)..instant(span.end), "at {now}");
        }
    }

    #[test]
    fn dates_the_wrong_way_round_are_never_and_nobody_is_always_nobody() {
        let never = made(2_000, 1_000).1;
        for now in [999, 1_000, 1_500, 2_000, 2_001] {
            let Trusted { roots, during } = trusted([&never], instant(now));
            assert!(roots.is_empty() && during.contains(&instant(now)), "at {now}");
        }
        let Trusted { roots, during } = trusted([], UnixTime::now());
        assert!(roots.is_empty() && during.contains(&UnixTime::now()));
    }
}
