// SPDX-License-Identifier: Apache-2.0
//! Reading: the line, the past, leases, hints.

use std::time::Duration;

use ferrogate_model::{Epoch, Position, Reject, Revision};
use ferrogate_store::{Changes, ControllerLease, RuntimeLease, StoreError};
use futures::StreamExt;

use crate::world::{World, commit, commit_many, delete, name, put};

pub async fn changes_come_in_whole_batches(world: &World) {
    let store = world.store();
    let start = store.head().await.unwrap().position;
    commit(&store, vec![put("a", "1")]).await;
    commit(&store, vec![put("a", "2"), put("b", "2"), put("c", "2")]).await;
    commit(&store, vec![delete("b")]).await;
    for (from, limit, expected) in [
        (0, 0, vec![1]),
        (0, 1, vec![1]),
        (0, 2, vec![1, 2, 3, 4]),
        (1, 1, vec![2, 3, 4]),
        (1, 4, vec![2, 3, 4, 5]),
        (0, 99, vec![1, 2, 3, 4, 5]),
        (5, 9, vec![]),
    ] {
        let after = Position::new(start.epoch, Revision(from));
        let Changes::Line { epoch, changes, head } = store.changes_since(after, limit).await.unwrap() else {
            panic!("{after} is on the line")
        };
        let revisions: Vec<u64> = changes.iter().map(|change| change.revision.0).collect();
        assert_eq!((epoch, head, revisions), (start.epoch, Revision(5), expected), "{from}, {limit}");
        if let Some(deleted) = changes.iter().find(|change| change.revision == Revision(5)) {
            assert_eq!((&deleted.name, &deleted.artifact), (&name("b"), &None));
            assert_eq!((deleted.author.as_str(), deleted.at), ("tester", 1_000));
        }
    }
}

pub async fn a_position_off_the_line_is_told_to_resync(world: &World) {
    let store = world.store();
    let last = commit_many(&store, 6).await;
    store.prune(Revision(3)).await.unwrap();
    let head = store.head().await.unwrap();
    assert_eq!((head.position.revision, head.floor), (last, Revision(3)));
    let epoch = head.position.epoch;
    let below = Position::new(epoch, Revision(2));
    assert_eq!(store.changes_since(below, 9).await.unwrap(), Changes::Resync(head));
    let older = Position::new(Epoch(epoch.0 - 1), Revision(4));
    assert_eq!(store.changes_since(older, 9).await.unwrap(), Changes::Resync(head));
    let floor = Position::new(epoch, head.floor);
    assert!(
        matches!(store.changes_since(floor, 9).await.unwrap(), Changes::Line { changes, .. } if changes.len() == 3)
    );
    // Somebody holds what this database never had or has lost: the numbers up to there must
    // not be handed out again in the same epoch.
    let ahead = Position::new(epoch, Revision(9));
    let Changes::Resync(head) = store.changes_since(ahead, 9).await.unwrap() else { panic!("it is ahead") };
    assert!(head.position.epoch > epoch && head.position.revision == last, "{head:?}");
}

pub async fn the_past_can_be_read(world: &World) {
    let store = world.store();
    commit(&store, vec![put("a", "1")]).await;
    commit(&store, vec![put("b", "2"), put("a", "3")]).await;
    commit(&store, vec![delete("a")]).await;
    commit(&store, vec![put("a", "5")]).await;
    let content = |state: ferrogate_store::State| -> Vec<String> {
        state.artifacts.iter().map(|a| format!("{}={}@{}", a.name.handle, a.source, a.revision)).collect()
    };
    for (at, expected) in [
        (0, vec![]),
        (1, vec!["a=1@1"]),
        (3, vec!["a=3@3", "b=2@2"]),
        (4, vec!["b=2@2"]),
        (5, vec!["a=5@5", "b=2@2"]),
    ] {
        let state = store.state_at(Revision(at)).await.unwrap();
        assert_eq!(state.position.revision, Revision(at));
        assert_eq!(content(state), expected, "state at {at}");
        let artifact = store.artifact_at(&name("a"), Revision(at)).await.unwrap();
        let in_state = expected.iter().find(|text| text.starts_with("a=")).copied();
        let artifact = artifact.map(|a| format!("a={}@{}", a.source, a.revision));
        assert_eq!(artifact.as_deref(), in_state, "artifact at {at}");
    }
    assert_eq!(store.state_at(Revision(5)).await.unwrap(), store.load().await.unwrap());
    for beyond in
        [store.state_at(Revision(6)).await.err(), store.artifact_at(&name("a"), Revision(6)).await.err()]
    {
        assert!(matches!(beyond, Some(StoreError::OutOfRange { head: Revision(5), .. })), "{beyond:?}");
    }
    let revisions = |before: Option<u64>, limit| {
        let store = &store;
        async move {
            let changes = store.revisions(&name("a"), before.map(Revision), limit).await.unwrap();
            changes.iter().map(|c| (c.revision.0, c.artifact.is_some())).collect::<Vec<_>>()
        }
    };
    assert_eq!(revisions(None, 9).await, [(5, true), (4, false), (3, true), (1, true)]);
    assert_eq!(revisions(None, 2).await, [(5, true), (4, false)]);
    assert_eq!(revisions(Some(4), 2).await, [(3, true), (1, true)], "the next page");
    assert_eq!(revisions(Some(3), 1).await, [(1, true)], "revision 2 is another artifact's");
    assert_eq!(revisions(Some(u64::MAX), 1).await, [(5, true)]);
    assert_eq!(revisions(Some(1), 9).await, []);
}

pub async fn pruning_keeps_what_is_readable(world: &World) {
    let store = world.store();
    commit(&store, vec![put("a", "1")]).await;
    commit(&store, vec![put("a", "2"), put("b", "3"), put("c", "4")]).await;
    commit(&store, vec![delete("b")]).await;
    commit(&store, vec![put("a", "6")]).await;
    let before: Vec<_> = futures::future::join_all((5..=6).map(|at| store.state_at(Revision(at)))).await;
    // Within the batch that ends at 4: the floor goes to its beginning.
    assert_eq!(store.prune(Revision(3)).await.unwrap(), 0);
    assert_eq!(store.head().await.unwrap().floor, Revision(1));
    assert_eq!(store.prune(Revision(5)).await.unwrap(), 3, "a@1, b@3 and the tombstone");
    assert_eq!(store.prune(Revision(5)).await.unwrap(), 0, "nothing twice");
    assert_eq!(
        store.prune(Revision(2)).await.err().map(|error| error.to_string()),
        Some(
            StoreError::OutOfRange { asked: Revision(2), floor: Revision(5), head: Revision(6) }.to_string()
        )
    );
    for (at, before) in (5..=6).zip(before) {
        assert_eq!(store.state_at(Revision(at)).await.unwrap(), before.unwrap(), "state at {at}");
    }
    assert!(store.state_at(Revision(4)).await.is_err());
    let listed = store.revisions(&name("a"), None, 9).await.unwrap();
    assert_eq!(listed.iter().map(|c| c.revision.0).collect::<Vec<_>>(), [6, 2]);
    for change in listed {
        let read = store.artifact_at(&name("a"), change.revision).await.unwrap();
        assert_eq!(read, change.artifact, "what is listed can be read");
    }
    assert!(store.artifact_at(&name("a"), Revision(3)).await.is_err());
    assert!(store.prune(Revision(7)).await.is_err(), "above the head");
    store.prune(Revision(6)).await.unwrap();
    assert_eq!(commit(&store, vec![put("d", "7")]).await.last, Revision(7), "the line goes on");
}

pub async fn gateways_do_not_see_one_another(world: &World) {
    let (one, two) = (world.store_of("one"), world.store_of("two"));
    let claimed =
        |gateway: &str| vec![crate::world::put_with("a", gateway, ferrogate_store::Guard::Absent, &["x"])];
    commit(&one, claimed("one")).await;
    assert_eq!(commit(&two, claimed("two")).await.last, Revision(1));
    commit(&one, vec![put("a", "again")]).await;
    one.prune(Revision(2)).await.unwrap();
    one.report(&controller("c"), &[runtime("r", "c", true)]).await.unwrap();
    let state = two.load().await.unwrap();
    assert_eq!((state.position.revision, state.artifacts[0].source.as_str()), (Revision(1), "two"));
    assert_eq!(two.revisions(&name("a"), None, 9).await.unwrap().len(), 1);
    assert_eq!(two.head().await.unwrap().floor, Revision(0));
    let cluster = two.cluster().await.unwrap();
    assert_eq!((cluster.controllers.len(), cluster.runtimes.len()), (0, 0));
}

pub async fn leases_tell_who_is_alive(world: &World) {
    let (one, two) = (world.store(), world.store());
    one.report(&controller("c1"), &[runtime("r1", "c1", true), runtime("r2", "c1", true)]).await.unwrap();
    let first = two.cluster().await.unwrap();
    assert_eq!(first.controllers.iter().map(|c| c.id.as_str()).collect::<Vec<_>>(), ["c1"]);
    assert_eq!(
        first.runtimes.iter().map(|r| (r.id.as_str(), r.connected)).collect::<Vec<_>>(),
        [("r1", true), ("r2", true)]
    );
    let renewed = first.runtimes[0].renewed_at;
    assert!(renewed > 0 && renewed <= first.now, "by the database's clock: {renewed}, {}", first.now);
    let told = RuntimeLease { renewed_at: 0, ..first.runtimes[0].clone() };
    assert_eq!(told, runtime("r1", "c1", true), "everything comes back");
    // r1 moved; what the one it left says of it later does not count.
    two.report(&controller("c2"), &[runtime("r1", "c2", true)]).await.unwrap();
    one.report(&controller("c1"), &[runtime("r1", "c1", false), runtime("r2", "c1", false)]).await.unwrap();
    let moved = one.cluster().await.unwrap();
    let of =
        |id: &str| moved.runtimes.iter().find(|r| r.id == id).map(|r| (r.controller.clone(), r.connected));
    assert_eq!((of("r1"), of("r2")), (Some(("c2".into(), true)), Some(("c1".into(), false))));
    assert_eq!(one.head().await.unwrap().position.revision, Revision(0), "no part of the line");
    // A day later.
    let day = 24 * 3600 * 1_000_000_i64 + 1;
    for table in ["controllers", "runtimes"] {
        world.execute(&format!("UPDATE {table} SET renewed_at = renewed_at - {day}")).await;
    }
    two.report(&controller("c2"), &[]).await.unwrap();
    let rest = one.cluster().await.unwrap();
    assert_eq!(rest.controllers.iter().map(|c| c.id.as_str()).collect::<Vec<_>>(), ["c2"]);
    assert_eq!(rest.runtimes, []);
}

pub async fn a_commit_hints(world: &World) {
    let (store, of_another) = (world.store(), world.store_of("another"));
    store.head().await.unwrap();
    let mut hints = store.subscribe().await.unwrap();
    commit(&of_another, vec![put("a", "1"), put("b", "2"), put("c", "3")]).await;
    commit(&store, vec![put("a", "1"), put("b", "2")]).await;
    let hint = tokio::time::timeout(Duration::from_secs(20), hints.next()).await.unwrap();
    assert_eq!(hint, Some(Some(Revision(2))));
}

fn controller(id: &str) -> ControllerLease {
    ControllerLease {
        id: id.into(),
        zone: "z".into(),
        position: Position::new(Epoch(1), Revision(2)),
        runtimes: 1,
        load: 0.5,
        sealing: vec!["new".into(), "old".into()],
        renewed_at: 0,
    }
}

fn runtime(id: &str, controller: &str, connected: bool) -> RuntimeLease {
    RuntimeLease {
        id: id.into(),
        zone: "z".into(),
        controller: controller.into(),
        applied: Position::new(Epoch(1), Revision(2)),
        from_cache: false,
        rejects: vec![Reject { resource: "rest-apis/a".into(), revision: 2, reason: "no".into() }],
        version: "0.1.0".into(),
        connected,
        behind_since: Some(7),
        renewed_at: 0,
    }
}
