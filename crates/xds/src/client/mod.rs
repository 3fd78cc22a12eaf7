// SPDX-License-Identifier: Apache-2.0
//! The receiving end: keeps a sink in step with whichever of its controllers answers,
//! those of its own zone first. Called by the runtime with its list of controllers;
//! [`session`] is where the protocol is, `run` drives it.

mod link;
mod order;
mod run;
pub mod session;

use std::convert::Infallible;
use std::future::Future;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_base::backoff::{Backoff, BackoffError};
use ferrogate_base::secret::Secret;
use tokio_util::sync::CancellationToken;

use crate::node::NodeInfo;
use crate::sink::Sink;
use crate::tls::ClientTls;
use crate::transport::Dialer;
use link::Dial;
use order::Order;
use run::Runner;

/// One controller, as configured: `URL` or `zone=URL`. A zone that is not given is
/// learned at the first contact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    /// `http://…` or `https://…`.
    pub url: String,
    /// Its zone, when known.
    pub zone: Option<String>,
}

/// How to connect.
pub struct ClientOptions {
    /// The controllers to choose from.
    pub controllers: Vec<Controller>,
    /// What this runtime is.
    pub node: NodeInfo,
    /// What it presents to a controller that asks for a join token.
    pub join_token: Option<Secret>,
    /// Needed for `https` URLs.
    pub tls: Option<ClientTls>,
    /// Makes the connections, in the clear; TCP unless given.
    pub dialer: Option<Arc<dyn Dialer>>,
    /// The delays between rounds through the list: the longest first one, and the longest.
    /// Within a round the next controller is tried at once.
    pub backoff: (Duration, Duration),
    /// A controller that says nothing for this long is given up; it confirms its position
    /// more often than that.
    pub silence_timeout: Duration,
    /// A stream that lives this long, or brings the sink up to date, starts the backoff over.
    pub healthy_after: Duration,
}

/// Options that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is nobody to connect to.
    #[error("no controller is configured")]
    NoControllers,
    /// The text is not a URL.
    #[error("'{url}' is not a URL")]
    BadUrl {
        /// The text.
        url: String,
        /// Why.
        source: tonic::transport::Error,
    },
    /// The URL has no scheme, or another one.
    #[error("'{0}' must begin with http:// or https://")]
    NotAUrl(String),
    /// Nothing says which certificates to trust.
    #[error("'{0}' needs a certificate authority to trust")]
    NoTrust(String),
    /// The certificates cannot be used.
    #[error("the certificates cannot be used")]
    Tls(#[source] tonic::transport::Error),
    /// The token cannot travel in a header.
    #[error("the join token must consist of visible ASCII characters")]
    BadToken,
    /// The delays make no sense.
    #[error("the reconnect delays cannot be used: {0}")]
    Backoff(#[from] BackoffError),
}

impl ClientOptions {
    /// With the defaults for everything that is not identity.
    #[must_use]
    pub fn new(controllers: Vec<Controller>, node: NodeInfo) -> ClientOptions {
        ClientOptions {
            controllers,
            node,
            join_token: None,
            tls: None,
            dialer: None,
            backoff: (Duration::from_millis(100), Duration::from_secs(2)),
            silence_timeout: Duration::from_secs(25),
            healthy_after: Duration::from_secs(10),
        }
    }
}

impl FromStr for Controller {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Controller, Infallible> {
        // A URL may have a '=' of its own, but none before its scheme ends.
        Ok(match text.split_once('=') {
            Some((zone, url)) if !zone.contains(':') => {
                Controller { url: url.to_owned(), zone: Some(zone.to_owned()) }
            }
            _ => Controller { url: text.to_owned(), zone: None },
        })
    }
}

/// Keeps the sink in step until `shutdown` resolves. An update at the sink is finished first.
///
/// # Errors
/// At once, when the options cannot work; never later.
pub async fn run(
    options: ClientOptions,
    sink: Arc<dyn Sink>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ClientError> {
    if options.controllers.is_empty() {
        return Err(ClientError::NoControllers);
    }
    let dial = |controller| {
        let dial = Dial::try_new(controller, options.tls.as_ref(), options.join_token.as_ref())?;
        Ok::<_, ClientError>(dial.through(options.dialer.clone()))
    };
    let dials = options.controllers.iter().map(dial).collect::<Result<Vec<_>, _>>()?;
    let (initial, max) = options.backoff;
    let backoff = Backoff::try_new(initial, max)?;
    let zones = options.controllers.into_iter().map(|controller| controller.zone).collect();
    let order = Order::new(options.node.zone.clone(), zones, backoff);
    let runner = Runner {
        node: options.node,
        sink,
        dials,
        order,
        silence_timeout: options.silence_timeout,
        healthy_after: options.healthy_after,
        announced: false,
        distrust: false,
    };
    let stop = CancellationToken::new();
    let mut running = std::pin::pin!(runner.run(stop.clone()));
    tokio::select! {
        biased;
        () = &mut running => {}
        () = shutdown => {
            stop.cancel();
            running.await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Controller;

    #[test]
    fn a_zone_may_stand_before_the_url() {
        for (text, zone, url) in [
            ("http://c1:18000", None, "http://c1:18000"),
            ("a=http://c1:18000", Some("a"), "http://c1:18000"),
            ("http://c1:18000/?x=y", None, "http://c1:18000/?x=y"),
        ] {
            let expected = Controller { url: url.to_owned(), zone: zone.map(str::to_owned) };
            assert_eq!(text.parse(), Ok(expected));
        }
    }
}
