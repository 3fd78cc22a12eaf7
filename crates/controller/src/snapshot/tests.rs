// SPDX-License-Identifier: Apache-2.0
//! Random histories against a naive model: incremental equals rebuilt, and a difference
//! applied to an old set gives the new one.

use std::collections::BTreeMap;
use std::sync::Arc;

use ferrogate_model::{Digest, Epoch, Kind, Position, ResourceName, Revision};
use ferrogate_store::{Change, State, StoredArtifact};
use ferrogate_xds::Catalog;
use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};
use uuid::Uuid;

use super::{Limits, Snapshot, Tally};

/// One write of a random history.
#[derive(Clone, Debug)]
struct Step {
    handle: u8,
    action: Action,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Deploy,
    Undeploy,
    Delete,
}

fn histories() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let action = proptest::prop_oneof![
        4 => proptest::strategy::Just(Action::Deploy),
        1 => proptest::strategy::Just(Action::Undeploy),
        2 => proptest::strategy::Just(Action::Delete),
    ];
    let step = (0_u8..8, action).prop_map(|(handle, action)| Step { handle, action });
    vec(vec(step, 1..5), 1..20)
}

/// The naive model: the whole stored state after every batch.
struct Line {
    epoch: Epoch,
    states: Vec<State>,
    batches: Vec<Vec<Change>>,
}

fn play(history: &[Vec<Step>]) -> Line {
    let epoch = Epoch(3);
    let mut stored: BTreeMap<ResourceName, StoredArtifact> = BTreeMap::new();
    let mut revision = Revision::ZERO;
    let state = |revision, stored: &BTreeMap<ResourceName, StoredArtifact>| State {
        position: Position::new(epoch, revision),
        artifacts: stored.values().cloned().collect(),
    };
    let mut line = Line { epoch, states: vec![state(revision, &stored)], batches: Vec::new() };
    for steps in history {
        let batch_end = Revision(revision.0 + steps.len() as u64);
        let mut batch = Vec::new();
        for step in steps {
            revision = revision.next();
            let name: ResourceName = format!("rest-apis/api-{}", step.handle).parse().expect("well-formed");
            let artifact = match step.action {
                Action::Delete => None,
                Action::Deploy | Action::Undeploy => Some(artifact(&name, revision, step.action)),
            };
            match &artifact {
                Some(artifact) => stored.insert(name.clone(), artifact.clone()),
                None => stored.remove(&name),
            };
            batch.push(Change { revision, batch_end, name, artifact, author: "admin".into(), at: 0 });
        }
        line.batches.push(batch);
        line.states.push(state(revision, &stored));
    }
    line
}

fn artifact(name: &ResourceName, revision: Revision, action: Action) -> StoredArtifact {
    StoredArtifact {
        name: name.clone(),
        revision,
        uuid: Uuid::nil(),
        source: format!(
            r#"{{"spec":{{"displayName":"d","context":"/c/$version","version":"v{revision}"}}}}"#
        ),
        payload: matches!(action, Action::Deploy)
            .then(|| format!(r#"{{"displayName":"d","context":"/c/v{revision}","version":"v{revision}"}}"#)),
        created_at: 1,
        updated_at: 2,
    }
}

/// What a runtime holds, by name.
fn held(catalog: &Snapshot) -> BTreeMap<ResourceName, Revision> {
    catalog.everything().into_iter().map(|one| (one.name.as_ref().clone(), one.version)).collect()
}

fn rebuilt_digest(state: &State) -> Digest {
    state
        .artifacts
        .iter()
        .filter_map(|one| Some((one, one.payload.as_ref()?)))
        .fold(Digest::default(), |digest, (one, payload)| {
            digest.plus(Digest::of(&one.name, one.revision, payload.as_bytes()))
        })
}

proptest! {
    #[test]
    fn incremental_equals_rebuilt(history in histories()) {
        let line = play(&history);
        let mut snapshot = Snapshot::load(line.states[0].clone(), Limits::default());
        for (batch, state) in line.batches.iter().zip(&line.states[1..]) {
            snapshot = snapshot.apply(batch.clone());
            let rebuilt = Snapshot::load(state.clone(), Limits::default());
            prop_assert_eq!(snapshot.bytes(), rebuilt.bytes());
            prop_assert_eq!(Catalog::digest(&snapshot), rebuilt_digest(state));
            for kind in Kind::ALL {
                let of_kind = state.artifacts.iter().filter(|one| one.name.kind == kind);
                let deployed = of_kind.clone().filter(|one| one.payload.is_some()).count();
                prop_assert_eq!(snapshot.tally(kind), Tally { all: of_kind.count(), deployed });
            }
            prop_assert_eq!(snapshot.position(), Position::new(line.epoch, state.position.revision));
        }
    }

    #[test]
    fn a_difference_leads_from_any_old_set_to_the_new_one(
        history in histories(),
        from in any::<proptest::sample::Index>(),
        tombstones in 0_usize..6,
    ) {
        let line = play(&history);
        let limits = Limits { tombstones, digests: 1_000 };
        let mut snapshots = vec![Snapshot::load(line.states[0].clone(), limits)];
        for batch in &line.batches {
            let next = snapshots[snapshots.len() - 1].apply(batch.clone());
            snapshots.push(next);
        }
        let last = &snapshots[snapshots.len() - 1];
        let old = &snapshots[from.index(snapshots.len())];
        prop_assert!(last.had(old.position().revision, Catalog::digest(old)));
        let Some(delta) = last.changes_since(old.position().revision) else {
            // Forgotten only because more was deleted than is remembered.
            let deletions = line.batches.iter().flatten().filter(|change| change.artifact.is_none()).count();
            prop_assert!(deletions > tombstones);
            return Ok(());
        };
        let versions: Vec<Revision> = delta.upserts.iter().map(|one| one.version).collect();
        prop_assert!(versions.windows(2).all(|pair| pair[0] < pair[1]), "not in revision order");
        let mut set = held(old);
        for name in &delta.removes {
            set.remove(name);
        }
        set.extend(delta.upserts.iter().map(|one| (one.name.as_ref().clone(), one.version)));
        prop_assert_eq!(set, held(last));
        // Nothing that is held at its latest version is sent again.
        prop_assert!(versions.iter().all(|version| *version > old.position().revision));
    }
}

#[test]
fn what_is_forgotten_is_said_to_be() {
    let history: Vec<Vec<Step>> = (0..4)
        .flat_map(|handle| [Action::Deploy, Action::Delete].map(|action| vec![Step { handle, action }]))
        .collect();
    let line = play(&history);
    let mut snapshot = Snapshot::load(line.states[0].clone(), Limits { tombstones: 2, digests: 3 });
    for batch in line.batches {
        snapshot = snapshot.apply(batch);
    }
    assert_eq!(snapshot.position().revision, Revision(8));
    // The deletions at 2 and 4 are forgotten, so only differences from 4 on are complete.
    assert!(snapshot.changes_since(Revision(3)).is_none());
    assert_eq!(snapshot.changes_since(Revision(4)).expect("still known").removes.len(), 2);
    assert!(snapshot.changes_since(Revision(9)).is_none(), "the future is not known");
    let remembered = |revision: u64| {
        let then =
            Snapshot::load(line.states[usize::try_from(revision).unwrap_or(0)].clone(), Limits::default());
        snapshot.had(Revision(revision), Catalog::digest(&then))
    };
    assert_eq!([5, 6, 7, 8].map(remembered), [false, true, true, true]);
}

#[test]
fn a_change_makes_one_entry_and_shares_the_others() {
    let deploy = |handle| vec![Step { handle, action: Action::Deploy }];
    let line = play(&[deploy(1), deploy(2), deploy(1)]);
    let before = Snapshot::load(line.states[2].clone(), Limits::default());
    let after = before.apply(line.batches[2].clone());
    let shared = |handle: u8| {
        let name = format!("rest-apis/api-{handle}").parse().expect("well-formed");
        Arc::ptr_eq(before.get(&name).expect("there"), after.get(&name).expect("there"))
    };
    assert_eq!((shared(1), shared(2)), (false, true));
}

#[test]
fn a_remembered_position_takes_sixteen_bytes() {
    // Tens of thousands of them are kept by every controller for as long as it runs.
    assert_eq!(size_of::<super::Past>(), 16);
}

#[test]
#[should_panic(expected = "does not follow")]
fn a_gap_is_never_published() {
    let line = play(&[
        vec![Step { handle: 1, action: Action::Deploy }],
        vec![Step { handle: 1, action: Action::Delete }],
    ]);
    drop(Snapshot::load(line.states[0].clone(), Limits::default()).apply(line.batches[1].clone()));
}

#[test]
#[should_panic(expected = "was cut at")]
fn half_a_transaction_is_never_published() {
    let step = |handle| Step { handle, action: Action::Deploy };
    let line = play(&[vec![step(1), step(2)]]);
    drop(Snapshot::load(line.states[0].clone(), Limits::default()).apply(line.batches[0][..1].to_vec()));
}

#[test]
fn the_summary_of_an_undeployed_artifact_comes_from_its_source() {
    let line = play(&[vec![Step { handle: 1, action: Action::Undeploy }]]);
    let snapshot = Snapshot::load(line.states[1].clone(), Limits::default());
    let entry = snapshot.entries().next().expect("one artifact");
    assert_eq!((entry.summary.context.as_str(), entry.summary.version.as_str()), ("/c/v1", "v1"));
    assert!(snapshot.everything().is_empty());
}
