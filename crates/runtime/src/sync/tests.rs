// SPDX-License-Identifier: Apache-2.0
//! Updates, good and bad, against what must then be served, stated and found after a restart.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::slice;
use std::time::Duration;

use ferrogate_base::readiness::Readiness;
use ferrogate_model::{Digest, Epoch, Position, Resource, ResourceName, Revision};
use ferrogate_xds::{Sink, Update};
use proptest::prelude::{Strategy, prop, proptest};
use serde_json::json;

use super::build::build;
use super::order::Misfit;
use super::{RuntimeSink, Status};
use crate::lkg::LkgOptions;
use crate::prepare::tests::{broken, compiler, resource, with};
use crate::state::Snapshot;

fn at(epoch: u64, revision: u64) -> Position {
    Position::new(Epoch(epoch), Revision(revision))
}

fn digest(resources: &[Resource]) -> Digest {
    resources.iter().map(Digest::of_resource).fold(Digest::default(), Digest::plus)
}

fn full(position: Position, upserts: &[Resource]) -> Update {
    let digest = digest(upserts);
    Update { position, digest, full: true, upserts: upserts.to_vec(), removes: Vec::new() }
}

/// A step to the set `after`.
fn step(position: Position, upserts: &[Resource], removes: &[&str], after: &[Resource]) -> Update {
    let removes = removes.iter().map(|handle| name(handle)).collect();
    Update { position, digest: digest(after), full: false, upserts: upserts.to_vec(), removes }
}

fn name(handle: &str) -> ResourceName {
    format!("rest-apis/{handle}").parse().expect("a name")
}

async fn open(directory: Option<&Path>) -> (RuntimeSink, Readiness) {
    let readiness = Readiness::new();
    let lkg = directory.map(|directory| LkgOptions {
        data_dir: directory.to_owned(),
        key_file: None,
        deadline: Duration::from_secs(60),
    });
    let sink = RuntimeSink::open(compiler(), lkg, &readiness).await.expect("a sink");
    (sink, readiness)
}

/// The version that answers a path, if any.
fn serves(sink: &RuntimeSink, path: &str) -> Option<u64> {
    let snapshot = sink.state().load_full();
    snapshot.table.find("h", "GET", path, &|_| None).map(|route| route.version.0)
}

async fn apply(sink: &RuntimeSink, update: Update) -> Status {
    let outcome = sink.apply(update).await;
    assert!(!outcome.diverged);
    assert_eq!(outcome.not_persisted, None);
    sink.status()
}

#[tokio::test]
async fn updates_change_what_they_say_and_readiness_waits_for_the_first() {
    let (sink, readiness) = open(None).await;
    assert!(!readiness.is_ready() && !sink.status().ready);
    let (a1, b2) = (resource("a", 1, "/x"), resource("b", 2, "/x"));
    let status = apply(&sink, full(at(1, 2), &[a1.clone(), b2.clone()])).await;
    assert!(readiness.is_ready() && status.ready);
    assert_eq!((status.position, status.artifacts, status.routes), (at(1, 2), 2, 2));
    assert_eq!((serves(&sink, "/a/x"), serves(&sink, "/b/x")), (Some(1), Some(2)));
    let a3 = resource("a", 3, "/y");
    apply(&sink, step(at(1, 4), std::slice::from_ref(&a3), &["b"], std::slice::from_ref(&a3))).await;
    assert_eq!((serves(&sink, "/a/x"), serves(&sink, "/a/y"), serves(&sink, "/b/x")), (None, Some(3), None));
    // A whole set drops what it does not name, and a new epoch may have lower revisions.
    let status = apply(&sink, full(at(2, 1), std::slice::from_ref(&b2))).await;
    assert_eq!((status.position, serves(&sink, "/a/y"), serves(&sink, "/b/x")), (at(2, 1), None, Some(2)));
}

#[tokio::test]
async fn a_refused_resource_keeps_its_last_good_version_and_its_siblings_apply() {
    let (sink, _) = open(None).await;
    let (a1, b2) = (resource("a", 1, "/x"), resource("b", 2, "/x"));
    apply(&sink, full(at(1, 2), &[a1, b2.clone()])).await;
    let (a3, c4) = (broken("a", 3), resource("c", 4, "/x"));
    let after = [a3.clone(), b2.clone(), c4.clone()];
    let outcome = sink.apply(step(at(1, 4), &[a3, c4.clone()], &[], &after)).await;
    assert!(!outcome.diverged);
    assert_eq!(outcome.rejects.len(), 1);
    assert_eq!((outcome.rejects[0].resource.as_str(), outcome.rejects[0].revision), ("rest-apis/a", 3));
    assert_eq!((serves(&sink, "/a/x"), serves(&sink, "/c/x")), (Some(1), Some(4)));
    let held = sink.held();
    assert_eq!(held.digest, digest(&after));
    assert_eq!(held.rejected, BTreeMap::from([(name("a"), Revision(3))]));
    // A later good version takes the refusal back; a removal would as well.
    let a5 = resource("a", 5, "/x");
    apply(&sink, step(at(1, 5), std::slice::from_ref(&a5), &[], &[a5.clone(), b2, c4])).await;
    assert_eq!((serves(&sink, "/a/x"), sink.held().rejected.len()), (Some(5), 0));
}

#[tokio::test]
async fn an_update_that_does_not_fit_changes_nothing() {
    let (sink, _) = open(None).await;
    let a1 = resource("a", 1, "/x");
    apply(&sink, full(at(2, 5), std::slice::from_ref(&a1))).await;
    let b9 = resource("b", 9, "/x");
    for misfit in [
        step(at(2, 4), std::slice::from_ref(&b9), &[], &[a1.clone(), b9.clone()]),
        full(at(1, 99), std::slice::from_ref(&b9)),
        step(at(3, 9), std::slice::from_ref(&b9), &[], &[a1.clone(), b9.clone()]),
        step(at(2, 9), std::slice::from_ref(&b9), &[], &[]),
    ] {
        assert!(sink.apply(misfit).await.diverged);
        assert_eq!((sink.status().position, serves(&sink, "/b/x")), (at(2, 5), None));
    }
    assert_eq!(serves(&sink, "/a/x"), Some(1));
}

#[test]
fn only_the_finished_snapshot_has_collisions() {
    let compiler = compiler();
    let placed = |handle: &str, version, context: &str| with(handle, version, &json!({"context": context}));
    let (a1, b2) = (placed("a", 1, "/one"), placed("b", 2, "/two"));
    let built = |snapshot: &Snapshot, update: &Update| match build(&compiler, snapshot, update) {
        Ok(built) => (built.snapshot, built.collisions.into_iter().map(|(_, count)| count).sum::<usize>()),
        Err(misfit) => panic!("{misfit}"),
    };
    let (snapshot, collisions) = built(&Snapshot::default(), &full(at(1, 2), &[a1, b2]));
    assert_eq!(collisions, 0);
    // They change places in one update, in either order and in a whole set.
    let (a3, b4) = (placed("a", 3, "/two"), placed("b", 4, "/one"));
    let (ab, ba) = ([a3.clone(), b4.clone()], [b4.clone(), a3.clone()]);
    for update in [step(at(1, 4), &ab, &[], &ab), step(at(1, 4), &ba, &[], &ab), full(at(1, 4), &ab)] {
        let (swapped, collisions) = built(&snapshot, &update);
        assert_eq!(collisions, 0);
        let serves =
            |path: &str| swapped.table.find("h", "GET", path, &|_| None).map(|route| route.version.0);
        assert_eq!((serves("/two/x"), serves("/one/x")), (Some(3), Some(4)));
        // One that stays in the other's way is told, whichever of the two comes.
        let c5 = placed("c", 5, "/one");
        let (_, collisions) = built(
            &swapped,
            &step(at(1, 5), slice::from_ref(&c5), &[], &[a3.clone(), b4.clone(), c5.clone()]),
        );
        assert_eq!(collisions, 1);
    }
    let a5 = placed("a", 5, "/one");
    let (_, collisions) = built(&snapshot, &step(at(1, 5), &[a5.clone(), b4.clone()], &[], &[a5, b4]));
    assert_eq!(collisions, 1);
}

#[tokio::test]
async fn a_restarted_runtime_serves_what_it_acknowledged() {
    let directory = tempfile::tempdir().expect("a directory");
    let (a1, b2, a3, c4) =
        (resource("a", 1, "/x"), resource("b", 2, "/x"), broken("a", 3), resource("c", 4, "/x"));
    {
        let (sink, _) = open(Some(directory.path())).await;
        assert!(!sink.held().from_cache);
        apply(&sink, full(at(1, 2), &[a1, b2.clone()])).await;
        let after = [a3.clone(), b2.clone(), c4.clone()];
        let outcome = sink.apply(step(at(1, 4), &[a3.clone(), c4.clone()], &[], &after)).await;
        assert_eq!((outcome.rejects.len(), outcome.not_persisted), (1, None));
        apply(&sink, step(at(1, 5), &[], &["b"], &[a3.clone(), c4.clone()])).await;
        assert_eq!(sink.status().persisted, at(1, 5));
    }
    let (sink, readiness) = open(Some(directory.path())).await;
    let held = sink.held();
    assert!(held.from_cache && readiness.is_ready());
    assert_eq!((held.position, held.digest), (at(1, 5), digest(&[a3, c4.clone()])));
    assert_eq!(held.rejected, BTreeMap::from([(name("a"), Revision(3))]));
    assert_eq!(
        (serves(&sink, "/a/x"), serves(&sink, "/b/x"), serves(&sink, "/c/x")),
        (Some(1), None, Some(4))
    );
    sink.connected(Some("controller-1"));
    assert!(!sink.held().from_cache);
    assert_eq!(sink.status().controller.as_deref(), Some("controller-1"));
    // The stream goes on from there, into the same file.
    apply(&sink, step(at(1, 6), &[], &["a"], std::slice::from_ref(&c4))).await;
    drop(sink);
    let (sink, _) = open(Some(directory.path())).await;
    assert_eq!(
        (sink.held().position, serves(&sink, "/a/x"), serves(&sink, "/c/x")),
        (at(1, 6), None, Some(4))
    );
}

#[tokio::test]
async fn what_cannot_be_written_is_served_but_not_acknowledged() {
    let directory = tempfile::tempdir().expect("a directory");
    let (sink, readiness) = open(Some(directory.path())).await;
    let files = directory.path().join("lkg");
    fs::remove_dir_all(&files).expect("the directory goes");
    fs::write(&files, "in the way").expect("a file in its place");
    let a1 = resource("a", 1, "/x");
    let update = full(at(1, 1), std::slice::from_ref(&a1));
    let outcome = sink.apply(update.clone()).await;
    assert!(outcome.not_persisted.is_some() && !outcome.diverged);
    assert_eq!((serves(&sink, "/a/x"), readiness.is_ready()), (Some(1), true));
    assert_eq!(sink.held().position, Position::default());
    assert!(sink.status().persist_error.is_some());
    // The stream, opened again from there, brings the same update: now it is written.
    fs::remove_file(&files).expect("the file goes");
    fs::create_dir(&files).expect("the directory comes back");
    let status = apply(&sink, update).await;
    assert_eq!((status.persisted, status.persist_error), (at(1, 1), None));
    drop(sink);
    let (sink, _) = open(Some(directory.path())).await;
    assert_eq!(serves(&sink, "/a/x"), Some(1));
}

/// One change of a random history: which of four artifacts, and whether it is written
/// well, written badly or deleted.
#[derive(Clone, Copy, Debug)]
enum Event {
    Good(usize),
    Bad(usize),
    Gone(usize),
}

fn events() -> impl Strategy<Value = Vec<(Event, bool)>> {
    let event =
        (0..4_usize, 0..5_u8, proptest::prelude::any::<bool>()).prop_map(|(artifact, what, whole)| {
            let event = match what {
                0 => Event::Gone(artifact),
                1 => Event::Bad(artifact),
                _ => Event::Good(artifact),
            };
            (event, whole)
        });
    prop::collection::vec(event, 1..24)
}

proptest! {
    /// However a set was reached, in steps or whole, the snapshot serves each artifact's last
    /// good version since it last did not exist, and states the digest of what was delivered.
    #[test]
    fn a_snapshot_is_what_its_history_says(events in events()) {
        let compiler = compiler();
        let mut snapshot = Snapshot::default();
        let mut delivered: BTreeMap<usize, Resource> = BTreeMap::new();
        let mut good: BTreeMap<usize, u64> = BTreeMap::new();
        for (index, (event, whole)) in events.into_iter().enumerate() {
            let revision = index as u64 + 1;
            let mut removes = Vec::new();
            match event {
                Event::Good(i) => {
                    delivered.insert(i, resource(&format!("a{i}"), revision, "/x"));
                    good.insert(i, revision);
                }
                Event::Bad(i) => { delivered.insert(i, broken(&format!("a{i}"), revision)); }
                Event::Gone(i) => {
                    delivered.remove(&i);
                    good.remove(&i);
                    removes.push(name(&format!("a{i}")));
                }
            }
            let all: Vec<Resource> = delivered.values().cloned().collect();
            let update = if whole {
                full(at(1, revision), &all)
            } else {
                let changed = all.iter().filter(|resource| resource.version.0 == revision).cloned().collect();
                Update { position: at(1, revision), digest: digest(&all), full: false, upserts: changed, removes }
            };
            snapshot = match build(&compiler, &snapshot, &update) {
                Ok(built) => built.snapshot,
                Err(misfit) => panic!("{misfit}"),
            };
            assert_eq!(snapshot.table.len(), good.len());
            for i in 0..4 {
                let found = snapshot.table.find("h", "GET", &format!("/a{i}/x"), &|_| None);
                assert_eq!(found.map(|route| route.version.0), good.get(&i).copied());
            }
            let back = full(at(1, revision - 1), &all);
            assert!(matches!(build(&compiler, &snapshot, &back), Err(Misfit::Back { .. })));
        }
    }
}
