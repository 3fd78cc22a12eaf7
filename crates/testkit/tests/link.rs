// SPDX-License-Identifier: Apache-2.0
//! The fault proxy does to a connection what it says: a fault test is worth as much as
//! its faults are real.

use std::net::Ipv4Addr;
use std::time::Duration;

use ferrogate_testkit::eventually::eventually_async;
use ferrogate_testkit::link::{Link, Mode, Way};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const LONG: Duration = Duration::from_secs(20);
/// What must not happen is watched for this long: a false pass is possible, a false failure is not.
const SHORT: Duration = Duration::from_millis(50);

/// Says back what it hears.
async fn echo() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    #[expect(clippy::disallowed_methods, reason = "it ends with the test's executor")]
    tokio::spawn(async move {
        let mut open = tokio::task::JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            open.spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await.ok();
            });
        }
    });
    port
}

async fn say(stream: &mut TcpStream) -> std::io::Result<u8> {
    stream.write_all(b"x").await?;
    stream.read_u8().await
}

async fn link_and_stream() -> (Link, TcpStream) {
    let link = Link::to(echo().await).await.expect("a link");
    let mut stream = TcpStream::connect(link.address()).await.expect("a connection");
    assert_eq!(say(&mut stream).await.expect("an echo"), b'x');
    (link, stream)
}

#[tokio::test]
async fn a_cut_link_resets_and_refuses_and_comes_back() {
    let (link, mut stream) = link_and_stream().await;
    link.set(Mode::Cut);
    assert!(stream.read_u8().await.is_err());
    let refused =
        eventually_async(LONG, || async { TcpStream::connect(link.address()).await.is_err().then_some(()) });
    refused.await.expect("refused");
    link.set(Mode::Pass);
    let back = eventually_async(LONG, || async {
        say(&mut TcpStream::connect(link.address()).await.ok()?).await.ok()
    });
    assert_eq!(back.await, Some(b'x'));
}

#[tokio::test]
async fn what_a_silent_way_holds_arrives_when_it_ends() {
    for way in [Way::Out, Way::Back] {
        let (link, mut stream) = link_and_stream().await;
        link.set(Mode::Silent(way));
        stream.write_all(b"y").await.expect("buffered");
        assert!(tokio::time::timeout(SHORT, stream.read_u8()).await.is_err(), "{way:?}");
        link.set(Mode::Pass);
        assert_eq!(stream.read_u8().await.expect("an echo"), b'y');
    }
}

#[tokio::test]
async fn a_half_open_connection_never_answers_again() {
    let (link, mut stream) = link_and_stream().await;
    link.set(Mode::HalfOpen);
    assert!(tokio::time::timeout(SHORT, say(&mut stream)).await.is_err());
    link.set(Mode::Pass);
    assert!(tokio::time::timeout(SHORT, say(&mut stream)).await.is_err());
    let mut fresh = TcpStream::connect(link.address()).await.expect("a connection");
    assert_eq!(say(&mut fresh).await.expect("an echo"), b'x');
}

#[tokio::test]
async fn a_reset_ends_what_is_open_and_nothing_else() {
    let (link, mut stream) = link_and_stream().await;
    link.reset();
    assert!(stream.read_u8().await.is_err());
    let mut fresh = TcpStream::connect(link.address()).await.expect("a connection");
    assert_eq!(say(&mut fresh).await.expect("an echo"), b'x');
}

#[tokio::test]
async fn a_slow_link_is_slow_and_a_led_one_leads_elsewhere() {
    let (link, mut stream) = link_and_stream().await;
    link.set(Mode::Slow(SHORT));
    let began = tokio::time::Instant::now();
    say(&mut stream).await.expect("an echo");
    assert!(began.elapsed() >= SHORT * 2);
    link.lead_to(1);
    let mut led = TcpStream::connect(link.address()).await.expect("the link accepts");
    assert!(led.read_u8().await.is_err());
}
