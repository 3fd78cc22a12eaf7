// SPDX-License-Identifier: Apache-2.0
//! What a batch turns into, given what is stored: its guards checked, its revisions
//! given, its claims gathered. Pure: the drivers lock the gateway, read, call this,
//! and write what it says. Whatever both databases must decide alike is decided here.

use std::collections::{BTreeMap, HashMap, HashSet};

use ferrogate_model::{Epoch, ResourceName, Revision};
use uuid::Uuid;

use crate::rows::{self, ClaimRow, CurrentRow};
use crate::{Batch, Change, Commit, CommitError, Committed, Expect, StoreError, StoredArtifact, Write};

/// A stored artifact, as far as a commit must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Current {
    revision: Revision,
    uuid: Uuid,
    created_at: i64,
}

/// What to write, in one transaction.
#[derive(Debug)]
pub(crate) struct Plan {
    /// One change per write, in order.
    pub(crate) changes: Vec<Change>,
    /// Every claim of the batch and who wants it; the batch's artifacts hold no others.
    pub(crate) claims: BTreeMap<String, ResourceName>,
    /// What to answer.
    pub(crate) committed: Committed,
}

/// Every artifact that a commit must know to plan the batch.
pub(crate) fn known(batch: &Batch) -> impl Iterator<Item = &ResourceName> + Clone {
    let read = batch.expects.iter().filter_map(|expect| match expect {
        Expect::Unchanged { name, .. } => Some(name),
        Expect::ReferrersWritten { .. } => None,
    });
    batch.writes.iter().map(|write| &write.name).chain(read)
}

/// Every artifact whose referrers the batch must write.
pub(crate) fn referred(batch: &Batch) -> impl Iterator<Item = &ResourceName> {
    batch.expects.iter().filter_map(|expect| match expect {
        Expect::ReferrersWritten { name } => Some(name),
        Expect::Unchanged { .. } => None,
    })
}

/// Kind and handle of each artifact that refers to another, and of that other one.
pub(crate) fn references(batch: &Batch) -> Vec<[&str; 4]> {
    let mut rows = Vec::new();
    for commit in &batch.writes {
        let Write::Put { references, .. } = &commit.write else { continue };
        let name = &commit.name;
        rows.extend(references.iter().map(|target| {
            [name.kind.path_name(), name.handle.as_str(), target.kind.path_name(), target.handle.as_str()]
        }));
    }
    rows
}

/// Refuses the batch unless it writes every one of these.
pub(crate) fn check_referrers(batch: &Batch, referrers: Vec<ResourceName>) -> Result<(), CommitError> {
    let left_out = referrers.into_iter().find(|name| !batch.writes.iter().any(|write| write.name == *name));
    left_out.map_or(Ok(()), |name| Err(CommitError::Moved { name }))
}

/// How many revisions a batch takes.
///
/// The conditions on a batch are the caller's to meet, and checked before a transaction begins.
pub(crate) fn size(batch: &Batch) -> i64 {
    assert!(!batch.writes.is_empty(), "a batch is never empty");
    let names: HashSet<&ResourceName> = batch.writes.iter().map(|write| &write.name).collect();
    assert_eq!(names.len(), batch.writes.len(), "a batch writes each artifact once");
    i64::try_from(batch.writes.len()).unwrap_or(i64::MAX)
}

/// The artifacts a batch is about to write, by name.
pub(crate) fn current(rows: Vec<CurrentRow>) -> Result<HashMap<ResourceName, Current>, StoreError> {
    rows.into_iter()
        .map(|row| {
            let current = Current {
                revision: rows::revision(row.revision)?,
                uuid: rows::uuid(&row.uuid)?,
                created_at: row.created_at,
            };
            Ok((rows::name(&row.kind, &row.handle)?, current))
        })
        .collect()
}

/// Plans a batch that follows the revision `before`.
pub(crate) fn plan(
    batch: &Batch,
    epoch: Epoch,
    before: Revision,
    current: &HashMap<ResourceName, Current>,
) -> Result<Plan, CommitError> {
    let last = Revision(before.0.saturating_add(batch.writes.len() as u64));
    let mut changes = Vec::with_capacity(batch.writes.len());
    let mut claims = BTreeMap::new();
    let mut revision = before;
    for expect in &batch.expects {
        if let Expect::Unchanged { name, revision } = expect
            && current.get(name).map(|stored| stored.revision) != Some(*revision)
        {
            return Err(CommitError::Moved { name: name.clone() });
        }
    }
    for commit in &batch.writes {
        revision = revision.next();
        let stored = current.get(&commit.name);
        check_guard(commit, stored)?;
        let artifact = match &commit.write {
            Write::Delete => None,
            Write::Put { source, payload, uuid, claims: wanted, references: _ } => {
                let uuid = stored.map_or(*uuid, |stored| stored.uuid);
                claim(&mut claims, &commit.name, wanted)?;
                claim(&mut claims, &commit.name, &[id_claim(uuid)])?;
                Some(StoredArtifact {
                    name: commit.name.clone(),
                    revision,
                    uuid,
                    source: source.clone(),
                    payload: payload.clone(),
                    created_at: stored.map_or(batch.at, |stored| stored.created_at),
                    updated_at: batch.at,
                })
            }
        };
        changes.push(Change {
            revision,
            batch_end: last,
            name: commit.name.clone(),
            artifact,
            author: batch.author.clone(),
            at: batch.at,
        });
    }
    Ok(Plan { changes, claims, committed: Committed { epoch, first: before.next(), last } })
}

impl Plan {
    /// Refuses the batch if one of these rows, read after the batch's own artifacts have
    /// released theirs, holds a claim it wants.
    pub(crate) fn check_claims(&self, held: Vec<ClaimRow>) -> Result<(), CommitError> {
        for row in held {
            if let Some(name) = self.claims.get(&row.claim) {
                let holder = rows::name(&row.kind, &row.handle)?;
                return Err(CommitError::Claimed { name: name.clone(), claim: row.claim, holder });
            }
        }
        Ok(())
    }
}

/// What the claim on an id begins with: no two artifacts of a gateway share one.
pub const ID_CLAIM: &str = "id ";

/// The claim on an id.
#[must_use]
pub fn id_claim(uuid: Uuid) -> String {
    format!("{ID_CLAIM}{uuid}")
}

fn check_guard(commit: &Commit, stored: Option<&Current>) -> Result<(), CommitError> {
    let found = stored.map(|stored| stored.revision);
    // A delete needs something to delete: a tombstone for nothing is a change that changes nothing.
    let nothing_to_delete = found.is_none() && matches!(commit.write, Write::Delete);
    if commit.guard.holds(found) && !nothing_to_delete {
        return Ok(());
    }
    Err(CommitError::Guard { name: commit.name.clone(), found })
}

fn claim(
    claims: &mut BTreeMap<String, ResourceName>,
    name: &ResourceName,
    wanted: &[String],
) -> Result<(), CommitError> {
    for claim in wanted {
        match claims.insert(claim.clone(), name.clone()) {
            Some(holder) if holder != *name => {
                return Err(CommitError::Claimed { name: name.clone(), claim: claim.clone(), holder });
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Current, check_referrers, plan};
    use crate::{Batch, Commit, CommitError, Expect, Guard, Write};
    use ferrogate_model::{Epoch, Handle, Kind, ResourceName, Revision};
    use std::collections::HashMap;
    use uuid::Uuid;

    fn name(handle: &str) -> ResourceName {
        ResourceName::new(Kind::RestApi, Handle::try_new(handle).expect("a good handle"))
    }

    fn put(handle: &str, guard: Guard, claims: &[&str]) -> Commit {
        let write = Write::Put {
            source: "{}".into(),
            payload: None,
            uuid: Uuid::from_u128(9),
            claims: claims.iter().map(|claim| (*claim).to_owned()).collect(),
            references: Vec::new(),
        };
        Commit { name: name(handle), guard, write }
    }

    fn batch(writes: Vec<Commit>) -> Batch {
        Batch { id: Uuid::from_u128(1), author: "test".into(), at: 50, writes, expects: Vec::new() }
    }

    fn stored(handle: &str, revision: u64) -> HashMap<ResourceName, Current> {
        let current = Current { revision: Revision(revision), uuid: Uuid::from_u128(3), created_at: 7 };
        HashMap::from([(name(handle), current)])
    }

    #[test]
    fn guards_hold_or_refuse() {
        let delete = |guard| Commit { name: name("a"), guard, write: Write::Delete };
        let exact = Guard::AtRevision(Revision(4));
        for (commit, there, absent) in [
            (put("a", Guard::Any, &[]), true, true),
            (put("a", Guard::Absent, &[]), false, true),
            (put("a", Guard::Present, &[]), true, false),
            (put("a", exact, &[]), true, false),
            (put("a", Guard::AtRevision(Revision(3)), &[]), false, false),
            (delete(Guard::Any), true, false),
            (delete(Guard::Absent), false, false),
            (delete(exact), true, false),
        ] {
            let batch = batch(vec![commit.clone()]);
            let outcome = plan(&batch, Epoch(1), Revision(4), &stored("a", 4));
            assert_eq!(outcome.is_ok(), there, "stored, {commit:?}");
            let outcome = plan(&batch, Epoch(1), Revision(4), &HashMap::new());
            assert_eq!(outcome.is_ok(), absent, "not stored, {commit:?}");
        }
    }

    #[test]
    fn a_batch_takes_consecutive_revisions_and_keeps_identities() {
        let batch = batch(vec![put("a", Guard::Any, &["x"]), put("b", Guard::Any, &["y"])]);
        let plan = plan(&batch, Epoch(1), Revision(4), &stored("a", 2)).expect("a good batch");
        let revisions: Vec<_> = plan.changes.iter().map(|c| (c.revision.0, c.batch_end.0)).collect();
        assert_eq!(revisions, [(5, 6), (6, 6)]);
        let kept = plan.changes[0].artifact.as_ref().expect("a put");
        assert_eq!((kept.uuid, kept.created_at, kept.updated_at), (Uuid::from_u128(3), 7, 50));
        let fresh = plan.changes[1].artifact.as_ref().expect("a put");
        assert_eq!((fresh.uuid, fresh.created_at), (Uuid::from_u128(9), 50));
    }

    #[test]
    fn what_a_batch_was_made_from_must_still_be_so() {
        let expecting = |revision| {
            let expects = vec![Expect::Unchanged { name: name("a"), revision: Revision(revision) }];
            Batch { expects, ..batch(vec![put("b", Guard::Any, &[])]) }
        };
        for (expected, stored, holds) in
            [(4, stored("a", 4), true), (3, stored("a", 4), false), (4, HashMap::new(), false)]
        {
            let planned = plan(&expecting(expected), Epoch(1), Revision(4), &stored);
            let moved = matches!(&planned, Err(CommitError::Moved { name: moved }) if *moved == name("a"));
            assert_eq!((planned.is_ok(), moved), (holds, !holds), "{expected}, {stored:?}");
        }
        let writing = batch(vec![put("b", Guard::Any, &[])]);
        assert!(check_referrers(&writing, vec![name("b")]).is_ok());
        assert!(matches!(
            check_referrers(&writing, vec![name("b"), name("c")]),
            Err(CommitError::Moved { name: left_out }) if left_out == name("c")
        ));
    }

    #[test]
    fn two_artifacts_of_a_batch_cannot_claim_the_same() {
        let twice = batch(vec![put("a", Guard::Any, &["x", "x"]), put("b", Guard::Any, &["x"])]);
        match plan(&twice, Epoch(1), Revision(0), &HashMap::new()) {
            Err(CommitError::Claimed { name: wanting, claim, holder }) => {
                assert_eq!((wanting, claim.as_str(), holder), (name("b"), "x", name("a")));
            }
            other => panic!("{other:?}"),
        }
    }
}
