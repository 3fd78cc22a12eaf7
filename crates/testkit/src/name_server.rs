// SPDX-License-Identifier: Apache-2.0
//! A name server that knows the same of every name, and what a test tells it.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// The types of records (RFC 1035, 3.2.2; RFC 3596, 2.1).
const A: u16 = 1;
const AAAA: u16 = 28;

/// Addresses by the type of their record.
type Known = BTreeMap<u16, Vec<IpAddr>>;

/// A name server for as long as it is held.
pub struct NameServer {
    /// Where it is asked.
    pub address: SocketAddr,
    told: Arc<Told>,
    _task: JoinSet<()>,
}

#[derive(Default)]
struct Told {
    known: Mutex<Known>,
    unanswered: AtomicUsize,
}

impl NameServer {
    /// One that says nothing before it is told.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start() -> io::Result<NameServer> {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let (address, told) = (socket.local_addr()?, Arc::<Told>::default());
        let (mut task, own) = (JoinSet::new(), told.clone());
        task.spawn(async move {
            let mut question = [0; 512];
            while let Ok((bytes, client)) = socket.recv_from(&mut question).await {
                match own.answer(&question[..bytes]) {
                    Some(answer) => drop(socket.send_to(&answer, client).await),
                    None => drop(own.unanswered.fetch_add(1, Ordering::SeqCst)),
                }
            }
        });
        Ok(NameServer { address, told, _task: task })
    }

    /// What every name stands for from now on; without addresses, nothing.
    pub fn says(&self, addresses: &[IpAddr]) {
        let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.iter().partition(|address| address.is_ipv4());
        *self.told.known.lock().unwrap_or_else(PoisonError::into_inner) = Known::from([(A, v4), (AAAA, v6)]);
    }

    /// Answers nobody from now on.
    pub fn falls_silent(&self) {
        self.told.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// How many questions it left without an answer.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.told.unanswered.load(Ordering::SeqCst)
    }
}

impl Told {
    /// RFC 1035, 4.1: the question again, and an answer for each address of the type that is asked
    /// for, good for one second.
    fn answer(&self, asked: &[u8]) -> Option<Vec<u8>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_empty() {
            return None;
        }
        let name_end = 12 + asked.get(12..)?.iter().position(|byte| *byte == 0)? + 1;
        let question = asked.get(12..name_end + 4)?;
        let kind = u16::from_be_bytes(asked.get(name_end..name_end + 2)?.try_into().ok()?);
        let addresses = known.get(&kind).map(Vec::as_slice).unwrap_or_default();
        let mut bytes = asked.get(..2)?.to_vec();
        bytes.extend([0x81, 0x80, 0, 1, 0, u8::try_from(addresses.len()).ok()?, 0, 0, 0, 0]);
        bytes.extend(question);
        for address in addresses {
            let data = match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            // The question's name, then type, class IN, lifetime and length.
            bytes.extend([0xC0, 12]);
            bytes.extend(kind.to_be_bytes());
            bytes.extend([0, 1, 0, 0, 0, 1, 0, u8::try_from(data.len()).ok()?]);
            bytes.extend(data);
        }
        Some(bytes)
    }
}
