// SPDX-License-Identifier: Apache-2.0
//! Sealing: what templates rendered, and secrets above all, is encrypted before it is
//! stored and opened when it is read (contract 2.7, 7.2). A key ring holds the keys;
//! [`store::SealedStore`] wraps the store, so that everything above it sees plain
//! payloads and everything below it sealed ones. No key and no plain text is ever
//! printed: neither type has `Debug`.

pub mod files;
pub mod reseal;
pub mod store;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};

/// What a sealed text begins with: a payload in the clear is JSON and cannot.
const PREFIX: &str = "sealed:1:";
/// The bytes of a key.
pub const KEY_BYTES: usize = 32;
/// The longest name of a key version.
const MAX_VERSION_BYTES: usize = 64;

/// The keys of a gateway: the first one seals, all of them open.
pub struct KeyRing {
    first: Key,
    rest: Vec<Key>,
}

struct Key {
    version: String,
    key: LessSafeKey,
}

/// A key ring that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRingError {
    /// There is no key in it.
    #[error("there is no key")]
    Empty,
    /// Two keys have one name, so nobody can tell which of them sealed a text.
    #[error("the key version '{0}' is named twice")]
    Twice(String),
    /// The name cannot stand in front of a sealed text.
    #[error("the key version '{0}' must be 1 to {MAX_VERSION_BYTES} letters, digits, '-', '_' or '.'")]
    Version(String),
    /// The key is no key.
    #[error("the key '{0}' is no AES-256 key")]
    Key(String),
}

/// A text that cannot be sealed or opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The ring has no such key, or the text was changed, or moved from elsewhere.
    #[error("the key '{0}' is not there or does not open it")]
    Shut(String),
    /// The system's random numbers or primitives failed.
    #[error("sealing failed")]
    Crypto,
}

/// Whether a key may have this name.
///
/// # Errors
/// When it could not stand in front of a sealed text.
pub fn check_version(version: &str) -> Result<(), KeyRingError> {
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if version.is_empty() || version.len() > MAX_VERSION_BYTES || !version.chars().all(sound) {
        return Err(KeyRingError::Version(version.to_owned()));
    }
    Ok(())
}

impl KeyRing {
    /// The ring of these keys, named by version, in order.
    ///
    /// # Errors
    /// When there is none, or a name is used twice or unusable.
    pub fn new(keys: Vec<(String, [u8; KEY_BYTES])>) -> Result<KeyRing, KeyRingError> {
        let mut ring: Vec<Key> = Vec::with_capacity(keys.len());
        for (version, bytes) in keys {
            check_version(&version)?;
            if ring.iter().any(|key| key.version == version) {
                return Err(KeyRingError::Twice(version));
            }
            let Ok(key) = UnboundKey::new(&AES_256_GCM, &bytes) else {
                return Err(KeyRingError::Key(version));
            };
            ring.push(Key { version, key: LessSafeKey::new(key) });
        }
        let mut keys = ring.into_iter();
        let first = keys.next().ok_or(KeyRingError::Empty)?;
        Ok(KeyRing { first, rest: keys.collect() })
    }

    /// The version of the key that seals.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.first.version
    }

    /// The versions of all keys, the one that seals first.
    #[must_use]
    pub fn versions(&self) -> Vec<String> {
        std::iter::once(&self.first).chain(&self.rest).map(|key| key.version.clone()).collect()
    }

    /// What every text begins with that the key that seals has sealed.
    fn prefix(&self) -> String {
        format!("{PREFIX}{}:", self.version())
    }

    /// Seals a text for one place: it does not open in another.
    ///
    /// Nonces are random. Below 2^32 texts under one key, a repetition is as unlikely as the
    /// standard asks (NIST SP 800-38D, 8.3): at ten writes a second that is thirteen years.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn seal(&self, place: &str, plain: &str) -> Result<String, SealError> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| SealError::Crypto)?;
        let mut bytes = plain.as_bytes().to_vec();
        let bound = Aad::from(bound_to(&self.first.version, place));
        self.first
            .key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), bound, &mut bytes)
            .map_err(|_| SealError::Crypto)?;
        let sealed = STANDARD_NO_PAD.encode([nonce.as_slice(), &bytes].concat());
        Ok(self.prefix() + &sealed)
    }

    /// Opens what was sealed for this place under any key of the ring.
    ///
    /// # Errors
    /// When it does not open.
    fn open(&self, place: &str, sealed: Sealed<'_>) -> Result<String, SealError> {
        let shut = || SealError::Shut(sealed.version.to_owned());
        let mut keys = std::iter::once(&self.first).chain(&self.rest);
        let key = keys.find(|key| key.version == sealed.version).ok_or_else(shut)?;
        let bytes = STANDARD_NO_PAD.decode(sealed.text).map_err(|_| shut())?;
        let (nonce, body) = bytes.split_first_chunk::<NONCE_LEN>().ok_or_else(shut)?;
        let mut body = body.to_vec();
        let bound = Aad::from(bound_to(&key.version, place));
        let opened = key.key.open_in_place(Nonce::assume_unique_for_key(*nonce), bound, &mut body);
        let length = opened.map_err(|_| shut())?.len();
        body.truncate(length);
        String::from_utf8(body).map_err(|_| shut())
    }
}

/// A sealed text in its parts.
#[derive(Clone, Copy)]
struct Sealed<'t> {
    version: &'t str,
    text: &'t str,
}

impl<'t> Sealed<'t> {
    /// `None` for a text in the clear, which older versions stored.
    fn of(stored: &'t str) -> Option<Sealed<'t>> {
        let (version, text) = stored.strip_prefix(PREFIX)?.split_once(':')?;
        Some(Sealed { version, text })
    }
}

/// Opens a stored text; one in the clear is as it is.
///
/// # Errors
/// When it is sealed and does not open, for want of a ring or a key.
pub fn open(ring: Option<&KeyRing>, place: &str, stored: String) -> Result<String, SealError> {
    let Some(sealed) = Sealed::of(&stored) else { return Ok(stored) };
    match ring {
        Some(ring) => ring.open(place, sealed),
        None => Err(SealError::Shut(sealed.version.to_owned())),
    }
}

/// Whether this text was sealed under the first key of the ring.
fn is_current(ring: &KeyRing, stored: &str) -> bool {
    stored.starts_with(&ring.prefix())
}

/// Format, key and place are authenticated with the text. The version has no colon.
fn bound_to(version: &str, place: &str) -> Vec<u8> {
    format!("{PREFIX}{version}:{place}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::{KeyRing, KeyRingError, SealError, open};

    fn ring(versions: &[(&str, u8)]) -> KeyRing {
        let keys = versions.iter().map(|(version, byte)| ((*version).to_owned(), [*byte; 32])).collect();
        KeyRing::new(keys).expect("a sound ring")
    }

    #[test]
    fn what_is_sealed_opens_in_its_place_only() {
        let ring = ring(&[("v1", 1)]);
        let sealed = ring.seal("gw/secrets/db", "s3cret é").expect("sealed");
        assert!(sealed.starts_with("sealed:1:v1:") && !sealed.contains("s3cret"), "{sealed}");
        assert_ne!(sealed, ring.seal("gw/secrets/db", "s3cret é").expect("sealed"), "never the same twice");
        let there = |place: &str, text: &str| open(Some(&ring), place, text.to_owned());
        assert_eq!(there("gw/secrets/db", &sealed).as_deref(), Ok("s3cret é"));
        let shut = Err(SealError::Shut("v1".to_owned()));
        assert_eq!(there("gw/secrets/other", &sealed), shut);
        for at in 12..sealed.len() {
            let mut bytes = sealed.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).expect("ASCII");
            assert!(changed == sealed || there("gw/secrets/db", &changed) == shut, "byte {at}");
        }
        assert_eq!(there("gw/secrets/db", "sealed:1:v1:AAAA"), shut);
    }

    #[test]
    fn every_key_opens_and_the_first_one_seals() {
        let old = ring(&[("v1", 1)]).seal("p", "x").expect("sealed");
        let both = ring(&[("v2", 2), ("v1", 1)]);
        assert_eq!(open(Some(&both), "p", old.clone()).as_deref(), Ok("x"));
        assert!(both.seal("p", "x").expect("sealed").starts_with("sealed:1:v2:"));
        let new = Some(ring(&[("v2", 2)]));
        assert_eq!(open(new.as_ref(), "p", old.clone()), Err(SealError::Shut("v1".to_owned())));
        let namesake = Some(ring(&[("v1", 9)]));
        assert_eq!(open(namesake.as_ref(), "p", old.clone()), Err(SealError::Shut("v1".to_owned())));
        assert_eq!(open(None, "p", old), Err(SealError::Shut("v1".to_owned())));
        assert_eq!(open(None, "p", "{\"a\":1}".to_owned()).as_deref(), Ok("{\"a\":1}"), "in the clear");
    }

    #[test]
    fn a_ring_that_cannot_work_is_refused() {
        let of = |versions: &[&str]| {
            KeyRing::new(versions.iter().map(|version| ((*version).to_owned(), [0; 32])).collect()).err()
        };
        assert_eq!(of(&[]), Some(KeyRingError::Empty));
        assert_eq!(of(&["a", "a"]), Some(KeyRingError::Twice("a".to_owned())));
        for version in ["", "a:b", "a b", &"x".repeat(65)] {
            assert_eq!(of(&[version]), Some(KeyRingError::Version(version.to_owned())));
        }
    }
}
