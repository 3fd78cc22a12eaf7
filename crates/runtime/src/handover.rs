// SPDX-License-Identifier: Apache-2.0
//! Handing listening sockets from a running runtime to its successor, so that a binary is
//! replaced without a refused connection. The sockets themselves are passed on, over a Unix
//! socket: what the kernel has queued on them belongs to whoever accepts next, and nothing
//! is lost as it would be when one process closes and another binds. The successor takes
//! nothing until it is ready, then says so, and the predecessor drains. `run` calls it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ferrogate_base::tasks::Tasks;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

/// The kernel passes no more descriptors in one message.
const MAX_SOCKETS: usize = 253;

/// Names of that many sockets fit in.
const NAMES_BYTES: usize = 8 * 1024;

/// Both ends are on this machine; who does not answer within this is not a runtime.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the successor says when it serves.
const SERVING: u8 = b'S';

/// What a listening socket is for.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// HTTP traffic.
    Http,
    /// HTTPS traffic.
    Https,
    /// The admin door.
    Admin,
    /// The metrics door.
    Metrics,
    /// The readiness door.
    Readiness,
}

/// What a successor got, and from whom.
pub struct Inherited {
    /// The sockets, which listen already.
    pub sockets: Vec<(Purpose, TcpListener)>,
    predecessor: UnixStream,
}

/// Why nothing could be taken over although somebody is there.
#[derive(Debug, thiserror::Error)]
#[error("the listeners cannot be taken over through {path}: {reason}")]
pub struct HandoverError {
    path: PathBuf,
    reason: String,
}

/// Asks the runtime that serves behind `path` for its sockets; `None` when nobody does.
///
/// # Errors
/// When somebody is there and the sockets do not come.
pub async fn take(path: &Path) -> Result<Option<Inherited>, HandoverError> {
    let fail = |reason: String| HandoverError { path: path.to_owned(), reason };
    let predecessor = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(fail(error.to_string())),
    };
    let received = tokio::time::timeout(PATIENCE, receive(&predecessor)).await;
    let (names, sockets) = match received {
        Ok(received) => received.map_err(|error| fail(error.to_string()))?,
        Err(_) => return Err(fail("no answer in time".to_owned())),
    };
    let purposes: Vec<Purpose> = serde_json::from_slice(&names).map_err(|error| fail(error.to_string()))?;
    if purposes.len() != sockets.len() || sockets.is_empty() {
        return Err(fail(format!("{} sockets came under {} names", sockets.len(), purposes.len())));
    }
    let sockets = purposes.into_iter().zip(sockets.into_iter().map(TcpListener::from)).collect();
    Ok(Some(Inherited { sockets, predecessor }))
}

async fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    stream
        .async_io(Interest::READABLE, || {
            let mut names = vec![0; NAMES_BYTES];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC;
            let message = recvmsg(stream, &mut [IoSliceMut::new(&mut names)], &mut control, flags)?;
            names.truncate(message.bytes);
            let mut sockets = Vec::new();
            for part in control.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = part {
                    sockets.extend(descriptors);
                }
            }
            Ok((names, sockets))
        })
        .await
}

impl Inherited {
    /// Takes out the sockets for a purpose.
    pub fn take(&mut self, purpose: Purpose) -> Vec<TcpListener> {
        let (wanted, rest) =
            std::mem::take(&mut self.sockets).into_iter().partition(|(of, _)| *of == purpose);
        self.sockets = rest;
        let wanted: Vec<(Purpose, TcpListener)> = wanted;
        wanted.into_iter().map(|(_, socket)| socket).collect()
    }

    /// Tells the predecessor that it may go.
    pub async fn serving(mut self) {
        // When it is gone already, so much the better.
        if let Err(error) = self.predecessor.write_all(&[SERVING]).await {
            tracing::info!(%error, "the predecessor left before it was told");
        }
    }
}

/// Offers these sockets to a successor, behind `path`, until the drain begins or one serves;
/// then `replaced` is cancelled. A successor that fails before changes nothing.
///
/// # Errors
/// When the socket cannot be made.
pub fn offer(
    tasks: &Tasks,
    path: &Path,
    sockets: Vec<(Purpose, TcpListener)>,
    drain: CancellationToken,
    replaced: CancellationToken,
) -> io::Result<()> {
    // One that is left over belongs to nobody: whoever served behind it was asked before.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    tasks.spawn("handover", async move {
        // Dropped with the task: held beyond the drain they would look as if somebody listened.
        let sockets = sockets;
        loop {
            let accepted = tokio::select! {
                // Cancel-safe: a connection not yet accepted stays in the backlog.
                () = drain.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((successor, _)) = accepted else { continue };
            tokio::select! {
                // A successor that is cut off here takes nothing over, and says so itself.
                () = drain.cancelled() => return,
                serving = hand_over(successor, &sockets) => match serving {
                    Ok(()) => {
                        tracing::info!("a successor has taken over");
                        replaced.cancel();
                        return;
                    }
                    Err(error) => tracing::warn!(%error, "a successor did not take over"),
                },
            }
        }
    });
    Ok(())
}

/// Ends well when the successor serves.
async fn hand_over(mut successor: UnixStream, sockets: &[(Purpose, TcpListener)]) -> io::Result<()> {
    // Its file is closed to other users; where its directory was not, this still holds.
    if successor.peer_cred()?.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let purposes: Vec<Purpose> = sockets.iter().map(|(purpose, _)| *purpose).collect();
    let names = serde_json::to_vec(&purposes)?;
    let descriptors: Vec<_> = sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
    successor
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
                return Err(io::Error::other(format!("more than {MAX_SOCKETS} sockets")));
            }
            let flags = SendFlags::NOSIGNAL;
            Ok(sendmsg(&successor, &[IoSlice::new(&names)], &mut control, flags).map(|_| ())?)
        })
        .await?;
    // How long it takes to get ready is its own business; when it dies, this ends.
    match successor.read_u8().await? {
        SERVING => Ok(()),
        other => Err(io::Error::other(format!("it said {other}"))),
    }
}
