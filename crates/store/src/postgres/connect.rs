// SPDX-License-Identifier: Apache-2.0
//! Hearing soon that the server is gone. The pool takes a refused connection for a server
//! about to start, and TCP a silent one for a slow one; a writer whose database is gone must
//! be told at once, and a follower must not wait on a dead connection when the database is
//! back. So a call that is kept waiting asks the server's address itself and gives up when
//! nobody answers there, and a connection is asked before it is used again. Every
//! transaction of this store begins here.

use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ferrogate_base::watch;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection as _, Postgres, Transaction};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep, timeout};

use super::PostgresStore;
use crate::StoreError;
use crate::fault::unavailable;

/// A connection that is there is handed out well within this.
const PATIENCE: Duration = Duration::from_millis(50);

/// A call that takes longer than this may wait for a lock or a disk, or for nobody: it asks.
pub(super) const UNEASE: Duration = Duration::from_millis(500);

/// A server that is there answers a question of one message within this, however busy.
pub(super) const ANSWER: Duration = Duration::from_secs(1);

/// The request to speak TLS: the one message that a server answers, with a byte, before it
/// knows who asks. It takes no note of whoever goes away then.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// What sees one state of the database throughout.
const READ: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// The server's address, and when nobody answered there last.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) connect: PgConnectOptions,
    doubt: Arc<watch::Sender<Option<Instant>>>,
}

impl PostgresStore {
    /// Begins a transaction that may write.
    pub(super) async fn begin(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        self.server.unless_gone(PATIENCE, async { Ok(self.pool.begin().await?) }).await
    }

    /// Begins a transaction that reads.
    pub(super) async fn begin_snapshot(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        self.server.unless_gone(PATIENCE, async { Ok(self.pool.begin_with(READ).await?) }).await
    }
}

impl Server {
    pub(super) fn new(connect: PgConnectOptions) -> Server {
        Server { connect, doubt: Arc::new(watch::Sender::new(None)) }
    }

    /// The call's result, unless it is not there within `patience` and the server does not
    /// answer anybody any more. The call has its own deadline.
    pub(super) async fn unless_gone<T>(
        &self,
        patience: Duration,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        tokio::select! {
            biased;
            // Either may be dropped: a connection on its way goes back to the pool, a
            // transaction is rolled back, and the other only looks.
            done = call => done,
            gone = self.gone(patience) => Err(gone),
        }
    }

    /// Ends when nobody answers at the server's address, and only then.
    async fn gone(&self, patience: Duration) -> StoreError {
        sleep(patience).await;
        match timeout(ANSWER, reach(&self.connect)).await {
            Ok(Ok(())) => pending().await,
            Ok(Err(error)) => unavailable(format!("the server cannot be connected to: {error}")),
            Err(_) => {
                self.doubted();
                unavailable(format!("the server accepts and says nothing for {} s", ANSWER.as_secs()))
            }
        }
    }

    /// Whether a connection that was idle for so long may be used. When one is found dead, all
    /// that have not been used since are taken for dead: asking each would take a second each.
    pub(super) async fn tested(
        &self,
        connection: &mut PgConnection,
        idle: Duration,
    ) -> Result<bool, sqlx::Error> {
        let silent = || sqlx::Error::Io(io::ErrorKind::TimedOut.into());
        let since = Instant::now().checked_sub(idle);
        if !idle.is_zero() && self.doubt.get().is_some_and(|doubt| since.is_none_or(|since| since <= doubt)) {
            return Err(silent());
        }
        match timeout(ANSWER, connection.ping()).await {
            Ok(answered) => answered.map(|()| true),
            Err(_) => {
                self.doubted();
                Err(silent())
            }
        }
    }

    /// Whoever listens on a connection hears when others were found dead.
    pub(super) fn doubts(&self) -> watch::Receiver<Option<Instant>> {
        self.doubt.subscribe()
    }

    fn doubted(&self) {
        self.doubt.set(Some(Instant::now()));
    }
}

/// Connects, hears whether anybody is there, and goes away.
async fn reach(server: &PgConnectOptions) -> io::Result<()> {
    let (host, port) = (server.get_host(), server.get_port());
    let by_host = host.starts_with('/').then(|| Path::new(host));
    match server.get_socket().map(PathBuf::as_path).or(by_host) {
        Some(directory) => {
            answers(UnixStream::connect(directory.join(format!(".s.PGSQL.{port}"))).await?).await
        }
        None => answers(TcpStream::connect((host, port)).await?).await,
    }
}

async fn answers(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    stream.write_all(&SSL_REQUEST).await?;
    stream.read_u8().await.map(drop)
}
