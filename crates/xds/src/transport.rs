// SPDX-License-Identifier: Apache-2.0
//! What carries a stream below HTTP: TCP, unless somebody hands in another way to dial
//! and to accept. The simulation does, with sockets of its own; tests may. TLS is for TCP
//! only. Used by both ends; nothing of the protocol is here.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::server::Connected;

/// A connection, whoever made it.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Connection for T {}

/// Makes connections in place of TCP.
#[async_trait]
pub trait Dialer: Send + Sync + 'static {
    /// A connection to this host and port.
    async fn dial(&self, host: &str, port: u16) -> io::Result<Box<dyn Connection>>;
}

/// A dialer as the transport wants it.
#[derive(Clone)]
pub(crate) struct Connector(pub(crate) Arc<dyn Dialer>);

/// An accepted connection as the transport wants it.
pub(crate) struct Accepted<C>(pub(crate) C);

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Connection>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialer = Arc::clone(&self.0);
        Box::pin(async move {
            let host = uri.host().unwrap_or_default();
            let port = uri.port_u16().unwrap_or(80);
            dialer.dial(host, port).await.map(TokioIo::new)
        })
    }
}

impl<C> Connected for Accepted<C> {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl<C: Connection> AsyncRead for Accepted<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<C: Connection> AsyncWrite for Accepted<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
