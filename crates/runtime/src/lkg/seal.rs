// SPDX-License-Identifier: Apache-2.0
//! How records are sealed into a file. A header names the format and carries a salt; each
//! file has a key of its own, derived from the master key and that salt, so that a
//! record's number can serve as its nonce and never repeats under one key. The header is
//! bound into every record, and the number orders them: nothing can be moved, dropped
//! from the middle or taken from another file. [`decode`] is pure, for the fuzzer.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, MAX_TAG_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};

use super::record::{Contents, Record, RecordError};

/// The largest sealed record that is believed: far above any that is written.
const MAX_RECORD_BYTES: usize = 1 << 30;

const MAGIC: &[u8; 8] = b"ferrolkg";
const VERSION: u32 = 1;
const SALT_BYTES: usize = 16;
/// A length and its complement: a damaged length must not pass for a write that was cut off.
const PREFIX_BYTES: usize = 8;
/// Magic, version, salt.
pub(super) const HEADER_BYTES: usize = 8 + 4 + SALT_BYTES;

/// The secret that seals a runtime's files. It has no `Debug`.
pub struct MasterKey([u8; 32]);

/// The key and header of one file.
pub(super) struct Seal {
    header: [u8; HEADER_BYTES],
    key: LessSafeKey,
}

/// What a file held.
#[derive(Debug)]
pub struct Decoded {
    /// The set it leaves.
    pub contents: Contents,
    /// How many records it has.
    pub records: u64,
    /// The last record was cut off: it was being written when the process or the machine
    /// stopped, and so was never acknowledged.
    pub torn: bool,
}

/// A file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// It does not begin as these files do.
    #[error("it is not a last-known-good file")]
    Magic,
    /// Another version wrote it.
    #[error("it has the format version {0}, this binary reads {VERSION}")]
    Version(u32),
    /// A record does not open: the key is another one, or the bytes have changed.
    #[error("record {0} does not open under this key: it was damaged, or sealed under another key")]
    Sealed(u64),
    /// A record opened and is not understood.
    #[error("record {0}: {1}")]
    Record(u64, RecordError),
    /// Records come in an order that is never written.
    #[error("record {0} goes back or is out of place")]
    Order(u64),
    /// The base set is not complete.
    #[error("the base set is not complete")]
    Incomplete,
    /// The system's random numbers or primitives failed.
    #[error("sealing failed")]
    Crypto,
}

impl MasterKey {
    /// The key of these bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> MasterKey {
        MasterKey(bytes)
    }
}

impl Seal {
    /// The seal of a new file.
    pub(super) fn create(master: &MasterKey) -> Result<Seal, FileError> {
        let mut salt = [0; SALT_BYTES];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut salt)
            .map_err(|_| FileError::Crypto)?;
        Seal::with_salt(master, salt)
    }

    pub(super) fn with_salt(master: &MasterKey, salt: [u8; SALT_BYTES]) -> Result<Seal, FileError> {
        let mut header = [0; HEADER_BYTES];
        let parts = MAGIC.iter().chain(&VERSION.to_be_bytes()).copied().chain(salt).collect::<Vec<u8>>();
        header.copy_from_slice(&parts);
        Seal::of_header(master, header)
    }

    /// The seal of an existing file.
    fn of_header(master: &MasterKey, header: [u8; HEADER_BYTES]) -> Result<Seal, FileError> {
        let rest = header.strip_prefix(MAGIC.as_slice()).ok_or(FileError::Magic)?;
        let (version, salt) = rest.split_first_chunk::<4>().ok_or(FileError::Magic)?;
        let version = u32::from_be_bytes(*version);
        if version != VERSION {
            return Err(FileError::Version(version));
        }
        let derived = Salt::new(HKDF_SHA256, salt).extract(&master.0);
        let key =
            derived.expand(&[b"ferrogate last-known-good"], &AES_256_GCM).map_err(|_| FileError::Crypto)?;
        Ok(Seal { header, key: LessSafeKey::new(UnboundKey::from(key)) })
    }

    pub(super) fn header(&self) -> &[u8] {
        &self.header
    }

    /// A record as it stands in the file: its length, then its sealed bytes. A number must
    /// never be sealed twice with different content.
    pub(super) fn frame(&self, number: u64, record: &Record) -> Result<Vec<u8>, FileError> {
        let mut sealed = record.encode();
        self.key
            .seal_in_place_append_tag(nonce(number), Aad::from(&self.header), &mut sealed)
            .map_err(|_| FileError::Crypto)?;
        let length = u32::try_from(sealed.len()).map_err(|_| FileError::Crypto)?;
        let mut frame = Vec::with_capacity(PREFIX_BYTES + sealed.len());
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(&(!length).to_be_bytes());
        frame.append(&mut sealed);
        Ok(frame)
    }

    fn open(&self, number: u64, sealed: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = sealed.to_vec();
        let plain = self.key.open_in_place(nonce(number), Aad::from(&self.header), &mut bytes).ok()?.len();
        bytes.truncate(plain);
        Some(bytes)
    }
}

/// Reads a whole file and returns the seal to go on with.
pub(super) fn decode_with_seal(bytes: &[u8], master: &MasterKey) -> Result<(Decoded, Seal), FileError> {
    let (header, mut rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(FileError::Magic)?;
    let seal = Seal::of_header(master, *header)?;
    let mut decoded = Decoded { contents: Contents::default(), records: 0, torn: false };
    let mut complete = false;
    while !rest.is_empty() {
        let number = decoded.records;
        let (sealed, after) = match next_frame(rest) {
            Some(frame) => frame,
            // Cut off, or zeros that a crash left where the length would have been written.
            None if complete && is_torn(rest) => {
                decoded.torn = true;
                break;
            }
            None => return Err(FileError::Sealed(number)),
        };
        let Some(plain) = seal.open(number, sealed) else {
            // Only the last write can be half there: anything before it was synced.
            if complete && after.is_empty() {
                decoded.torn = true;
                break;
            }
            return Err(FileError::Sealed(number));
        };
        let record = Record::decode(&plain).map_err(|error| FileError::Record(number, error))?;
        match record {
            Record::Part(change) if !complete => decoded.contents.apply(change),
            Record::Base(mark) if !complete => {
                decoded.contents.mark = mark;
                complete = true;
            }
            // The position on disk never goes back either (invariant 4).
            Record::Step(mark, change) if complete && mark.position >= decoded.contents.mark.position => {
                decoded.contents.mark = mark;
                decoded.contents.apply(change);
            }
            Record::Part(_) | Record::Base(_) | Record::Step(..) => return Err(FileError::Order(number)),
        }
        decoded.records += 1;
        rest = after;
    }
    if complete { Ok((decoded, seal)) } else { Err(FileError::Incomplete) }
}

/// Reads a whole file: everything up to its end or to a torn last record.
///
/// # Errors
/// When anything that was once synced cannot be read: a prefix of it would bring back
/// what has been revoked since.
pub fn decode(bytes: &[u8], master: &MasterKey) -> Result<Decoded, FileError> {
    decode_with_seal(bytes, master).map(|(decoded, _)| decoded)
}

/// A whole file of these records, each under its number. Pure, for the fuzzer and for
/// fixtures: a salt must never be used twice with other records.
///
/// # Errors
/// When a record is too long, or the primitives fail.
pub fn encode(records: &[Record], master: &MasterKey, salt: [u8; SALT_BYTES]) -> Result<Vec<u8>, FileError> {
    let seal = Seal::with_salt(master, salt)?;
    let mut file = seal.header().to_vec();
    for (number, record) in (0..).zip(records) {
        file.append(&mut seal.frame(number, record)?);
    }
    Ok(file)
}

/// The next sealed record and what follows it; `None` when there is no whole one.
fn next_frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = frame_length(bytes)?;
    rest.split_at_checked(length)
}

/// The length a record states, and what follows the statement.
fn frame_length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (check, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_be_bytes(*length);
    let plausible = u32::from_be_bytes(*check) == !length;
    let length = usize::try_from(length).ok()?;
    (plausible && length > MAX_TAG_LEN && length <= MAX_RECORD_BYTES).then_some((length, rest))
}

/// Whether what has no whole record at its start looks like a write that was cut off:
/// shorter than it says, or a beginning with nothing but zeros after it (a file that grew
/// before its data arrived). Anything else was written whole once, and is damaged.
fn is_torn(rest: &[u8]) -> bool {
    frame_length(rest).is_some() || rest.iter().skip(PREFIX_BYTES).all(|byte| *byte == 0)
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    for (byte, value) in bytes.iter_mut().skip(4).zip(number.to_be_bytes()) {
        *byte = value;
    }
    Nonce::assume_unique_for_key(bytes)
}
