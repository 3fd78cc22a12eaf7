// SPDX-License-Identifier: Apache-2.0
//! Committing: revisions, guards, claims, repetition.

use std::collections::BTreeSet;

use ferrogate_model::Revision;
use ferrogate_store::{Changes, CommitError, Guard};
use futures::future::join_all;

use crate::world::{World, batch, commit, delete, name, put, put_with};

pub async fn concurrent_writers_leave_no_gap(world: &World) {
    const WRITERS: u64 = 8;
    const COMMITS: u64 = 12;
    let first = world.store();
    let start = first.head().await.unwrap().position;
    let writers = (0..WRITERS).map(|writer| {
        let store = world.store();
        async move {
            let mut taken = Vec::new();
            for number in 0..COMMITS {
                let writes =
                    vec![put(&format!("w{writer}"), &number.to_string()), put(&format!("n{writer}"), "")];
                let committed = commit(&store, writes).await;
                assert_eq!(committed.last, committed.first.next());
                taken.extend([committed.first, committed.last]);
            }
            taken
        }
    });
    let taken: Vec<Revision> = join_all(writers).await.concat();
    let distinct: BTreeSet<Revision> = taken.iter().copied().collect();
    let expected = WRITERS * COMMITS * 2;
    assert_eq!((distinct.len() as u64, distinct.last().copied()), (expected, Some(Revision(expected))));
    let Changes::Line { changes, head, .. } = first.changes_since(start, 10_000).await.unwrap() else {
        panic!("the line begins at the start")
    };
    assert_eq!(head, Revision(expected));
    let revisions: Vec<u64> = changes.iter().map(|change| change.revision.0).collect();
    assert_eq!(revisions, (1..=expected).collect::<Vec<_>>());
}

pub async fn a_guard_that_does_not_hold_writes_nothing(world: &World) {
    let store = world.store();
    let at = commit(&store, vec![put("a", "1")]).await.last;
    let there = Some(at);
    for (write, found) in [
        (put_with("a", "2", Guard::Absent, &[]), there),
        (put_with("a", "2", Guard::AtRevision(Revision(at.0 + 1)), &[]), there),
        (put_with("b", "2", Guard::Present, &[]), None),
        (put_with("b", "2", Guard::AtRevision(at), &[]), None),
        (delete("b"), None),
    ] {
        let guarded = write.name.clone();
        match store.commit(batch(vec![put("c", "sibling"), write])).await {
            Err(CommitError::Guard { name, found: actual }) => assert_eq!((name, actual), (guarded, found)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(store.head().await.unwrap().position.revision, at, "nothing was written");
    let good = vec![put_with("a", "2", Guard::AtRevision(at), &[]), put_with("b", "2", Guard::Absent, &[])];
    assert_eq!(commit(&store, good).await.last, Revision(at.0 + 2));
    let state = store.load().await.unwrap();
    let content: Vec<_> = state.artifacts.iter().map(|a| (a.name.clone(), a.source.as_str())).collect();
    assert_eq!(content, [(name("a"), "2"), (name("b"), "2")]);
}

pub async fn a_claim_has_one_holder(world: &World) {
    let (store, other) = (world.store(), world.store());
    commit(&store, vec![put_with("a", "", Guard::Any, &["x", "y"])]).await;
    let taking = |claims: &[&str]| batch(vec![put_with("b", "", Guard::Any, claims)]);
    match other.commit(taking(&["w", "y"])).await {
        Err(CommitError::Claimed { name: wanting, claim, holder }) => {
            assert_eq!((wanting, claim.as_str(), holder), (name("b"), "y", name("a")));
        }
        outcome => panic!("{outcome:?}"),
    }
    // The replaced artifact lets go of what it no longer names, the deleted one of all.
    commit(&store, vec![put_with("a", "", Guard::Any, &["x"])]).await;
    other.commit(taking(&["w", "y"])).await.unwrap();
    commit(&store, vec![delete("a")]).await;
    other.commit(taking(&["x"])).await.unwrap();
    commit(&store, vec![put_with("a", "", Guard::Any, &["w", "y"])]).await;
}

pub async fn a_batch_may_move_claims_between_its_artifacts(world: &World) {
    let store = world.store();
    commit(&store, vec![put_with("a", "", Guard::Any, &["x"]), put_with("b", "", Guard::Any, &["y"])]).await;
    commit(&store, vec![put_with("a", "", Guard::Any, &["y"]), put_with("b", "", Guard::Any, &["x"])]).await;
    commit(&store, vec![put_with("c", "", Guard::Any, &["x"]), delete("b")]).await;
    match store.commit(batch(vec![put_with("d", "", Guard::Any, &["x"])])).await {
        Err(CommitError::Claimed { holder, .. }) => assert_eq!(holder, name("c")),
        outcome => panic!("{outcome:?}"),
    }
}

pub async fn a_batch_is_applied_once(world: &World) {
    let (store, other) = (world.store(), world.store());
    let once = batch(vec![put("a", "1"), put("b", "1")]);
    let id = once.id;
    assert_eq!(store.outcome(id).await.unwrap(), None);
    let (here, there) = futures::join!(store.commit(once.clone()), other.commit(once.clone()));
    let committed = here.unwrap();
    assert_eq!(there.unwrap(), committed, "two writers at once");
    commit(&store, vec![put("a", "2")]).await;
    assert_eq!(store.commit(once).await.unwrap(), committed, "later");
    assert_eq!(other.outcome(id).await.unwrap(), Some(committed.clone()));
    assert_eq!(store.head().await.unwrap().position.revision, Revision(3));
    store.prune(Revision(3)).await.unwrap();
    assert_eq!(other.outcome(id).await.unwrap(), Some(committed), "pruned changes do not unmake it");
}

pub async fn identity_outlives_replacement(world: &World) {
    let store = world.store();
    commit(&store, vec![put("a", "1")]).await;
    let before = store.load().await.unwrap().artifacts.remove(0);
    let replaced = ferrogate_store::Batch { at: 2_000, ..batch(vec![put("a", "2")]) };
    let committed = store.commit(replaced).await.unwrap();
    let after = store.load().await.unwrap().artifacts.remove(0);
    assert_eq!((after.uuid, after.created_at), (before.uuid, 1_000));
    assert_eq!((after.revision, after.updated_at, after.source.as_str()), (committed.last, 2_000, "2"));
    assert_eq!(after.payload.as_deref(), Some("payload of 2"));
    commit(&store, vec![delete("a")]).await;
    commit(&store, vec![put("a", "3")]).await;
    assert_ne!(store.load().await.unwrap().artifacts.remove(0).uuid, before.uuid, "a new artifact");
}
