// SPDX-License-Identifier: Apache-2.0
//! The feed over a real store.

use std::sync::Arc;
use std::time::Duration;

use ferrogate_model::{Position, Revision};
use ferrogate_store::{Feed, FeedEvent, Store};

use crate::world::{World, commit, commit_many, put};

/// The next event, within half a minute.
async fn next(feed: &mut Feed) -> FeedEvent {
    tokio::time::timeout(Duration::from_secs(30), feed.next()).await.unwrap()
}

pub async fn a_feed_tells_every_change_once(world: &World) {
    const COMMITS: u64 = 60;
    let (writer, reader) = (world.store(), world.store());
    commit_many(&writer, 2).await;
    let mut feed = Feed::new(reader, None).polling_every(Duration::from_millis(50));
    match next(&mut feed).await {
        FeedEvent::Reset(state) => assert_eq!(state.position.revision, Revision(2)),
        event => panic!("{event:?}"),
    }
    let writing = async {
        for number in 0..COMMITS {
            commit(&writer, vec![put("a", &number.to_string()), put("b", &number.to_string())]).await;
        }
    };
    let reading = async {
        let mut at = Revision(2);
        // Asked and given up again and again, at every stage of a read: nothing may be lost
        // by it. The last patience of each round is long enough for any read.
        for patience in [0, 1, 2, 4, 8, 16, 2_000].into_iter().cycle() {
            if at == Revision(2 + COMMITS * 2) {
                break;
            }
            let patience = Duration::from_millis(patience);
            if let Ok(event) = tokio::time::timeout(patience, feed.next()).await {
                at = apply(at, event);
            }
        }
    };
    let both = async { futures::join!(writing, reading) };
    tokio::time::timeout(Duration::from_secs(60), both).await.unwrap();
}

fn apply(mut at: Revision, event: FeedEvent) -> Revision {
    let FeedEvent::Batch(changes) = event else { panic!("{event:?}") };
    for change in &changes {
        assert_eq!(change.revision, at.next());
        at = change.revision;
    }
    assert_eq!(changes.last().map(|change| change.batch_end), Some(at));
    at
}

pub async fn a_feed_resumes_after_a_position(world: &World) {
    let store = world.store();
    commit_many(&store, 5).await;
    let epoch = store.head().await.unwrap().position.epoch;
    let mut feed = Feed::new(Arc::clone(&store), Some(Position::new(epoch, Revision(3))));
    let event = next(&mut feed).await;
    assert_eq!(apply(Revision(3), event), Revision(5));
    assert_eq!(feed.position().map(|at| at.revision), Some(Revision(3)), "not applied before the next call");
    commit_many(&store, 1).await;
    assert_eq!(apply(Revision(5), next(&mut feed).await), Revision(6));
    assert_eq!(feed.position().map(|at| at.revision), Some(Revision(5)));
}

pub async fn a_burst_longer_than_a_read_arrives_whole(world: &World) {
    // Longer than two of the feed's reads, and not a multiple of one.
    const BATCHES: u64 = 11;
    const EACH: u64 = 103;
    let (writer, reader) = (world.store(), world.store());
    let start = commit_many(&writer, 1).await;
    let epoch = reader.head().await.unwrap().position.epoch;
    let mut feed = Feed::new(reader, Some(Position::new(epoch, start)));
    for batch in 0..BATCHES {
        let writes = (0..EACH).map(|number| put(&format!("a{number}"), &batch.to_string()));
        commit(&writer, writes.collect()).await;
    }
    let mut at = start;
    while at < Revision(start.0 + BATCHES * EACH) {
        at = apply(at, next(&mut feed).await);
    }
}

pub async fn a_feed_reloads_in_a_new_epoch(world: &World) {
    let store: Arc<dyn Store> = world.store();
    commit_many(&store, 4).await;
    let mut feed = Feed::new(Arc::clone(&store), None).polling_every(Duration::from_millis(20));
    let FeedEvent::Reset(before) = next(&mut feed).await else { panic!("it begins with a state") };
    world.execute("DELETE FROM changes WHERE revision > 2; UPDATE gateways SET revision = 2").await;
    let FeedEvent::Reset(after) = next(&mut feed).await else { panic!("another history") };
    assert!(
        after.position > before.position && after.position.revision == Revision(2),
        "{:?}",
        after.position
    );
}
