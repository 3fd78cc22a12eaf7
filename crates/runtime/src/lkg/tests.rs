// SPDX-License-Identifier: Apache-2.0
//! The file's form and what happens to it: cut off, damaged, outgrown, under another key.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_base::offload::Threads;
use ferrogate_model::{Digest, Epoch, Position, Resource, Revision};
use proptest::prelude::{Strategy, any, prop, proptest};

use super::record::{Change, Mark, Record};
use super::seal::{FileError, MasterKey, Seal, decode};
use super::{Job, Lkg, LkgError, LkgOptions, Loaded, PersistError};
use crate::state::{HeldArtifact, Refused, Snapshot};

/// Written once by format version 1, and never again: what it says must stay readable.
const FIXTURE: &[u8] = include_bytes!("../../tests/fixtures/lkg-v1.bin");

fn key() -> MasterKey {
    MasterKey::new([7; 32])
}

fn mark(revision: u64) -> Mark {
    Mark { position: Position::new(Epoch(3), Revision(revision)), digest: Digest([1, 2, 3, revision]) }
}

fn resource(handle: &str, version: u64) -> Resource {
    let name = format!("rest-apis/{handle}").parse().expect("a name");
    Resource { name, version: Revision(version), payload: format!("{{\"{handle}\":{version}}}").into() }
}

fn refused(version: u64) -> Refused {
    Refused { version: Revision(version), contribution: Digest([version; 4]), reason: "because".to_owned() }
}

/// A base of two resources and a refusal, then two steps.
fn records() -> Vec<Record> {
    let part = Change {
        upserts: vec![resource("a", 1), resource("b", 2)],
        removes: Vec::new(),
        refused: vec![(resource("c", 3).name, refused(3))],
    };
    let first = Change { upserts: vec![resource("c", 4)], ..Change::default() };
    let second = Change {
        upserts: vec![resource("b", 5)],
        removes: vec![resource("a", 1).name],
        refused: vec![(resource("c", 6).name, refused(6))],
    };
    vec![
        Record::Part(part),
        Record::Base(mark(3)),
        Record::Step(mark(4), first),
        Record::Step(mark(6), second),
    ]
}

/// A file of these records, and where each ends.
fn sealed(records: &[Record]) -> (Vec<u8>, Vec<usize>) {
    let seal = Seal::with_salt(&key(), [9; 16]).expect("a seal");
    let mut bytes = seal.header().to_vec();
    let mut ends = Vec::new();
    for (number, record) in records.iter().enumerate() {
        bytes.extend(seal.frame(number as u64, record).expect("a frame"));
        ends.push(bytes.len());
    }
    (bytes, ends)
}

fn position(bytes: &[u8]) -> Result<(u64, bool), FileError> {
    decode(bytes, &key()).map(|decoded| (decoded.contents.mark.position.revision.0, decoded.torn))
}

#[test]
fn the_first_format_version_stays_readable() {
    let decoded = decode(FIXTURE, &key()).expect("the fixture");
    assert_eq!(decoded.contents.mark, mark(6));
    assert_eq!(
        decoded.contents.resources.values().cloned().collect::<Vec<_>>(),
        [resource("b", 5), resource("c", 4)]
    );
    assert_eq!(decoded.contents.refused.into_values().collect::<Vec<_>>(), [refused(6)]);
    assert!(!decoded.torn);
    // And it is still what this version writes, or the version must change.
    assert_eq!(sealed(&records()).0, FIXTURE);
}

#[test]
fn a_file_cut_off_anywhere_after_its_base_is_its_longest_whole_prefix() {
    let (bytes, ends) = sealed(&records());
    for length in 0..=bytes.len() {
        let found = position(&bytes[..length]);
        if length < ends[1] {
            assert!(found.is_err(), "cut at {length}");
        } else {
            let revision = if length == ends[3] {
                6
            } else if length >= ends[2] {
                4
            } else {
                3
            };
            assert_eq!(found, Ok((revision, !ends.contains(&length))), "cut at {length}");
        }
    }
    // A file that grew before its data arrived.
    let mut grown = bytes[..ends[2]].to_vec();
    grown.resize(bytes.len(), 0);
    assert_eq!(position(&grown), Ok((4, true)));
}

#[test]
fn a_byte_changed_anywhere_never_gives_other_contents() {
    let (bytes, ends) = sealed(&records());
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        match position(&damaged) {
            // Only the last write may count as never acknowledged.
            Ok(found) => assert!(at >= ends[2] && found == (4, true), "byte {at}: {found:?}"),
            Err(_) => assert!(at < ends[3]),
        }
    }
}

#[test]
fn what_is_never_written_is_refused() {
    let (bytes, _) = sealed(&records());
    assert_eq!(decode(&bytes, &MasterKey::new([8; 32])).err(), Some(FileError::Sealed(0)));
    assert_eq!(position(b""), Err(FileError::Magic));
    let mut newer = bytes.clone();
    newer[11] = 2;
    assert_eq!(position(&newer), Err(FileError::Version(2)));
    let back = Record::Step(mark(2), Change::default());
    let (part, base) = (records()[0].clone(), records()[1].clone());
    assert_eq!(position(&sealed(&[base.clone(), back]).0), Err(FileError::Order(1)));
    assert_eq!(position(&sealed(&[base.clone(), part.clone()]).0), Err(FileError::Order(1)));
    assert_eq!(position(&sealed(&[base.clone(), base]).0), Err(FileError::Order(1)));
    assert_eq!(position(&sealed(&[part]).0), Err(FileError::Incomplete));
}

fn changes() -> impl Strategy<Value = Change> {
    let one = ("[a-z]{1,8}", any::<u64>());
    (prop::collection::vec(one, 0..5), prop::collection::vec("[a-z]{1,8}", 0..3)).prop_map(|(some, gone)| {
        Change {
            upserts: some.iter().map(|(handle, version)| resource(handle, *version)).collect(),
            removes: gone.iter().map(|handle| resource(handle, 0).name).collect(),
            refused: some
                .iter()
                .map(|(handle, version)| (resource(handle, 0).name, refused(*version)))
                .collect(),
        }
    })
}

proptest! {
    #[test]
    fn a_record_survives_the_round_trip(change in changes(), revision in any::<u64>()) {
        for record in [Record::Part(change.clone()), Record::Base(mark(revision)), Record::Step(mark(revision), change)] {
            let mut bytes = record.encode();
            assert_eq!(Record::decode(&bytes), Ok(record));
            bytes.push(0);
            assert!(Record::decode(&bytes).is_err());
        }
    }

    #[test]
    fn no_bytes_break_the_decoders(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _either = Record::decode(&bytes);
        let mut file = sealed(&records()).0;
        file.extend(&bytes);
        let _either = decode(&file, &key());
        assert!(decode(&bytes, &key()).is_err());
    }
}

/// A snapshot that holds these, at a position.
fn snapshot(sequence: u64, revision: u64, resources: &[Resource]) -> Arc<Snapshot> {
    let artifacts = resources.iter().map(|resource| {
        let held = HeldArtifact {
            version: resource.version,
            contribution: Digest::of_resource(resource),
            payload: resource.payload.clone(),
            certificate: None,
            routes: Vec::new(),
            poisoned: 0,
        };
        (resource.name.clone(), Arc::new(held))
    });
    let Mark { position, digest } = mark(revision);
    Arc::new(Snapshot { position, digest, artifacts: artifacts.collect(), sequence, ..Snapshot::default() })
}

fn job(snapshot: &Arc<Snapshot>, after: u64, upserts: Vec<Resource>) -> Job {
    Job { snapshot: Arc::clone(snapshot), after, change: Change { upserts, ..Change::default() } }
}

async fn open(directory: &Path) -> Result<(Lkg, Loaded), LkgError> {
    let data_dir = directory.to_owned();
    let options = LkgOptions { data_dir, key_file: None, deadline: Duration::from_secs(60) };
    Lkg::open(options, Arc::new(Threads)).await
}

async fn reopened(directory: &Path) -> (u64, usize) {
    let (_, loaded) = open(directory).await.expect("an open directory");
    let contents = loaded.contents.expect("contents");
    (contents.mark.position.revision.0, contents.resources.len())
}

#[tokio::test]
async fn updates_are_appended_until_they_outgrow_the_base() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("lkg/set.lkg");
    let (lkg, loaded) = open(directory.path()).await.expect("an open directory");
    assert!(loaded.contents.is_none());
    let size = || fs::metadata(&path).expect("a file").len();
    let mut resources = Vec::new();
    let mut sizes = Vec::new();
    for revision in 1..=40 {
        let large = Resource { payload: "x".repeat(100_000).into(), ..resource("same", revision) };
        resources = vec![large.clone()];
        let next = snapshot(revision, revision, &resources);
        lkg.persist(job(&next, revision - 1, vec![large])).await.expect("a write");
        assert_eq!(lkg.persisted(), mark(revision));
        sizes.push(size());
    }
    assert!(sizes.windows(2).any(|pair| pair[1] < pair[0]), "never rewritten: {sizes:?}");
    let grew = sizes.windows(2).filter(|pair| pair[1] > pair[0]).count();
    assert!(grew > 30, "an update costs an update: {sizes:?}");
    assert!(sizes.iter().all(|size| *size < 1_500_000), "the log has a limit: {sizes:?}");
    drop(lkg);
    assert_eq!(reopened(directory.path()).await, (40, resources.len()));
}

#[tokio::test]
async fn a_torn_write_is_dropped_and_the_file_goes_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("lkg/set.lkg");
    let (a, b, c) = (resource("a", 1), resource("b", 2), resource("c", 3));
    {
        let (lkg, _) = open(directory.path()).await.expect("an open directory");
        lkg.persist(job(&snapshot(1, 1, std::slice::from_ref(&a)), 0, vec![a.clone()]))
            .await
            .expect("a write");
        lkg.persist(job(&snapshot(2, 2, &[a.clone(), b.clone()]), 1, vec![b])).await.expect("a write");
    }
    let bytes = fs::read(&path).expect("a file");
    fs::write(&path, &bytes[..bytes.len() - 5]).expect("a shorter file");
    {
        let (lkg, loaded) = open(directory.path()).await.expect("an open directory");
        assert_eq!(loaded.contents.expect("contents").mark, mark(1));
        lkg.persist(job(&snapshot(1, 3, &[a, c.clone()]), 0, vec![c])).await.expect("a write");
    }
    assert_eq!(reopened(directory.path()).await, (3, 2));
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_and_the_runtime_starts_empty() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("lkg/set.lkg");
    {
        let (lkg, _) = open(directory.path()).await.expect("an open directory");
        lkg.persist(job(&snapshot(1, 1, &[resource("a", 1)]), 0, Vec::new())).await.expect("a write");
    }
    let mut bytes = fs::read(&path).expect("a file");
    bytes[60] ^= 1;
    fs::write(&path, &bytes).expect("a damaged file");
    let (lkg, loaded) = open(directory.path()).await.expect("an open directory");
    assert!(loaded.contents.is_none() && loaded.refused_file.is_some());
    assert_eq!(fs::read(directory.path().join("lkg/set.lkg.bad")).expect("the bad file"), bytes);
    lkg.persist(job(&snapshot(1, 1, &[resource("a", 1)]), 0, Vec::new())).await.expect("a write");
    drop(lkg);
    assert_eq!(reopened(directory.path()).await, (1, 1));
}

#[tokio::test]
async fn one_process_has_the_directory_and_its_position_never_goes_back() {
    use std::os::unix::fs::PermissionsExt as _;

    let directory = tempfile::tempdir().expect("a directory");
    let (lkg, _) = open(directory.path()).await.expect("an open directory");
    assert!(matches!(open(directory.path()).await, Err(LkgError::InUse(_))));
    lkg.persist(job(&snapshot(1, 5, &[]), 0, Vec::new())).await.expect("a write");
    let back = lkg.persist(job(&snapshot(2, 4, &[]), 1, Vec::new())).await;
    assert!(matches!(back, Err(PersistError::GoesBack { .. })));
    drop(lkg);
    let mode =
        |name: &str| fs::metadata(directory.path().join(name)).expect("a file").permissions().mode() & 0o777;
    assert_eq!((mode("lkg.key"), mode("lkg/set.lkg"), mode("lkg")), (0o600, 0o600, 0o700));
    // Under another key nothing opens, and nothing is served.
    fs::write(directory.path().join("lkg.key"), "ab".repeat(32)).expect("another key");
    let (_, loaded) = open(directory.path()).await.expect("an open directory");
    assert!(loaded.contents.is_none() && loaded.refused_file.is_some());
}
