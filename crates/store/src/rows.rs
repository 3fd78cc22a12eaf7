// SPDX-License-Identifier: Apache-2.0
//! Rows as they come from either database, and their checked way into the types of
//! this crate. A row that this version would not have written is `Corrupt`, never
//! guessed at. Here invariant 1 (no gap, no repetition) is asserted on reading.

use ferrogate_model::{Epoch, Handle, Kind, Position, ResourceName, Revision};
use uuid::Uuid;

use crate::fault::corrupt;
use crate::{
    Change, Cluster, Committed, ControllerLease, Head, Payload, RuntimeLease, StoreError, StoredArtifact,
};

/// A gateway's row, with what the same statement learnt about the history it belongs to.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct GatewayRow {
    pub(crate) epoch: i64,
    pub(crate) revision: i64,
    pub(crate) floor: i64,
    /// The lineage the epoch was given for.
    pub(crate) lineage: String,
    /// The lineage the database has now.
    pub(crate) lineage_now: String,
    /// The batch of the change this process saw last, as the database has it.
    pub(crate) witness: Option<String>,
    /// The batch of the newest change.
    pub(crate) head_batch: Option<String>,
}

/// An artifact's row.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct ArtifactRow {
    kind: String,
    handle: String,
    uuid: String,
    revision: i64,
    source: String,
    payload: Option<String>,
    created_at: i64,
    updated_at: i64,
}

/// A change's row.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct ChangeRow {
    revision: i64,
    batch_end: i64,
    batch_id: String,
    kind: String,
    handle: String,
    action: String,
    uuid: Option<String>,
    source: Option<String>,
    payload: Option<String>,
    created_at: Option<i64>,
    author: String,
    at: i64,
}

/// What a commit must know of the artifacts it is about to write.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct CurrentRow {
    pub(crate) kind: String,
    pub(crate) handle: String,
    pub(crate) uuid: String,
    pub(crate) revision: i64,
    pub(crate) created_at: i64,
}

/// A claim and who holds it.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct ClaimRow {
    pub(crate) claim: String,
    pub(crate) kind: String,
    pub(crate) handle: String,
}

/// A change's payload.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct PayloadRow {
    revision: i64,
    kind: String,
    handle: String,
    payload: Option<String>,
}

/// An artifact's key.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct NameRow {
    pub(crate) kind: String,
    pub(crate) handle: String,
}

/// What a commit checks before it writes.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct BeforeCommitRow {
    pub(crate) last_change: Option<i64>,
    pub(crate) first_revision: Option<i64>,
    pub(crate) last_revision: Option<i64>,
}

/// A lease's row.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct LeaseRow {
    id: String,
    report: String,
    renewed_at: i64,
}

impl GatewayRow {
    pub(crate) fn head(&self) -> Result<Head, StoreError> {
        let position = Position::new(epoch(self.epoch)?, revision(self.revision)?);
        let floor = revision(self.floor)?;
        if floor > position.revision {
            return Err(corrupt(format!("the floor {floor} is above the head {position}")));
        }
        Ok(Head { position, floor })
    }
}

impl ArtifactRow {
    pub(crate) fn into_artifact(self) -> Result<StoredArtifact, StoreError> {
        Ok(StoredArtifact {
            name: name(&self.kind, &self.handle)?,
            revision: revision(self.revision)?,
            uuid: uuid(&self.uuid)?,
            source: self.source,
            payload: self.payload,
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}

impl ChangeRow {
    /// The batch this change was part of.
    pub(crate) fn batch(&self) -> Result<Uuid, StoreError> {
        uuid(&self.batch_id)
    }

    pub(crate) fn into_change(self) -> Result<Change, StoreError> {
        let name = name(&self.kind, &self.handle)?;
        let revision = revision(self.revision)?;
        let artifact = match (self.action.as_str(), self.uuid, self.source, self.created_at) {
            ("delete", ..) => None,
            ("put", Some(id), Some(source), Some(created_at)) => Some(StoredArtifact {
                name: name.clone(),
                revision,
                uuid: uuid(&id)?,
                source,
                payload: self.payload,
                created_at,
                updated_at: self.at,
            }),
            (action, ..) => {
                return Err(corrupt(format!("the change {revision} is an incomplete '{action}'")));
            }
        };
        Ok(Change {
            revision,
            batch_end: self::revision(self.batch_end)?,
            name,
            artifact,
            author: self.author,
            at: self.at,
        })
    }
}

impl PayloadRow {
    pub(crate) fn into_payload(self) -> Result<Payload, StoreError> {
        let name = name(&self.kind, &self.handle)?;
        Ok(Payload { revision: revision(self.revision)?, name, text: self.payload })
    }
}

impl BeforeCommitRow {
    /// The batch as it was committed earlier, if it was.
    pub(crate) fn repeated(&self, in_epoch: Epoch) -> Result<Option<Committed>, StoreError> {
        match (self.first_revision, self.last_revision) {
            (Some(first), Some(last)) => {
                Ok(Some(Committed { epoch: in_epoch, first: revision(first)?, last: revision(last)? }))
            }
            _ => Ok(None),
        }
    }

    /// Invariant 1 when written: the counter and the last change agree before they move on.
    pub(crate) fn check_line(&self, head: Head) -> Result<(), StoreError> {
        let last = revision(self.last_change.unwrap_or(0))?;
        let counter = head.position.revision;
        // At the floor every change may have been pruned away; above it none.
        if last == counter || (counter == head.floor && last < counter) {
            return Ok(());
        }
        Err(corrupt(format!("the counter stands at {counter} but the last change is {last}")))
    }
}

/// Turns rows into changes and asserts that they are the line that follows `after`:
/// no revision missing, none twice, the last one the end of its batch.
pub(crate) fn line(after: Revision, rows: Vec<ChangeRow>) -> Result<Vec<Change>, StoreError> {
    let mut changes = Vec::with_capacity(rows.len());
    let mut previous = after;
    for row in rows {
        let change = row.into_change()?;
        if change.revision != previous.next() {
            return Err(corrupt(format!("the change {} follows {previous}", change.revision)));
        }
        previous = change.revision;
        changes.push(change);
    }
    match changes.last() {
        Some(last) if last.revision != last.batch_end => {
            Err(corrupt(format!("the batch that ends at {} breaks off at {}", last.batch_end, last.revision)))
        }
        _ => Ok(changes),
    }
}

/// Every artifact of a state, in name order whatever the database's idea of order is.
pub(crate) fn sorted(mut artifacts: Vec<StoredArtifact>) -> Vec<StoredArtifact> {
    artifacts.sort_by(|a, b| a.name.cmp(&b.name));
    artifacts
}

/// Leases as read. One that this version cannot read belongs to a newer replica, whose own
/// view is complete; it is left out rather than making the status of all others unknown.
pub(crate) fn cluster(controllers: Vec<LeaseRow>, runtimes: Vec<LeaseRow>, now: i64) -> Cluster {
    let controllers = controllers.into_iter().filter_map(|row| {
        let lease: ControllerLease = read_report(&row)?;
        Some(ControllerLease { renewed_at: row.renewed_at, ..lease })
    });
    let runtimes = runtimes.into_iter().filter_map(|row| {
        let lease: RuntimeLease = read_report(&row)?;
        Some(RuntimeLease { renewed_at: row.renewed_at, ..lease })
    });
    Cluster { controllers: controllers.collect(), runtimes: runtimes.collect(), now }
}

/// The artifacts with these keys.
pub(crate) fn names(rows: Vec<NameRow>) -> Result<Vec<ResourceName>, StoreError> {
    rows.iter().map(|row| name(&row.kind, &row.handle)).collect()
}

/// A number the database keeps signed.
pub(crate) fn signed(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

pub(crate) fn revision(number: i64) -> Result<Revision, StoreError> {
    u64::try_from(number).map(Revision).map_err(|_| corrupt(format!("{number} is not a revision")))
}

pub(crate) fn epoch(number: i64) -> Result<Epoch, StoreError> {
    u64::try_from(number).map(Epoch).map_err(|_| corrupt(format!("{number} is not an epoch")))
}

pub(crate) fn uuid(text: &str) -> Result<Uuid, StoreError> {
    Uuid::parse_str(text).map_err(|error| corrupt(format!("'{text}' is not a uuid: {error}")))
}

pub(crate) fn name(kind: &str, handle: &str) -> Result<ResourceName, StoreError> {
    let kind = Kind::from_path_name(kind)
        .ok_or_else(|| corrupt(format!("the kind '{kind}' is unknown to this version")))?;
    let handle = Handle::try_new(handle).map_err(corrupt)?;
    Ok(ResourceName::new(kind, handle))
}

fn read_report<T: serde::de::DeserializeOwned>(row: &LeaseRow) -> Option<T> {
    match serde_json::from_str(&row.report) {
        Ok(lease) => Some(lease),
        Err(error) => {
            tracing::warn!(lease = %row.id, %error, "leaving out a lease this version cannot read");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ChangeRow, line};
    use ferrogate_model::Revision;

    fn row(revision: i64, batch_end: i64) -> ChangeRow {
        ChangeRow {
            revision,
            batch_end,
            batch_id: uuid::Uuid::nil().to_string(),
            kind: "rest-apis".into(),
            handle: "a".into(),
            action: "delete".into(),
            uuid: None,
            source: None,
            payload: None,
            created_at: None,
            author: "test".into(),
            at: 0,
        }
    }

    #[test]
    fn a_line_with_a_gap_a_repetition_or_half_a_batch_is_refused() {
        for (rows, readable) in [
            (vec![], true),
            (vec![(4, 4)], true),
            (vec![(4, 5), (5, 5)], true),
            (vec![(5, 5)], false),
            (vec![(3, 3)], false),
            (vec![(4, 4), (4, 4)], false),
            (vec![(4, 4), (6, 6)], false),
            (vec![(4, 5)], false),
        ] {
            let read = line(Revision(3), rows.iter().map(|(revision, end)| row(*revision, *end)).collect());
            assert_eq!(read.is_ok(), readable, "{rows:?}");
        }
    }

    #[test]
    fn a_put_without_its_document_is_refused() {
        let broken = ChangeRow { action: "put".into(), ..row(4, 4) };
        assert!(broken.into_change().is_err());
    }
}
