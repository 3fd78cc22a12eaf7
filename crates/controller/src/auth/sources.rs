// SPDX-License-Identifier: Apache-2.0
//! Where the users come from: the configuration, an identity provider, the data
//! directory, or the database that several controllers share. `run` calls it once; what
//! only the database can tell arrives later, and until then nobody is let in by it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ferrogate_base::backoff::Backoff;
use ferrogate_base::tasks::Tasks;
use ferrogate_store::Store;

use super::Auth;
use super::admin_password::{self, Admin as Administrator, SharedAdmin};
use super::basic::Basic;
use super::jwt::JwtVerifier;
use crate::config::Config;
use crate::run::StartError;

/// How long a start waits for the database to tell the administrator.
const ADMINISTRATOR_DEADLINE: Duration = Duration::from_secs(3);

/// What is known at the start.
pub struct Authenticators {
    /// Who may call.
    pub auth: Auth,
    /// The generated or configured administrator, when it is this controller's own.
    pub administrator: Option<Administrator>,
    /// The verifier whose keys are to be refreshed.
    pub jwt: Option<Arc<JwtVerifier>>,
    /// The administrator is the database's to tell: see [`administrator`].
    pub shared: bool,
}

/// The authenticators that are configured.
///
/// # Errors
/// When one of them cannot be put into effect.
pub fn authenticators(config: &Config) -> Result<Authenticators, StartError> {
    let jwt = match &config.jwt {
        Some(settings) => Some(Arc::new(JwtVerifier::new(settings.clone()).map_err(StartError::Idp)?)),
        None => None,
    };
    let mut shared = false;
    let (auth, administrator) = match &config.basic {
        None => (Auth::new(None, jwt.clone()), None),
        Some(users) if !users.is_empty() => (Auth::new(Some(Basic::new(users.clone())), jwt.clone()), None),
        // With an identity provider nobody needs a generated administrator, unless asked for.
        Some(_) if jwt.is_some() && config.admin_password.is_none() => (Auth::new(None, jwt.clone()), None),
        // One that each controller made for itself would let clients in at that one only.
        Some(_) if config.admin_password.is_none() && config.is_shared() => {
            shared = true;
            (Auth::waiting(jwt.clone()), None)
        }
        Some(_) => {
            let admin = admin_password::establish(config.admin_password.as_ref(), &config.data_dir)?;
            (Auth::new(Some(Basic::new(vec![admin.user.clone()])), jwt.clone()), Some(admin))
        }
    };
    if auth.is_open() {
        tracing::warn!(
            "no authenticator is enabled: anybody who reaches the management API may change everything"
        );
    }
    Ok(Authenticators { auth, administrator, jwt, shared })
}

/// Asks the database for the administrator until it answers; gives the file of a password
/// that was made here.
async fn learn_administrator(store: Arc<dyn Store>, data_dir: PathBuf, auth: Arc<Auth>) -> Option<PathBuf> {
    let mut backoff = Backoff::for_outages();
    loop {
        match admin_password::share(store.as_ref(), &data_dir).await {
            Ok(SharedAdmin { user, file }) => {
                match &file {
                    Some(file) => {
                        tracing::info!(file = %file.display(), "the administrator's password is here")
                    }
                    None => tracing::info!(
                        "the administrator's password was made by another controller, whose data directory has it"
                    ),
                }
                auth.learn(Basic::new(vec![user]));
                return file;
            }
            Err(error) => {
                tracing::warn!(%error, "the administrator is not known yet; nobody can log in with a password");
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }
}

/// Has the administrator learnt, and gives the file of a password that was made here, if
/// that is known soon. A start does not wait for a database: otherwise it goes on behind.
pub async fn administrator(
    store: Arc<dyn Store>,
    data_dir: &Path,
    auth: Arc<Auth>,
    back: &Tasks,
) -> Option<PathBuf> {
    let mut learning = Box::pin(learn_administrator(store, data_dir.to_owned(), auth));
    match tokio::time::timeout(ADMINISTRATOR_DEADLINE, &mut learning).await {
        Ok(file) => file,
        Err(_) => {
            let token = back.token();
            back.spawn("administrator", async move {
                tokio::select! {
                    // Dropped only when stopping for good.
                    () = token.cancelled() => {}
                    _file = learning => {}
                }
            });
            None
        }
    }
}
