// SPDX-License-Identifier: Apache-2.0
//! Committing: revisions, guards, claims, repetition.

use std::collections::BTreeSet;

use ferrogate_model::{Position, Revision};
use ferrogate_store::{Batch, Changes, Commit, CommitError, Expect, Guard, Rewrite, Write};
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

/// A write that refers to other artifacts.
fn referring(handle: &str, targets: &[&str]) -> Commit {
    let mut commit = put(handle, "");
    if let Write::Put { references, .. } = &mut commit.write {
        references.extend(targets.iter().map(|target| name(target)));
    }
    commit
}

pub async fn an_id_belongs_to_one_artifact(world: &World) {
    let store = world.store();
    commit(&store, vec![put("a", "1")]).await;
    let id = store.load().await.unwrap().artifacts.remove(0).uuid;
    let taking = |handle: &str| {
        let mut commit = put(handle, "2");
        if let Write::Put { uuid, .. } = &mut commit.write {
            *uuid = id;
        }
        commit
    };
    match store.commit(batch(vec![taking("b")])).await {
        Err(CommitError::Claimed { claim, holder, .. }) => {
            assert_eq!((claim, holder), (ferrogate_store::id_claim(id), name("a")));
        }
        other => panic!("{other:?}"),
    }
    // A new name for the same thing.
    commit(&store, vec![delete("a"), taking("b")]).await;
    let renamed = store.load().await.unwrap().artifacts.remove(0);
    assert_eq!((renamed.name, renamed.uuid), (name("b"), id));
}

pub async fn what_a_batch_was_made_from_must_still_be_so(world: &World) {
    let store = world.store();
    let at = commit(&store, vec![put("secret", "1")]).await.last;
    let made = || {
        let expects = vec![Expect::Unchanged { name: name("secret"), revision: at }];
        Batch { expects, ..batch(vec![referring("a", &["secret"])]) }
    };
    assert_eq!(store.commit(made()).await.unwrap().last, Revision(2));
    commit(&store, vec![put("secret", "2")]).await;
    match store.commit(made()).await {
        Err(CommitError::Moved { name: moved }) => assert_eq!(moved, name("secret")),
        other => panic!("{other:?}"),
    }
    commit(&store, vec![delete("secret")]).await;
    assert!(matches!(store.commit(made()).await, Err(CommitError::Moved { .. })));
    assert_eq!(store.head().await.unwrap().position.revision, Revision(4), "nothing was written");
}

pub async fn whoever_refers_to_it_is_written_with_it(world: &World) {
    let (store, other) = (world.store(), world.store_of("another"));
    commit(&other, vec![referring("elsewhere", &["secret"])]).await;
    commit(&store, vec![put("secret", "1"), referring("a", &["secret"]), referring("b", &["secret", "c"])])
        .await;
    assert_eq!(store.referrers(&name("secret")).await.unwrap(), [name("a"), name("b")]);
    let writing = |writes: Vec<Commit>| {
        let expects = vec![Expect::ReferrersWritten { name: name("secret") }];
        Batch { expects, ..batch(writes) }
    };
    match store.commit(writing(vec![put("secret", "2"), referring("a", &["secret"])])).await {
        Err(CommitError::Moved { name: left_out }) => assert_eq!(left_out, name("b")),
        outcome => panic!("{outcome:?}"),
    }
    let whole = vec![put("secret", "2"), referring("a", &["secret"]), referring("b", &["c"])];
    store.commit(writing(whole)).await.unwrap();
    assert_eq!(store.referrers(&name("secret")).await.unwrap(), [name("a")], "b is another now");
    // Referred to although it is gone: whoever writes it again must know.
    commit(&store, vec![delete("secret")]).await;
    assert_eq!(store.referrers(&name("secret")).await.unwrap(), [name("a")]);
    commit(&store, vec![delete("a")]).await;
    store.commit(writing(vec![put("secret", "3")])).await.unwrap();
}

pub async fn a_note_is_written_by_one(world: &World) {
    let (store, other, foreign) = (world.store(), world.store(), world.store_of("another"));
    assert_eq!(store.note("key").await.unwrap(), None);
    let (here, there) = futures::join!(store.put_note("key", None, "1"), other.put_note("key", None, "2"));
    let stands = here.unwrap();
    assert_eq!(there.unwrap(), stands, "both learn what the first one wrote");
    assert_eq!(other.put_note("key", Some("else"), "3").await.unwrap(), stands);
    assert_eq!(other.put_note("key", Some(&stands), "3").await.unwrap(), "3");
    assert_eq!(store.note("key").await.unwrap().as_deref(), Some("3"));
    assert_eq!((store.note("other").await.unwrap(), foreign.note("key").await.unwrap()), (None, None));
    assert_eq!(store.head().await.unwrap().position.revision, Revision(0), "no part of the line");
}

pub async fn a_payload_is_rewritten_where_it_is_still_so(world: &World) {
    let (store, other) = (world.store(), world.store_of("other"));
    commit(&store, vec![put("a", "1"), put("b", "2")]).await;
    commit(&store, vec![put("a", "3")]).await;
    commit(&store, vec![delete("b")]).await;
    commit(&other, vec![put("a", "1")]).await;
    let before = store.load().await.unwrap();
    let read = store.payloads(Revision(0), 9, "payload of 2").await.unwrap();
    let texts: Vec<_> = read.iter().map(|one| (one.revision.0, one.text.as_deref())).collect();
    assert_eq!(texts, [(1, Some("payload of 1")), (2, None), (3, Some("payload of 3")), (4, None)]);
    let page = store.payloads(Revision(1), 2, "").await.unwrap();
    assert_eq!(page.iter().map(|one| one.revision.0).collect::<Vec<_>>(), [2, 3]);

    let rewrite = |revision, handle: &str, from: &str| Rewrite {
        revision: Revision(revision),
        name: name(handle),
        from: format!("payload of {from}"),
        to: format!("another text for {from}"),
    };
    let written = store
        .rewrite(&[
            rewrite(1, "a", "1"),
            rewrite(2, "b", "2"),
            rewrite(3, "a", "not this"),
            rewrite(9, "c", "1"),
        ])
        .await;
    assert_eq!(written.unwrap(), 2, "one differs, one is not there");
    assert_eq!(store.load().await.unwrap(), before, "neither is current");
    assert_eq!(store.rewrite(&[rewrite(1, "a", "1")]).await.unwrap(), 0, "nothing twice");
    assert_eq!(store.rewrite(&[rewrite(3, "a", "3")]).await.unwrap(), 1);
    let after = store.load().await.unwrap();
    assert_eq!(after.position, before.position, "the line has not moved");
    assert_eq!(after.artifacts[0].payload.as_deref(), Some("another text for 3"));
    assert_eq!(after.artifacts[0].revision, Revision(3));
    let Changes::Line { changes, .. } =
        store.changes_since(Position::new(after.position.epoch, Revision(0)), 9).await.unwrap()
    else {
        panic!("the line goes on")
    };
    let texts: Vec<_> =
        changes.iter().map(|one| one.artifact.as_ref().and_then(|it| it.payload.as_deref())).collect();
    let another = ["another text for 1", "another text for 2", "another text for 3"].map(Some);
    assert_eq!(texts, [&another[..], &[None]].concat());
    let untouched = other.load().await.unwrap();
    assert_eq!(untouched.artifacts[0].payload.as_deref(), Some("payload of 1"));
}
