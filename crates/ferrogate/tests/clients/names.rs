// SPDX-License-Identifier: Apache-2.0
//! `examples/names.toml` and `examples/upstream-addresses.yaml` with a name server of the test's own:
//! what clients notice of answers that change, of a server that falls silent and of an address
//! that does not answer.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, ensure};
use ferrogate_testkit::eventually::eventually_async;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

use crate::gateway::{Gateway, edited};
use crate::tools::{PATIENCE, curl, status};
use crate::upstream::Upstream;

/// As it stands in the example.
const NAME_SERVER: &str = "127.0.0.1:8600";
const UPSTREAM: &str = "http://localhost:8089";
const FIRST: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));

/// The types of records (RFC 1035, 3.2.2; RFC 3596, 2.1).
const A: u16 = 1;
const AAAA: u16 = 28;

/// A name server for as long as it is held.
struct NameServer {
    address: SocketAddr,
    /// By type; a server that knows nothing says nothing.
    known: Arc<Mutex<BTreeMap<u16, Vec<IpAddr>>>>,
    unanswered: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl NameServer {
    async fn start() -> anyhow::Result<NameServer> {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let (address, known) = (socket.local_addr()?, Arc::<Mutex<BTreeMap<_, _>>>::default());
        let unanswered = Arc::<AtomicUsize>::default();
        let (mut task, answers, silent) = (JoinSet::new(), known.clone(), unanswered.clone());
        task.spawn(async move {
            let mut question = [0; 512];
            while let Ok((bytes, client)) = socket.recv_from(&mut question).await {
                let answer = answer(&question[..bytes], &answers.lock().expect("nobody panicked"));
                match answer {
                    Some(answer) => drop(socket.send_to(&answer, client).await),
                    None => drop(silent.fetch_add(1, Ordering::SeqCst)),
                }
            }
        });
        Ok(NameServer { address, known, unanswered, _task: task })
    }

    /// What every name stands for from now on.
    fn says(&self, addresses: &[IpAddr]) {
        let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.iter().partition(|address| address.is_ipv4());
        *self.known.lock().expect("nobody panicked") = BTreeMap::from([(A, v4), (AAAA, v6)]);
    }

    /// Answers nobody from now on.
    fn falls_silent(&self) {
        self.known.lock().expect("nobody panicked").clear();
    }

    /// A gateway that asks it, with the example's API over a name at this port.
    async fn gateway(&self, port: u16) -> anyhow::Result<Gateway> {
        let text = edited("names.toml", &[(NAME_SERVER, &self.address.to_string())])?;
        let gateway = Gateway::with_configuration(&text).await?;
        let named = format!("http://replicas.example:{port}");
        gateway.apply("upstream-addresses.yaml", &[(UPSTREAM, &named)]).await?;
        Ok(gateway)
    }
}

/// RFC 1035, 4.1: the question again, and an answer for each address of the type that is asked for,
/// good for one second.
fn answer(asked: &[u8], known: &BTreeMap<u16, Vec<IpAddr>>) -> Option<Vec<u8>> {
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

/// A socket at each of two addresses, on one port.
async fn two(first: IpAddr, second: IpAddr) -> anyhow::Result<(TcpListener, TcpListener)> {
    let another = || async {
        let first = TcpListener::bind((first, 0)).await.ok()?;
        // Somebody may have the same port on the other address.
        let second = TcpListener::bind((second, first.local_addr().ok()?.port())).await.ok()?;
        Some((first, second))
    };
    eventually_async(PATIENCE, another).await.context("no port is free on both")
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_follow_the_name_and_outlive_its_server() -> anyhow::Result<()> {
    let server = NameServer::start().await?;
    let (first, second) = two(FIRST, SECOND).await?;
    let port = first.local_addr()?.port();
    let (first, second) = (Upstream::over(first)?, Upstream::over(second)?);
    server.says(&[FIRST]);
    let gateway = server.gateway(port).await?;
    let url = gateway.url("/replicas/v1/mine");
    ensure!(status(&[&url]).await? == "200", "the first address");
    ensure!((first.requests(), second.requests()) == (1, 0));

    server.says(&[SECOND]);
    let moved = || async {
        let served = status(&[&url]).await.ok()? == "200";
        (served && second.requests() > 0).then_some(())
    };
    eventually_async(PATIENCE, moved).await.context("nobody follows the name")?;
    let before = first.requests();
    let urls = format!("{url}?[1-5]");
    let told = curl(&["-o", "/dev/null", "-w", "%{http_code}\n", &urls]).await?;
    ensure!(told == "200\n".repeat(5), "{told}");
    ensure!(first.requests() == before, "the old address is asked no more");

    server.falls_silent();
    let asked = || async { (server.unanswered.load(Ordering::SeqCst) > 1).then_some(()) };
    eventually_async(PATIENCE, asked).await.context("nobody asks again")?;
    let told = curl(&["-o", "/dev/null", "-w", "%{http_code}\n", &urls]).await?;
    ensure!(told == "200\n".repeat(5), "{told}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_says_nothing_holds_up_nobody() -> anyhow::Result<()> {
    // IPv4 comes first. Where a machine has no IPv6 both are addresses of one family.
    let has_v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.is_ok();
    let live = if has_v6 { IpAddr::V6(Ipv6Addr::LOCALHOST) } else { SECOND };
    let (free, live_listener) = two(FIRST, live).await?;
    let silent = free.local_addr()?;
    drop(free);
    // A queue that is full, and nobody who accepts: the kernel drops who comes besides.
    let queue = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    queue.set_reuse_address(true)?;
    queue.bind(&silent.into())?;
    queue.listen(0)?;
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let client = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        client.set_nonblocking(true)?;
        // It is on its way, or it waits for room like those after it.
        client.connect(&silent.into()).ok();
        waiting.push(client);
    }
    let upstream = Upstream::over(live_listener)?;
    let server = NameServer::start().await?;
    server.says(&[FIRST, live]);
    // One endpoint, whose addresses are tried beside each other.
    let text = edited("names.toml", &[(NAME_SERVER, &server.address.to_string())])?;
    let gateway = Gateway::with_configuration(&text).await?;
    let named = format!("http://replicas.example:{}", silent.port());
    let whole = [(UPSTREAM, named.as_str()), ("endpoints: per-address", "timeout: { connect: 60s }")];
    gateway.apply("upstream-addresses.yaml", &whole).await?;
    let told = status(&["--max-time", "30", &gateway.url("/replicas/v1/mine")]).await?;
    ensure!(told == "200", "{told}");
    ensure!(upstream.requests() == 1);
    Ok(())
}
