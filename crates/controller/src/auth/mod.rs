// SPDX-License-Identifier: Apache-2.0
//! Who is calling the management API, and may they (contract 1.3): Basic first, then
//! JWT, chosen by the scheme of the header. It never sees a request's body and never
//! logs a credential. `api::middleware` calls it for every known path.

pub mod admin_password;
pub mod basic;
pub mod jwt;
pub mod roles;
pub mod sources;
pub mod throttle;

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::Method;

use basic::Basic;
use jwt::JwtVerifier;
use throttle::Throttle;

/// The user name of a gateway that authenticates nobody (contract 1.3).
const NO_AUTH_USER: &str = "sys_noauth_user";

/// Who is calling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The user name or the token's subject; the author of what it changes.
    pub name: String,
    /// Its roles; `None` when the gateway authenticates nobody and so checks none.
    pub roles: Option<Vec<String>>,
}

/// Why a call is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// No credentials that an enabled authenticator understands.
    Missing,
    /// Credentials that are wrong.
    Failed,
    /// Too many wrong ones from this source.
    TooMany {
        /// When to come back.
        retry_after: Duration,
    },
    /// Too many checks are waiting.
    Overloaded,
    /// What credentials are checked against is not known yet: the users, or the provider's keys.
    NotYet,
    /// The principal lacks the role.
    Forbidden,
}

/// The authenticators of a gateway.
pub struct Auth {
    /// Empty until the users are known, which a shared administrator is only when the
    /// database has been asked.
    basic: Option<OnceLock<Basic>>,
    jwt: Option<Arc<JwtVerifier>>,
    throttle: Throttle,
}

impl Auth {
    /// With neither, every call is let in.
    #[must_use]
    pub fn new(basic: Option<Basic>, jwt: Option<Arc<JwtVerifier>>) -> Auth {
        Auth { basic: basic.map(OnceLock::from), jwt, throttle: Throttle::default() }
    }

    /// With users that [`Auth::learn`] tells later; until then nobody is let in.
    #[must_use]
    pub fn waiting(jwt: Option<Arc<JwtVerifier>>) -> Auth {
        Auth { basic: Some(OnceLock::new()), jwt, throttle: Throttle::default() }
    }

    /// Sets the users of an authenticator that waits for them; others keep theirs.
    pub fn learn(&self, users: Basic) {
        if let Some(basic) = &self.basic {
            // Set before: the first users stay.
            basic.set(users).ok();
        }
    }

    /// Whether anybody may do anything.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.basic.is_none() && self.jwt.is_none()
    }

    /// Finds out who is calling.
    ///
    /// # Errors
    /// When nobody known is.
    pub async fn authenticate(&self, header: Option<&str>, source: IpAddr) -> Result<Arc<Principal>, Denied> {
        if self.is_open() {
            return Ok(Arc::new(Principal { name: NO_AUTH_USER.to_owned(), roles: None }));
        }
        let header = header.unwrap_or_default();
        if let (Some(basic), Some(encoded)) = (&self.basic, header.strip_prefix("Basic ")) {
            let basic = basic.get().ok_or(Denied::NotYet)?;
            if let Some(principal) = basic.recall(encoded) {
                return Ok(principal);
            }
            return self.attempt(source, basic.check(encoded)).await;
        }
        if let (Some(jwt), Some(token)) = (&self.jwt, header.strip_prefix("Bearer ")) {
            return self.attempt(source, jwt.check(token.trim())).await;
        }
        Err(Denied::Missing)
    }

    /// Whether this principal may make this call; `path` is relative to the base path.
    ///
    /// # Errors
    /// When it may not.
    pub fn authorize(principal: &Principal, method: &Method, path: &str) -> Result<(), Denied> {
        Auth::require(principal, roles::required(method, path))
    }

    /// Whether this principal has one of these roles.
    ///
    /// # Errors
    /// When it has none of them.
    pub fn require(principal: &Principal, required: &[&str]) -> Result<(), Denied> {
        let Some(roles) = &principal.roles else { return Ok(()) };
        if roles.iter().any(|role| required.contains(&role.as_str())) {
            Ok(())
        } else {
            Err(Denied::Forbidden)
        }
    }

    async fn attempt(
        &self,
        source: IpAddr,
        check: impl Future<Output = Result<Arc<Principal>, Denied>>,
    ) -> Result<Arc<Principal>, Denied> {
        let wait = self
            .throttle
            .turn(source, Instant::now())
            .map_err(|too_many| Denied::TooMany { retry_after: too_many.retry_after })?;
        tokio::time::sleep(wait).await;
        let outcome = check.await;
        match &outcome {
            Ok(_) => self.throttle.succeeded(source),
            Err(Denied::Failed) => self.throttle.failed(source, Instant::now()),
            Err(
                Denied::Missing
                | Denied::TooMany { .. }
                | Denied::Overloaded
                | Denied::NotYet
                | Denied::Forbidden,
            ) => {}
        }
        outcome
    }
}
