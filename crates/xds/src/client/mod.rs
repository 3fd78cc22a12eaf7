// SPDX-License-Identifier: Apache-2.0
//! The receiving end: keeps a sink in step with whichever of its controllers answers,
//! those of its own zone first. The runtime makes a [`Client`] of its list of controllers;
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

/// A client whose options can work.
#[derive(Clone)]
pub struct Client {
    node: NodeInfo,
    dials: Vec<Dial>,
    order: Order,
    silence_timeout: Duration,
    healthy_after: Duration,
}

/// Options that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is nobody to connect to.
    #[error("no controller is configured")]
    NoControllers,
    /// The text is not a URL, or one that leads nowhere.
    #[error("'{url}' is not a URL: {reason}")]
    BadUrl {
        /// The text.
        url: String,
        /// Why.
        reason: String,
    },
    /// The URL has no scheme, or another one.
    #[error("'{0}' must begin with http:// or https://")]
    NotAUrl(String),
    /// Nothing says which certificates to trust.
    #[error("'{0}' needs a certificate authority to trust")]
    NoTrust(String),
    /// The certificates cannot be used.
    #[error("the certificates cannot be used: {}", link::root(.0))]
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

impl Controller {
    /// Whether it can be dialled at all. `trusts` says whether there is an authority for certificates.
    ///
    /// # Errors
    /// As [`Client::try_new`] would say it.
    pub fn check(&self, trusts: bool) -> Result<(), ClientError> {
        link::address(&self.url, trusts).map(|_| ())
    }
}

impl Client {
    /// With these options.
    ///
    /// # Errors
    /// When they cannot work. Nothing fails later.
    pub fn try_new(options: ClientOptions) -> Result<Client, ClientError> {
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
        Ok(Client {
            order: Order::new(options.node.zone.clone(), zones, backoff),
            node: options.node,
            dials,
            silence_timeout: options.silence_timeout,
            healthy_after: options.healthy_after,
        })
    }

    /// Keeps the sink in step until `shutdown` resolves. An update at the sink is finished first.
    pub async fn run(self, sink: Arc<dyn Sink>, shutdown: impl Future<Output = ()> + Send) {
        let runner = Runner {
            node: self.node,
            sink,
            dials: self.dials,
            order: self.order,
            silence_timeout: self.silence_timeout,
            healthy_after: self.healthy_after,
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
    }
}

/// A client that is made and run at once.
///
/// # Errors
/// As [`Client::try_new`]; never later.
pub async fn run(
    options: ClientOptions,
    sink: Arc<dyn Sink>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ClientError> {
    let client = Client::try_new(options)?;
    client.run(sink, shutdown).await;
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

    #[test]
    fn a_url_that_no_try_would_get_through_to_is_told_beforehand() {
        let told = |url: &str, trusts| {
            let controller = Controller { url: url.to_owned(), zone: None };
            controller.check(trusts).err().map(|error| error.to_string()).unwrap_or_default()
        };
        for good in
            ["http://c1", "http://c1:18000/", "http://10.0.0.1:65535", "http://[::1]:1", "http://u@c1:1"]
        {
            assert_eq!(told(good, false), "", "{good}");
        }
        for bad in [
            "",
            "http://",
            "http://:18000",
            "http://u@:1",
            "http://[]:1",
            "http://h:1:2",
            "http://c1:99999",
            "http://c1:0",
            "http://c1:x",
            "http://c1:",
            "not a url",
        ] {
            assert!(told(bad, true).contains("is not a URL: "), "{bad}: {}", told(bad, true));
        }
        for other in ["c1:18000", "ftp://c1:1"] {
            assert!(told(other, true).contains("http:// or https://"), "{other}: {}", told(other, true));
        }
        assert_eq!(told("https://c1:18000", true), "");
        assert!(told("https://c1:18000", false).contains("certificate authority"));
    }
}
