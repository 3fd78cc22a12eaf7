// SPDX-License-Identifier: Apache-2.0
//! Hints by LISTEN, on a connection of their own that is made anew when it is lost.
//! A notice sent while there was none is lost with it, so every new connection begins
//! with a hint of unknown revision. The feed polls besides; nothing depends on this.

use ferrogate_base::backoff::Backoff;
use ferrogate_base::watch;
use ferrogate_model::{GatewayId, Revision};
use futures::stream;
use sqlx::postgres::{PgListener, PgPoolOptions};
use std::time::Duration;
use tokio::time::Instant;

use super::connect::{ANSWER, Server, UNEASE};
use super::{CHANNEL, PostgresStore};
use crate::ready::within;
use crate::{Hints, StoreError};

/// A connection silent for this long is asked whether it is still there: a link cut without
/// a word would otherwise be listened to for ever.
const SILENCE: Duration = Duration::from_secs(30);

struct Listening {
    server: Server,
    doubts: watch::Receiver<Option<Instant>>,
    gateway: GatewayId,
    timeout: Duration,
    listener: Option<PgListener>,
    backoff: Backoff,
}

impl PostgresStore {
    pub(super) async fn listen(&self) -> Result<Hints, StoreError> {
        let mut listening = Listening {
            doubts: self.server.doubts(),
            server: self.server.clone(),
            gateway: self.gateway.clone(),
            timeout: self.options.timeout,
            listener: None,
            backoff: Backoff::for_outages(),
        };
        listening.listener = Some(listening.connect().await?);
        Ok(Box::pin(stream::unfold(listening, |mut listening| async move {
            let hint = listening.next().await;
            Some((hint, listening))
        })))
    }
}

impl Listening {
    async fn connect(&self) -> Result<PgListener, StoreError> {
        let connecting = async {
            // A pool of one that the listener takes along: it must not compete for the
            // connections of the calls.
            let pool = PgPoolOptions::new()
                .max_connections(1)
                .max_lifetime(None)
                .idle_timeout(None)
                .acquire_timeout(self.timeout)
                .connect_lazy_with(self.server.connect.clone());
            let mut listener = PgListener::connect_with(&pool).await?;
            // Reconnecting is done here, where it is hinted at.
            listener.eager_reconnect(false);
            listener.listen(CHANNEL).await?;
            Ok(listener)
        };
        within(self.timeout, self.server.unless_gone(UNEASE, connecting)).await
    }

    async fn next(&mut self) -> Option<Revision> {
        loop {
            let Some(listener) = &mut self.listener else {
                match self.connect().await {
                    Ok(listener) => {
                        self.listener = Some(listener);
                        return None;
                    }
                    Err(error) => {
                        tracing::debug!(%error, "listening for changes failed");
                        tokio::time::sleep(self.backoff.next_delay()).await;
                        continue;
                    }
                }
            };
            let heard = tokio::select! {
                biased;
                // A notice that is dropped half-read is read by the next call.
                heard = listener.try_recv() => Some(heard),
                // Other connections were found dead: perhaps this one is.
                _doubted = self.doubts.changed() => None,
                () = tokio::time::sleep(SILENCE) => None,
            };
            match heard {
                Some(Ok(Some(notice))) => {
                    self.backoff.reset();
                    if let Some(revision) = parse(notice.payload(), &self.gateway) {
                        return Some(revision);
                    }
                }
                Some(lost) => {
                    tracing::debug!(error = ?lost.err(), "the connection that listens is lost");
                    self.listener = None;
                }
                None => {
                    let alive = async { Ok(sqlx::query("SELECT 1").execute(&mut *listener).await?) };
                    if within(ANSWER, alive).await.is_err() {
                        self.listener = None;
                    }
                }
            }
        }
    }
}

/// The revision a notice tells of, if it is about this gateway.
fn parse(payload: &str, gateway: &GatewayId) -> Option<Revision> {
    let (named, revision) = payload.rsplit_once(':')?;
    if named != gateway.as_str() {
        return None;
    }
    revision.parse().ok().map(Revision)
}

#[cfg(test)]
mod tests {
    use super::parse;
    use ferrogate_model::{GatewayId, Revision};

    #[test]
    fn only_notices_about_this_gateway_count() {
        let gateway = GatewayId::from("eu:west");
        for (payload, expected) in [
            ("eu:west:12", Some(Revision(12))),
            ("eu:12", None),
            ("12", None),
            ("eu:west:x", None),
            ("", None),
        ] {
            assert_eq!(parse(payload, &gateway), expected, "{payload:?}");
        }
    }
}
