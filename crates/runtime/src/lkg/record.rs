// SPDX-License-Identifier: Apache-2.0
//! What the last-known-good file says, record by record, before it is sealed: a plain
//! binary form of its own, so that neither serde nor a change of an inner type can alter
//! what is on disk. Everything read here is foreign: lengths are checked before they are
//! believed. A change of the form takes a new version in the file's header.

use std::collections::BTreeMap;

use bytes::Bytes;
use ferrogate_model::{Digest, Epoch, Position, Resource, ResourceName, Revision};

use crate::state::Refused;

const PART: u8 = 1;
const BASE: u8 = 2;
const STEP: u8 = 3;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A part of the base set; worth nothing before [`Record::Base`].
    Part(Change),
    /// The base set is complete.
    Base(Mark),
    /// One update after the base: whole or not at all.
    Step(Mark, Change),
}

/// Which position the set has reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mark {
    /// The last update applied.
    pub position: Position,
    /// The digest of the set as delivered.
    pub digest: Digest,
}

/// The difference between two sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Accepted: new or changed. Takes back a refusal of the same name.
    pub upserts: Vec<Resource>,
    /// Gone, with any refusal.
    pub removes: Vec<ResourceName>,
    /// Refused; what was accepted before stays.
    pub refused: Vec<(ResourceName, Refused)>,
}

/// What the records up to some point amount to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Where the set stands.
    pub mark: Mark,
    /// The accepted resources.
    pub resources: BTreeMap<ResourceName, Resource>,
    /// The refused versions.
    pub refused: BTreeMap<ResourceName, Refused>,
}

/// A record that is not in the form this version writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It ends before it is complete, or goes on after.
    #[error("a record has the wrong length")]
    Length,
    /// A kind of record that this version does not know.
    #[error("a record has the unknown kind {0}")]
    Kind(u8),
    /// A name that no artifact can have, or a text that is none.
    #[error("a record has a malformed name or text")]
    Text,
}

impl Record {
    /// The record's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Record::Part(change) => {
                out.push(PART);
                put_change(&mut out, change);
            }
            Record::Base(mark) => {
                out.push(BASE);
                put_mark(&mut out, *mark);
            }
            Record::Step(mark, change) => {
                out.push(STEP);
                put_mark(&mut out, *mark);
                put_change(&mut out, change);
            }
        }
        out
    }

    /// The record of these bytes.
    ///
    /// # Errors
    /// When they are not exactly one record.
    pub fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
        let mut input = Input(bytes);
        let record = match input.byte()? {
            PART => Record::Part(input.change()?),
            BASE => Record::Base(input.mark()?),
            STEP => Record::Step(input.mark()?, input.change()?),
            other => return Err(RecordError::Kind(other)),
        };
        if input.0.is_empty() { Ok(record) } else { Err(RecordError::Length) }
    }
}

impl Change {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.removes.is_empty() && self.refused.is_empty()
    }
}

impl Contents {
    /// The contents after a change.
    pub fn apply(&mut self, change: Change) {
        for name in change.removes {
            self.resources.remove(&name);
            self.refused.remove(&name);
        }
        for resource in change.upserts {
            self.refused.remove(&resource.name);
            self.resources.insert(resource.name.clone(), resource);
        }
        self.refused.extend(change.refused);
    }
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// A length and that many bytes.
fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_mark(out: &mut Vec<u8>, mark: Mark) {
    put_u64(out, mark.position.epoch.0);
    put_u64(out, mark.position.revision.0);
    out.extend_from_slice(&mark.digest.to_bytes());
}

fn put_name(out: &mut Vec<u8>, name: &ResourceName) {
    put_bytes(out, name.to_string().as_bytes());
}

fn put_change(out: &mut Vec<u8>, change: &Change) {
    put_u64(out, change.upserts.len() as u64);
    for resource in &change.upserts {
        put_name(out, &resource.name);
        put_u64(out, resource.version.0);
        put_bytes(out, &resource.payload);
    }
    put_u64(out, change.removes.len() as u64);
    for name in &change.removes {
        put_name(out, name);
    }
    put_u64(out, change.refused.len() as u64);
    for (name, refused) in &change.refused {
        put_name(out, name);
        put_u64(out, refused.version.0);
        out.extend_from_slice(&refused.contribution.to_bytes());
        put_bytes(out, refused.reason.as_bytes());
    }
}

/// What is left to read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], RecordError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(RecordError::Length)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, RecordError> {
        self.take(1)?.first().copied().ok_or(RecordError::Length)
    }

    fn u64(&mut self) -> Result<u64, RecordError> {
        let bytes: [u8; 8] = self.take(8)?.try_into().map_err(|_| RecordError::Length)?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn bytes(&mut self) -> Result<&'a [u8], RecordError> {
        let length = usize::try_from(self.u64()?).map_err(|_| RecordError::Length)?;
        self.take(length)
    }

    fn text(&mut self) -> Result<&'a str, RecordError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| RecordError::Text)
    }

    fn name(&mut self) -> Result<ResourceName, RecordError> {
        self.text()?.parse().map_err(|_| RecordError::Text)
    }

    fn digest(&mut self) -> Result<Digest, RecordError> {
        Digest::from_bytes(self.take(32)?).ok_or(RecordError::Length)
    }

    fn mark(&mut self) -> Result<Mark, RecordError> {
        let position = Position::new(Epoch(self.u64()?), Revision(self.u64()?));
        Ok(Mark { position, digest: self.digest()? })
    }

    /// So many items, read one by one: a count is never trusted with an allocation.
    fn list<T>(
        &mut self,
        item: impl Fn(&mut Input<'a>) -> Result<T, RecordError>,
    ) -> Result<Vec<T>, RecordError> {
        let count = self.u64()?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn change(&mut self) -> Result<Change, RecordError> {
        Ok(Change {
            upserts: self.list(|input| {
                let (name, version) = (input.name()?, Revision(input.u64()?));
                Ok(Resource { name, version, payload: Bytes::copy_from_slice(input.bytes()?) })
            })?,
            removes: self.list(Input::name)?,
            refused: self.list(|input| {
                let (name, version, contribution) = (input.name()?, Revision(input.u64()?), input.digest()?);
                Ok((name, Refused { version, contribution, reason: input.text()?.to_owned() }))
            })?,
        })
    }
}
