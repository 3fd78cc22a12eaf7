// SPDX-License-Identifier: Apache-2.0
//! `examples/names.toml` and `examples/upstream-addresses.yaml` with a name server of the test's own:
//! what clients notice of answers that change, of a server that falls silent and of an address
//! that does not answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, ensure};
use ferrogate_testkit::eventually::{eventually, eventually_async};
use ferrogate_testkit::name_server::NameServer;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;

use crate::gateway::{Gateway, edited};
use crate::tools::{PATIENCE, curl, status};
use crate::upstream::Upstream;

/// As it stands in the example.
const NAME_SERVER: &str = "127.0.0.1:8600";
const UPSTREAM: &str = "http://localhost:8089";
const FIRST: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));

/// A gateway that asks this name server, with the example's API over a name at this port.
async fn gateway(server: &NameServer, port: u16, edits: &[(&str, &str)]) -> anyhow::Result<Gateway> {
    let text = edited("names.toml", &[(NAME_SERVER, &server.address.to_string())])?;
    let gateway = Gateway::with_configuration(&text).await?;
    let named = format!("http://replicas.example:{port}");
    gateway.apply("upstream-addresses.yaml", &[edits, &[(UPSTREAM, &named)]].concat()).await?;
    Ok(gateway)
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
    let gateway = gateway(&server, port, &[]).await?;
    let url = gateway.url("/replicas/v1/echo");
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
    let asked = || (server.unanswered() > 1).then_some(());
    eventually(PATIENCE, asked).await.context("nobody asks again")?;
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
    let whole = ("endpoints: per-address", "timeout: { connect: 60s }");
    let gateway = gateway(&server, silent.port(), &[whole]).await?;
    let told = status(&["--max-time", "30", &gateway.url("/replicas/v1/echo")]).await?;
    ensure!(told == "200", "{told}");
    ensure!(upstream.requests() == 1);
    Ok(())
}
