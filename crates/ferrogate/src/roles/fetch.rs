// SPDX-License-Identifier: Apache-2.0
//! Gets the documents that policies need from elsewhere, over HTTP and from files, in one task on
//! the role's executor and never on a worker. It knows no format and no schedule: policies
//! say when, and read what comes.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use ferrogate_base::tasks::Tasks;
use ferrogate_policy::Fetch;
use ferrogate_policy::fetch::{Done, Order, Source};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;

/// Orders that wait to be begun. When full an order fails at once, and whoever gave it tries again.
const WAITING: usize = 256;

/// How long the task may take to end: it drops what is under way.
pub const STOP: Duration = Duration::from_secs(1);

/// Takes orders. Dropping it ends the task.
pub struct Fetcher {
    orders: mpsc::Sender<(Order, Done)>,
}

impl Fetcher {
    /// Starts the task.
    pub fn start(tasks: &Tasks) -> Fetcher {
        let (orders, mut incoming) = mpsc::channel::<(Order, Done)>(WAITING);
        let token = tasks.token();
        tasks.spawn("documents of policies", async move {
            let mut under_way = FuturesUnordered::new();
            loop {
                tokio::select! {
                    // All arms only wait: an order leaves the channel when it is begun, and what is
                    // under way stays where it is.
                    () = token.cancelled() => return,
                    order = incoming.recv() => match order {
                        Some((order, done)) => {
                            under_way.push(async move { done(carry_out(order).await) });
                        }
                        // The runtime is gone.
                        None => return,
                    },
                    Some(()) = under_way.next() => {}
                }
            }
        });
        Fetcher { orders }
    }
}

impl Fetch for Fetcher {
    fn start(&self, order: Order, done: Done) {
        if let Err(error) = self.orders.try_send((order, done)) {
            let (_, done) = error.into_inner();
            done(Err("too many documents are being fetched".to_owned()));
        }
    }
}

async fn carry_out(order: Order) -> Result<Bytes, String> {
    tokio::time::sleep(order.delay).await;
    let got = tokio::time::timeout(order.timeout, get(&order.source, order.max_bytes)).await;
    let got = got.with_context(|| format!("no answer within {:?}", order.timeout));
    got.and_then(|got| got).map_err(|error| format!("{error:#}"))
}

async fn get(source: &Source, max_bytes: usize) -> anyhow::Result<Bytes> {
    match source {
        Source::File(path) => {
            let size = tokio::fs::metadata(path).await?.len();
            ensure!(size <= max_bytes as u64, "larger than {max_bytes} bytes");
            Ok(tokio::fs::read(path).await?.into())
        }
        Source::Http { uri, ca_file, skip_tls_verify } => {
            // A client for every order: they are minutes apart, and a certificate file may change.
            let mut client = reqwest::Client::builder().danger_accept_invalid_certs(*skip_tls_verify);
            if let Some(path) = ca_file {
                let pem = tokio::fs::read(path).await.with_context(|| path.clone())?;
                for certificate in reqwest::Certificate::from_pem_bundle(&pem)? {
                    client = client.add_root_certificate(certificate);
                }
            }
            let mut response = client.build()?.get(uri).send().await?.error_for_status()?;
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await? {
                ensure!(body.len() + chunk.len() <= max_bytes, "larger than {max_bytes} bytes");
                body.extend_from_slice(&chunk);
            }
            Ok(body.into())
        }
    }
}
