// SPDX-License-Identifier: Apache-2.0
//! Where a controller listens: every address is bound before anything starts, so that a
//! taken port is one clear error, and served until the front is told to stop. What is
//! served is the routers' business.

use std::net::SocketAddr;

use axum::Router;
use axum::middleware::from_fn;
use ferrogate_base::listen::Listener;
use ferrogate_base::tasks::Tasks;
use tokio::net::TcpListener;

use super::StartError;
use crate::config::Config;
use crate::listener::{self, Limited, Peer};

const MANAGEMENT: Listener = Listener { key: "controller.listen.management", purpose: "management API" };
const ADMIN: Listener = Listener { key: "controller.listen.admin", purpose: "admin server" };
const METRICS: Listener = Listener { key: "controller.listen.metrics", purpose: "metrics server" };
const STREAM: Listener = Listener { key: "controller.listen.stream", purpose: "config stream" };

/// Where a controller listens; `None` where it does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// The management API.
    pub management: Option<SocketAddr>,
    /// The admin server.
    pub admin: Option<SocketAddr>,
    /// The metrics server.
    pub metrics: Option<SocketAddr>,
    /// The config stream.
    pub stream: Option<SocketAddr>,
}

/// The listeners, each bound before anything is started.
pub(super) struct Bound {
    pub management: Option<TcpListener>,
    pub admin: Option<TcpListener>,
    pub metrics: Option<TcpListener>,
    pub stream: Option<TcpListener>,
}

impl Bound {
    pub async fn bind(config: &Config) -> Result<(Bound, Addresses), StartError> {
        let bound = Bound {
            management: bind(MANAGEMENT, config.management).await?,
            admin: bind(ADMIN, config.admin).await?,
            metrics: bind(METRICS, config.metrics).await?,
            stream: bind(STREAM, config.stream).await?,
        };
        let address =
            |listener: &Option<TcpListener>| listener.as_ref().and_then(|one| one.local_addr().ok());
        let addresses = Addresses {
            management: address(&bound.management),
            admin: address(&bound.admin),
            metrics: address(&bound.metrics),
            stream: address(&bound.stream),
        };
        Ok((bound, addresses))
    }
}

async fn bind(listener: Listener, address: Option<SocketAddr>) -> Result<Option<TcpListener>, StartError> {
    let Some(address) = address else { return Ok(None) };
    let bound = TcpListener::bind(address).await;
    bound.map(Some).map_err(|error| listener.failed(address, &error).into())
}

/// Serves these routes until the front is told to stop.
pub(super) fn http(front: &Tasks, what: &'static str, listener: Option<TcpListener>, router: Router) {
    let Some(listener) = listener else { return };
    let token = front.token();
    front.spawn(what, async move {
        let router = router.layer(from_fn(listener::arrived));
        let service = router.into_make_service_with_connect_info::<Peer>();
        let served = axum::serve(Limited::new(listener), service)
            .with_graceful_shutdown(token.cancelled_owned())
            .await;
        if let Err(error) = served {
            tracing::error!(%error, what, "stopped serving");
        }
    });
}
