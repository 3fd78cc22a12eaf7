// SPDX-License-Identifier: Apache-2.0
//! Basic authentication (contract 1.3). Hash checks are slow on purpose, so they run
//! off the async threads, few at a time, and a success is remembered for a short while
//! under a keyed hash of the credentials, never the credentials themselves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use argon2::Argon2;
use argon2::password_hash::PasswordVerifier;
use argon2::password_hash::phc::PasswordHash;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ferrogate_base::offload::{self, Threads};
use ferrogate_base::secret::Secret;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::{Denied, Principal};

/// Slow checks under way at once; further ones wait. Each costs tens of MiB and milliseconds.
const CONCURRENT_CHECKS: usize = 2;
/// The longest wait for a slow check's turn; then the attempt is refused as overload.
const CHECK_DEADLINE: Duration = Duration::from_secs(5);
/// How long a success is remembered, and so how long a removed user may linger.
const REMEMBER_FOR: Duration = Duration::from_secs(60);
/// Successes remembered; when full, all are forgotten and checked anew.
const MAX_REMEMBERED: usize = 1_024;

/// A user of the management API.
#[derive(Clone)]
pub struct User {
    /// Compared case-insensitively.
    pub name: String,
    /// The password, or its hash.
    pub password: Password,
    /// Its roles.
    pub roles: Vec<String>,
}

/// How a user's password is known.
#[derive(Clone)]
pub enum Password {
    /// As text.
    Plain(Secret),
    /// As an argon2id or bcrypt hash, told apart by its prefix.
    Hashed(Secret),
}

/// The Basic authenticator.
pub struct Basic {
    users: Vec<User>,
    checks: Arc<Semaphore>,
    /// Makes remembered hashes worthless outside this process.
    key: [u8; 32],
    remembered: Mutex<HashMap<[u8; 32], Remembered>>,
}

struct Remembered {
    principal: Arc<Principal>,
    until: Instant,
}

impl Basic {
    /// An authenticator over these users.
    #[must_use]
    pub fn new(users: Vec<User>) -> Basic {
        let mut key = [0; 32];
        for half in key.chunks_exact_mut(16) {
            half.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        }
        Basic {
            users,
            checks: Arc::new(Semaphore::new(CONCURRENT_CHECKS)),
            key,
            remembered: Mutex::default(),
        }
    }

    /// The principal of credentials verified a moment ago.
    pub fn recall(&self, encoded: &str) -> Option<Arc<Principal>> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let known = remembered.get(&self.fingerprint(encoded))?;
        (known.until > Instant::now()).then(|| Arc::clone(&known.principal))
    }

    /// Checks credentials, encoded as they stand in the header.
    ///
    /// # Errors
    /// When they are malformed or wrong, or too many checks wait.
    pub async fn check(&self, encoded: &str) -> Result<Arc<Principal>, Denied> {
        let decoded = STANDARD.decode(encoded.trim()).map_err(|_| Denied::Failed)?;
        let decoded = String::from_utf8(decoded).map_err(|_| Denied::Failed)?;
        let (name, password) = decoded.split_once(':').ok_or(Denied::Failed)?;
        let user = self.users.iter().find(|user| user.name.to_lowercase() == name.to_lowercase());
        // An unknown name costs what a known one does, so that names cannot be told by time.
        let against =
            user.or_else(|| self.users.iter().find(|user| matches!(user.password, Password::Hashed(_))));
        let matches = match against.map(|user| &user.password) {
            None => false,
            Some(Password::Plain(expected)) => equal(expected.expose(), password),
            Some(Password::Hashed(hash)) => self.check_hash(hash.clone(), Secret::new(password)).await?,
        };
        let Some(user) = user.filter(|_| matches) else { return Err(Denied::Failed) };
        let principal = Arc::new(Principal { name: user.name.clone(), roles: Some(user.roles.clone()) });
        self.remember(encoded, &principal);
        Ok(principal)
    }

    async fn check_hash(&self, hash: Secret, password: Secret) -> Result<bool, Denied> {
        let turn = Arc::clone(&self.checks).acquire_owned();
        let turn = tokio::time::timeout(CHECK_DEADLINE, turn).await.map_err(|_| Denied::Overloaded)?;
        let turn = turn.map_err(|_| Denied::Overloaded)?;
        let check = offload::carry(&Threads, "checking a password", move || {
            // Held until the check ends even when the caller has gone away.
            let _turn = turn;
            verify(hash.expose(), password.expose())
        });
        check.await.map_err(|_| Denied::Overloaded)
    }

    fn remember(&self, encoded: &str, principal: &Arc<Principal>) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= MAX_REMEMBERED {
            remembered.clear();
        }
        let until = Instant::now() + REMEMBER_FOR;
        remembered.insert(self.fingerprint(encoded), Remembered { principal: Arc::clone(principal), until });
    }

    fn fingerprint(&self, encoded: &str) -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update(self.key);
        hasher.update(encoded.as_bytes());
        hasher.finalize().into()
    }
}

/// Compares digests, so that neither content nor length shows in the time taken.
fn equal(expected: &str, given: &str) -> bool {
    let digest = |text: &str| <[u8; 32]>::from(Sha256::digest(text.as_bytes()));
    subtle::ConstantTimeEq::ct_eq(&digest(expected)[..], &digest(given)[..]).into()
}

/// Any other hash format fails (contract 1.3).
pub(super) fn verify(hash: &str, password: &str) -> bool {
    match Format::of(hash) {
        Some(Format::Argon2id) => {
            let Ok(parsed) = PasswordHash::new(hash) else { return false };
            Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok()
        }
        Some(Format::Bcrypt) => bcrypt::verify(password, hash).unwrap_or(false),
        None => false,
    }
}

/// Whether this is a hash that some password could match.
pub fn is_hash(text: &str) -> bool {
    match Format::of(text) {
        Some(Format::Argon2id) => PasswordHash::new(text).is_ok_and(|parsed| parsed.hash.is_some()),
        Some(Format::Bcrypt) => text.parse::<bcrypt::HashParts>().is_ok(),
        None => false,
    }
}

/// A format of password hashes, told by its prefix.
enum Format {
    Argon2id,
    Bcrypt,
}

impl Format {
    fn of(hash: &str) -> Option<Format> {
        if hash.starts_with("$argon2id$") {
            return Some(Format::Argon2id);
        }
        ["$2a$", "$2b$", "$2y$"].iter().any(|prefix| hash.starts_with(prefix)).then_some(Format::Bcrypt)
    }
}

#[cfg(test)]
mod tests {
    use argon2::Argon2;
    use argon2::password_hash::PasswordHasher;
    use argon2::password_hash::phc::PasswordHash;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use ferrogate_base::secret::Secret;

    use super::{Basic, Password, User, is_hash, verify};

    fn argon2id(password: &str) -> String {
        let hash: PasswordHash = Argon2::default().hash_password(password.as_bytes()).expect("hashable");
        hash.to_string()
    }

    fn user(name: &str, password: Password) -> User {
        User { name: name.to_owned(), password, roles: vec!["admin".to_owned()] }
    }

    fn encode(pair: &str) -> String {
        STANDARD.encode(pair)
    }

    #[tokio::test]
    async fn each_way_to_know_a_password_works_and_names_ignore_case() {
        let basic = Basic::new(vec![
            user("Plain", Password::Plain(Secret::new("p w:d"))),
            user("argon", Password::Hashed(Secret::new(argon2id("a")))),
            user("bcrypt", Password::Hashed(Secret::new(bcrypt::hash("b", 4).expect("hashable")))),
            user("other", Password::Hashed(Secret::new("$1$md5"))),
        ]);
        for (pair, name) in [
            ("plain:p w:d", Some("Plain")),
            ("ARGON:a", Some("argon")),
            ("bcrypt:b", Some("bcrypt")),
            ("plain:", None),
            ("argon:b", None),
            ("bcrypt:a", None),
            ("other:md5", None),
            ("nobody:a", None),
            ("no-colon", None),
        ] {
            let found = basic.check(&encode(pair)).await.ok().map(|principal| principal.name.clone());
            assert_eq!(found.as_deref(), name, "{pair}");
            assert_eq!(basic.recall(&encode(pair)).is_some(), name.is_some(), "{pair}");
        }
        assert!(basic.check("not base64!").await.is_err());
    }

    #[test]
    fn a_hash_is_told_from_a_text() {
        for text in [argon2id("a"), bcrypt::hash("b", 4).expect("hashable")] {
            assert!(is_hash(&text), "{text}");
            assert!(!is_hash(text.get(..20).expect("longer")), "{text} cut off");
        }
        assert!(!is_hash("secret") && !is_hash("$1$md5") && !is_hash(""));
    }

    #[test]
    fn only_known_formats_verify() {
        assert!(!verify("", ""));
        assert!(!verify("$argon2i$v=19$m=16,t=2,p=1$c2FsdHNhbHQ$abc", "x"));
        assert!(!verify("$2x$04$abc", "x"));
    }
}
