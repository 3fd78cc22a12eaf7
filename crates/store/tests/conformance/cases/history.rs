// SPDX-License-Identifier: Apache-2.0
//! Disasters that change what the database remembers, and versions of the schema.

use ferrogate_model::{Position, Revision};
use ferrogate_store::Changes;
use futures::future::join_all;

use crate::world::{World, commit, commit_many, put};

/// What restoring an earlier copy of the database does.
const LOSE_TAIL: &str = "\
    DELETE FROM changes WHERE revision > 4; DELETE FROM batches WHERE last_revision > 4; \
    UPDATE gateways SET revision = 4";

pub async fn a_lost_tail_begins_a_new_epoch(world: &World) {
    let (store, other) = (world.store(), world.store());
    let last = commit_many(&store, 6).await;
    let seen = other.head().await.unwrap().position;
    assert_eq!(seen.revision, last);
    world.execute(LOSE_TAIL).await;
    // The first to look may be a writer.
    let committed = commit(&store, vec![put("new", "7")]).await;
    assert!(committed.epoch > seen.epoch);
    assert_eq!(committed.first, Revision(5), "no gap in the new history");
    let Changes::Resync(head) = other.changes_since(seen, 9).await.unwrap() else { panic!("another epoch") };
    assert_eq!(head.position, Position::new(committed.epoch, committed.last), "one new epoch, not two");
}

pub async fn a_tail_written_anew_begins_a_new_epoch(world: &World) {
    let (store, other) = (world.store(), world.store());
    commit_many(&store, 6).await;
    let seen = store.head().await.unwrap().position;
    world.execute(LOSE_TAIL).await;
    // A replica that had seen nothing of the lost tail writes first and beyond it.
    commit_many(&other, 5).await;
    let Changes::Resync(head) = store.changes_since(seen, 9).await.unwrap() else {
        panic!("revision 6 is another change now")
    };
    assert!(head.position.epoch > seen.epoch);
    assert_eq!(head.position.revision, Revision(9));
}

pub async fn a_database_emptied_begins_a_new_epoch(world: &World) {
    let store = world.store();
    commit_many(&store, 3).await;
    let seen = store.head().await.unwrap().position;
    world
        .execute(
            "DROP TABLE gateways; DROP TABLE artifacts; DROP TABLE claims; DROP TABLE changes; \
             DROP TABLE batches; DROP TABLE controllers; DROP TABLE runtimes; DROP TABLE artifact_refs; DROP TABLE notes; DROP TABLE ferrogate_migrations",
        )
        .await;
    let head =
        crate::world::eventually("the schema to be there again", || async { store.head().await.ok() }).await;
    assert!(head.position.epoch > seen.epoch && head.position.revision == Revision(0), "{head:?}");
}

pub async fn migrating_at_once_is_safe(world: &World) {
    let stores: Vec<_> = (0..6).map(|_| world.store()).collect();
    let heads = join_all(stores.iter().map(|store| store.head())).await;
    let first = heads[0].as_ref().unwrap();
    assert!(first.position.epoch.0 > 1_600_000_000, "the first epoch is the time of creation");
    for head in &heads {
        assert_eq!(head.as_ref().unwrap(), first);
    }
}

pub async fn a_database_of_a_newer_version_is_refused(world: &World) {
    let serving = world.store();
    commit_many(&serving, 1).await;
    world.execute("INSERT INTO ferrogate_migrations (version, name) VALUES (999, 'future')").await;
    let error = world.store().head().await.err().unwrap().to_string();
    assert!(error.contains("newer ferrogate") && error.contains("999"), "{error}");
    commit(&serving, vec![put("a", "a replica that was serving goes on")]).await;
}
