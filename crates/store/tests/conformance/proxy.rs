// SPDX-License-Identifier: Apache-2.0
//! A link to the database that can be cut at the worst moment, or led to another server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub struct Proxy {
    address: SocketAddr,
    target: Arc<AtomicU16>,
    cut_at_commit: Arc<AtomicBool>,
    /// Ends every link when dropped.
    _links: JoinSet<()>,
}

impl Proxy {
    pub async fn to(port: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (target, cut) = (Arc::new(AtomicU16::new(port)), Arc::new(AtomicBool::new(false)));
        let (to, cutting) = (Arc::clone(&target), Arc::clone(&cut));
        let mut links = JoinSet::new();
        links.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                open.spawn(link(client, to.load(Ordering::Relaxed), Arc::clone(&cutting)));
            }
        });
        Proxy { address, target, cut_at_commit: cut, _links: links }
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@{}/{database}", self.address)
    }

    /// The next link on which a COMMIT passes is cut before it is answered.
    pub fn cut_at_next_commit(&self) {
        self.cut_at_commit.store(true, Ordering::Relaxed);
    }

    /// New links lead to another server.
    pub fn lead_to(&self, port: u16) {
        self.target.store(port, Ordering::Relaxed);
    }
}

async fn link(mut client: TcpStream, port: u16, cut_at_commit: Arc<AtomicBool>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let (mut asked, mut answered) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        let passed = tokio::select! {
            read = client.read(&mut asked) => match read {
                Ok(length) if length > 0 => {
                    let sent = server.write_all(&asked[..length]).await;
                    let commits = asked[..length].windows(7).any(|window| window == b"COMMIT\0");
                    if commits && cut_at_commit.swap(false, Ordering::Relaxed) {
                        return;
                    }
                    sent
                }
                _ => return,
            },
            read = server.read(&mut answered) => match read {
                Ok(length) if length > 0 => client.write_all(&answered[..length]).await,
                _ => return,
            },
        };
        if passed.is_err() {
            return;
        }
    }
}
