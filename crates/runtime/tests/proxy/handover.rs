// SPDX-License-Identifier: Apache-2.0
//! A runtime that takes the listeners of another over, under traffic.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;
use tokio::task::JoinSet;

use crate::support::backend::Backend;
use crate::support::{Client, Gateway, PATIENCE, api, eventually, get};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_takes_over_without_a_refused_connection() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, backend) = (dir.path().join("handover.sock"), Backend::start().await);
    let mut serving = Gateway::start_with(|config| config.handover = Some(path.clone())).await;
    let deploy = [api("/g", &backend.url(), |_| {})];
    serving.deploy(&deploy).await;
    let (address, doors) = (serving.http, serving.running().addresses());

    let (done, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        let (done, served) = (done.clone(), served.clone());
        clients.spawn(async move {
            while !done.load(Ordering::SeqCst) {
                // Each on a connection of its own: one refused or reset would end the test.
                assert_eq!(Client::connect(address).await.call(get("/g/x")).await.status, StatusCode::OK);
                served.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    let progress = async |what: &str| {
        let before = served.load(Ordering::SeqCst);
        eventually(what, || served.load(Ordering::SeqCst) > before + 50).await;
    };
    // More workers, then fewer: every socket keeps somebody who accepts on it.
    for workers in [3, 1] {
        progress("traffic through the predecessor").await;
        let successor = Gateway::start_with(|config| {
            config.handover = Some(path.clone());
            config.listen.http = Some(address);
            config.workers = workers;
            // Nothing is waited for: nobody needs to notice anything.
            config.drain_delay = Duration::from_secs(3600);
        })
        .await;
        assert_eq!(successor.running().addresses(), doors);
        // Until it is ready its predecessor serves.
        let replaced = serving.running().replaced();
        progress("traffic before the takeover").await;
        assert!(!replaced.is_cancelled());
        successor.deploy(&deploy).await;
        tokio::time::timeout(PATIENCE, replaced.cancelled()).await.expect("the predecessor is told");
        let predecessor = std::mem::replace(&mut serving, successor);
        assert_eq!(predecessor.shutdown().await.cut_off, 0);
        progress("traffic through the successor").await;
        assert_eq!(serving.door(doors.readiness, "/ready").await.status, StatusCode::OK);
    }
    done.store(true, Ordering::SeqCst);
    while let Some(client) = clients.join_next().await {
        client.expect("no client failed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_fails_changes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("handover.sock");
    let serving = Gateway::start_with(|config| config.handover = Some(path.clone())).await;
    serving.deploy(&[]).await;
    for _ in 0..2 {
        let never_ready = Gateway::start_with(|config| {
            config.handover = Some(path.clone());
            config.listen.http = Some(serving.http);
        })
        .await;
        drop(never_ready);
        assert_eq!(serving.get("/any").await.status, StatusCode::NOT_FOUND);
        assert!(!serving.running().replaced().is_cancelled());
    }
    // Whom the file's last owner left behind is nobody.
    let address = serving.http;
    assert_eq!(serving.shutdown().await.cut_off, 0);
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "an offer keeps no listener open");
    let next = Gateway::start_with(|config| config.handover = Some(path.clone())).await;
    next.deploy(&[]).await;
    assert_eq!(next.get("/any").await.status, StatusCode::NOT_FOUND);
}
