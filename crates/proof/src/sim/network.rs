// SPDX-License-Identifier: Apache-2.0
//! The sockets of the simulation, in place of the machine's: what a runtime dials with
//! and what a controller accepts from. The network itself loses, delays and reorders; what
//! it has no word for is done here: every connection of a host can be reset at once.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use ferrogate_xds::transport::{Connection, Dialer};
use futures::Stream;
use futures::stream::unfold;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

/// Dials other hosts of the simulation by name.
pub struct SimDialer {
    pub resets: Arc<Resets>,
}

/// Resets every connection dialled so far.
#[derive(Default)]
pub struct Resets {
    inner: Mutex<State>,
}

#[derive(Default)]
struct State {
    generation: u64,
    waiting: Vec<Waker>,
}

/// A connection that can be reset.
struct Resettable {
    stream: TcpStream,
    generation: u64,
    resets: Arc<Resets>,
}

impl Resets {
    pub fn reset(&self) {
        let mut state = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        state.generation += 1;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// An error once connections of this generation are reset; else whoever asks is woken then.
    fn check(&self, generation: u64, cx: &Context<'_>) -> io::Result<()> {
        let mut state = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if state.generation != generation {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if !state.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.waiting.push(cx.waker().clone());
        }
        Ok(())
    }
}

#[async_trait]
impl Dialer for SimDialer {
    async fn dial(&self, host: &str, port: u16) -> io::Result<Box<dyn Connection>> {
        let stream = TcpStream::connect((host.to_owned(), port)).await?;
        let generation = self.resets.inner.lock().unwrap_or_else(PoisonError::into_inner).generation;
        Ok(Box::new(Resettable { stream, generation, resets: Arc::clone(&self.resets) }))
    }
}

/// Everything that dials this port of this host.
pub async fn accept(port: u16) -> io::Result<impl Stream<Item = io::Result<TcpStream>> + Send + 'static> {
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    Ok(unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    }))
}

impl AsyncRead for Resettable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.resets.check(self.generation, cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Resettable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.resets.check(self.generation, cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
