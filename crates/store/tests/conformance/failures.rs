// SPDX-License-Identifier: Apache-2.0
//! What only a server can do to its clients: end, restart, fail over, go silent in the
//! middle of a COMMIT. Each test that ends its server has one of its own.

use std::sync::Arc;
use std::time::Duration;

use ferrogate_model::{GatewayId, Revision};
use ferrogate_store::{CommitError, Feed, FeedEvent, Options, Store, StoreError, open};

use crate::link::{Link, Mode};
use crate::postgres::{PostgresServer, StopMode};
use crate::world::{World, batch, commit, commit_many, eventually, put};

/// Makes every COMMIT take `seconds`, with the transaction's locks held.
fn slow_commits(seconds: f32) -> String {
    format!(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM pg_sleep({seconds}); RETURN NULL; END $$; \
         CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON batches DEFERRABLE INITIALLY DEFERRED \
         FOR EACH ROW EXECUTE FUNCTION slow()"
    )
}

fn store_at(url: &str, timeout: Duration) -> Arc<dyn Store> {
    let options = Options { pool_size: 4, acquire_timeout: timeout, timeout, ..Options::default() };
    open(url, &GatewayId::from("g"), &options).unwrap()
}

fn url_through(link: &Link, database: &str) -> String {
    format!("postgres://postgres@{}/{database}", link.address())
}

async fn next(feed: &mut Feed) -> FeedEvent {
    tokio::time::timeout(Duration::from_secs(60), feed.next()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_server_is_used_again_without_reopening() {
    let server = PostgresServer::start().unwrap();
    let database = server.create_database().unwrap();
    server.stop(StopMode::Fast).unwrap();
    // Opened while the server is down.
    let store = store_at(&server.url(&database), Duration::from_secs(2));
    assert!(matches!(store.head().await, Err(StoreError::Unavailable(_))));
    let mut feed = Feed::new(Arc::clone(&store), None).polling_every(Duration::from_millis(100));
    assert!(matches!(next(&mut feed).await, FeedEvent::Unavailable(StoreError::Unavailable(_))));
    server.start_again().unwrap();
    assert!(matches!(next(&mut feed).await, FeedEvent::Recovered));
    let FeedEvent::Reset(empty) = next(&mut feed).await else { panic!("the first state") };
    commit_many(&store, 2).await;
    let mut at = Revision(0);
    while at < Revision(2) {
        let FeedEvent::Batch(changes) = next(&mut feed).await else { panic!("two changes") };
        at = changes.last().unwrap().revision;
    }
    // Gone without a farewell: acknowledged commits are there afterwards, in the same epoch.
    server.kill().unwrap();
    assert!(matches!(next(&mut feed).await, FeedEvent::Unavailable(_)));
    match store.commit(batch(vec![put("a", "lost")])).await {
        Err(CommitError::Store(StoreError::Unavailable(_))) => {}
        other => panic!("{other:?}"),
    }
    server.start_again().unwrap();
    let head = eventually("the store to serve again", || async { store.head().await.ok() }).await;
    assert_eq!((head.position.epoch, head.position.revision), (empty.position.epoch, Revision(2)));
    assert!(matches!(next(&mut feed).await, FeedEvent::Recovered));
    commit_many(&store, 1).await;
    assert!(matches!(next(&mut feed).await, FeedEvent::Batch(changes) if changes[0].revision == Revision(3)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_is_cut_off_misses_no_change() {
    let server = Arc::new(PostgresServer::start().unwrap());
    let world = World::on(Arc::clone(&server));
    let mut cut_off = 0;
    let (writer, reader) = (world.store(), world.store());
    commit_many(&writer, 1).await;
    let mut feed = Feed::new(reader, None);
    assert!(matches!(next(&mut feed).await, FeedEvent::Reset(_)));
    for revision in 2..8 {
        // The notice is sent to nobody: whoever listened is gone, and back only later.
        let end_listeners =
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'";
        let ended = server.psql("postgres", end_listeners).unwrap();
        cut_off += ended.lines().filter(|line| *line == "t").count();
        commit(&writer, vec![put("a", &format!("change {revision}"))]).await;
        let FeedEvent::Batch(changes) = next(&mut feed).await else { panic!("the change") };
        assert_eq!(changes.iter().map(|change| change.revision.0).collect::<Vec<_>>(), [revision]);
    }
    assert!(cut_off > 0, "nobody listened");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_gone_is_known_long_before_the_deadline() {
    let server = PostgresServer::start().unwrap();
    let database = server.create_database().unwrap();
    let patience = Duration::from_secs(60);
    let store = store_at(&server.url(&database), patience);
    commit_many(&store, 1).await;
    server.kill().unwrap();
    let asked = std::time::Instant::now();
    match store.commit(batch(vec![put("a", "refused")])).await {
        Err(CommitError::Store(StoreError::Unavailable(_))) => {}
        other => panic!("{other:?}"),
    }
    assert!(asked.elapsed() < patience / 4, "{:?}", asked.elapsed());
    server.start_again().unwrap();
    eventually("the store to serve again", || async { store.head().await.ok() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_died_without_a_word_are_known_long_before_the_deadline() {
    let World::Postgres(server, database) = World::postgres() else { panic!("a server") };
    let link = Link::to(server.port()).await.unwrap();
    let patience = Duration::from_secs(60);
    let store = store_at(&url_through(&link, &database), patience);
    // Several connections, all of which will be dead.
    commit_many(&store, 1).await;
    futures::future::try_join_all([store.load(), store.load(), store.load()]).await.unwrap();
    let mut feed = Feed::new(Arc::clone(&store), None).polling_every(Duration::from_millis(100));
    let FeedEvent::Reset(_) = next(&mut feed).await else { panic!("the first state") };
    let asked = std::time::Instant::now();
    link.set(Mode::HalfOpen);
    assert!(matches!(next(&mut feed).await, FeedEvent::Unavailable(StoreError::Unavailable(_))));
    match store.commit(batch(vec![put("a", "unheard")])).await {
        Err(CommitError::Store(StoreError::Unavailable(_))) => {}
        other => panic!("{other:?}"),
    }
    link.set(Mode::Pass);
    assert!(matches!(next(&mut feed).await, FeedEvent::Recovered));
    // Whatever is left of the dead ones is not waited for either.
    commit_many(&store, 1).await;
    assert!(matches!(next(&mut feed).await, FeedEvent::Batch(changes) if changes[0].revision == Revision(2)));
    assert!(asked.elapsed() < patience / 4, "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_found_to_have_happened() {
    let World::Postgres(server, database) = World::postgres() else { panic!("a server") };
    let link = Link::to(server.port()).await.unwrap();
    let store = store_at(&url_through(&link, &database), Duration::from_secs(20));
    commit_many(&store, 1).await;
    // The server is still committing when it is asked: the answer must wait for it.
    server.psql(&database, &slow_commits(1.0)).unwrap();
    link.cut_at_next_commit();
    let lost = batch(vec![put("a", "lost"), put("b", "lost")]);
    match store.commit(lost.clone()).await {
        Err(CommitError::Unknown(id)) => assert_eq!(id, lost.id),
        other => panic!("{other:?}"),
    }
    let committed = store.outcome(lost.id).await.unwrap().expect("it was committed");
    assert_eq!((committed.first, committed.last), (Revision(2), Revision(3)));
    assert_eq!(store.commit(lost).await.unwrap(), committed, "sent again, it is not done again");
    assert_eq!(store.head().await.unwrap().position.revision, Revision(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_ended_within_commit_leaves_nothing_and_says_so() {
    let World::Postgres(server, database) = World::postgres() else { panic!("a server") };
    let store = store_at(&server.url(&database), Duration::from_secs(20));
    commit_many(&store, 1).await;
    server.psql(&database, &slow_commits(20.0)).unwrap();
    let ended = batch(vec![put("a", "ended")]);
    let terminating = eventually("a COMMIT to end", || async {
        let terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
             WHERE datname = current_database() AND query = 'COMMIT' AND state = 'active'";
        let ended = server.psql(&database, terminate).unwrap();
        (ended.trim() == "1").then_some(())
    });
    let (result, ()) = futures::join!(store.commit(ended.clone()), terminating);
    assert!(matches!(result, Err(CommitError::Unknown(id)) if id == ended.id), "{result:?}");
    assert_eq!(store.outcome(ended.id).await.unwrap(), None);
    assert_eq!(store.head().await.unwrap().position.revision, Revision(1));
    server.psql(&database, "DROP TRIGGER slow ON batches").unwrap();
    assert_eq!(store.commit(ended).await.unwrap().last, Revision(2), "sent again, it is done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_writer_does_not_hold_the_gateway_for_ever() {
    let World::Postgres(server, database) = World::postgres() else { panic!("a server") };
    let url = server.url(&database);
    let store = store_at(&url, Duration::from_secs(2));
    commit_many(&store, 1).await;
    // A session of ours, stopped in mid-transaction: it has the store's own time-outs.
    let holder = sqlx::postgres::PgPoolOptions::new()
        .connect(&format!("{url}?options=-c%20idle_in_transaction_session_timeout=2000"))
        .await
        .unwrap();
    let mut held = holder.begin().await.unwrap();
    sqlx::query("UPDATE gateways SET revision = revision + 1").execute(&mut *held).await.unwrap();
    let waiting = batch(vec![put("a", "waited")]);
    let committed =
        eventually("the lock to be let go", || async { store.commit(waiting.clone()).await.ok() }).await;
    assert_eq!(committed.last, Revision(2), "nothing of the silent one is left");
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_cut_off_in_mid_transaction_keeps_the_others_waiting_for_a_moment_only() {
    let World::Postgres(server, database) = World::postgres() else { panic!("a server") };
    let link = Link::to(server.port()).await.unwrap();
    // Far beyond what is waited for here.
    let patience = Duration::from_secs(60);
    let cut_off = store_at(&url_through(&link, &database), patience);
    let other = store_at(&server.url(&database), patience);
    commit_many(&cut_off, 1).await;
    let operator = sqlx::postgres::PgPoolOptions::new().connect(&server.url(&database)).await.unwrap();
    let mut held = operator.begin().await.unwrap();
    sqlx::query("LOCK TABLE artifacts IN EXCLUSIVE MODE").execute(&mut *held).await.unwrap();
    let waited = async {
        // It has the gateway's row by then, and vanishes with it.
        let waits = "SELECT count(*) FROM pg_stat_activity \
             WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let waits = || async { (server.psql(&database, waits).unwrap().trim() == "1").then_some(()) };
        eventually("a writer to wait", waits).await;
        link.set(Mode::HalfOpen);
        held.commit().await.unwrap();
        let asked = std::time::Instant::now();
        commit(&other, vec![put("b", "waited")]).await;
        asked.elapsed()
    };
    let (vanished, waited) = futures::join!(cut_off.commit(batch(vec![put("a", "cut off")])), waited);
    assert!(vanished.is_err(), "{vanished:?}");
    assert!(waited < patience / 4, "{waited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_lineage_begins_a_new_epoch_once() {
    let World::Postgres(server, database) = World::postgres() else { panic!("a server") };
    let (store, other) = (
        store_at(&server.url(&database), Duration::from_secs(20)),
        store_at(&server.url(&database), Duration::from_secs(20)),
    );
    commit_many(&store, 3).await;
    let before = other.head().await.unwrap().position;
    // What a dump restored into another cluster looks like.
    server.psql(&database, "UPDATE gateways SET lineage = '1:00000001'").unwrap();
    let (here, there) = futures::join!(store.load(), other.head());
    let after = here.unwrap().position;
    assert!(after.epoch > before.epoch && after.revision == before.revision, "{after}");
    assert_eq!(there.unwrap().position, after, "both replicas agree");
    assert_eq!(commit(&store, vec![put("a", "next")]).await.epoch, after.epoch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_begins_a_new_epoch_and_a_standby_is_not_read() {
    let primary = PostgresServer::start().unwrap();
    let database = primary.create_database().unwrap();
    let link = Link::to(primary.port()).await.unwrap();
    let store = store_at(&url_through(&link, &database), Duration::from_secs(5));
    commit_many(&store, 3).await;
    let mut feed = Feed::new(Arc::clone(&store), None).polling_every(Duration::from_millis(100));
    let FeedEvent::Reset(before) = next(&mut feed).await else { panic!("the first state") };

    let standby = primary.standby().unwrap();
    let on_standby = store_at(&standby.url(&database), Duration::from_secs(5));
    match on_standby.head().await {
        Err(StoreError::Unavailable(why)) => assert!(why.contains("standby"), "{why}"),
        other => panic!("{other:?}"),
    }
    // The standby hears of nothing any more, and the primary acknowledges what is then lost.
    primary.psql("postgres", "ALTER SYSTEM SET max_wal_senders = 0").unwrap();
    primary.stop(StopMode::Fast).unwrap();
    primary.start_again().unwrap();
    let lost = eventually("the primary to serve", || async {
        store.commit(batch(vec![put("lost", "4")])).await.ok()
    })
    .await;
    assert_eq!(lost.last, Revision(4));
    primary.stop(StopMode::Immediate).unwrap();

    link.lead_to(standby.port());
    standby.promote().unwrap();
    let written = batch(vec![put("new", "4")]);
    let committed =
        eventually("the new primary to serve", || async { store.commit(written.clone()).await.ok() }).await;
    assert!(committed.epoch > before.position.epoch, "{committed:?}");
    assert_eq!(committed.last, Revision(4), "the number is handed out again, in another epoch");
    let reset = loop {
        match next(&mut feed).await {
            FeedEvent::Reset(state) => break state,
            FeedEvent::Batch(changes) => assert_eq!(changes[0].name.handle.as_str(), "lost"),
            FeedEvent::Unavailable(_) | FeedEvent::Recovered => {}
        }
    };
    assert!(reset.position.epoch >= committed.epoch);
    let handles: Vec<&str> = reset.artifacts.iter().map(|a| a.name.handle.as_str()).collect();
    assert!(!handles.contains(&"lost"), "{handles:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_who_it_says_is_not_spoken_to() {
    let server = PostgresServer::start().unwrap();
    let database = server.create_database().unwrap();
    let plain = server.url(&database);
    let required = store_at(&format!("{plain}?sslmode=require"), Duration::from_secs(5));
    assert!(matches!(required.head().await, Err(StoreError::Unavailable(_))), "it speaks no TLS");

    let own = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let foreign = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let files = tempfile::TempDir::new().unwrap();
    let verified_by = |name: &str, certificate: &rcgen::Certificate| {
        let path = files.path().join(name);
        std::fs::write(&path, certificate.pem()).unwrap();
        let url = format!("{plain}?sslmode=verify-full&sslrootcert={}", path.display());
        store_at(&url, Duration::from_secs(5))
    };
    server.enable_tls(&own.cert.pem(), &own.signing_key.serialize_pem()).unwrap();
    eventually("TLS to be spoken", || async { required.head().await.ok() }).await;
    let trusting = verified_by("own.pem", &own.cert);
    commit(&trusting, vec![put("a", "over TLS")]).await;
    let encrypted = "SELECT bool_and(s.ssl) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) \
         WHERE a.application_name = 'ferrogate'";
    assert_eq!(server.psql(&database, encrypted).unwrap().trim(), "t");
    let error = verified_by("foreign.pem", &foreign.cert).head().await;
    assert!(matches!(error, Err(StoreError::Unavailable(_))), "{error:?}");
}
