// SPDX-License-Identifier: Apache-2.0
//! The last-known-good file: any bytes as a file, any bytes as a record, and sealed files
//! of whatever records the bytes are. A file says what its records say, cut off it says
//! less and never something else, and its position never goes back.

use ferrogate_runtime::lkg::record::{Contents, Record};
use ferrogate_runtime::lkg::{MasterKey, decode, seal};

use crate::Target;
use crate::choices::Choices;

/// The target.
pub const TARGET: Target = Target {
    name: "snapshot_file",
    run,
    rounds: 12000,
    words: &[
        "ferrolkg\0\0\0\x01",
        "rest-apis/a",
        "\0\0\0\0\0\0\0\x01",
        "\x01",
        "\x02",
        "\x03",
        "\0\0\0\0\0\0\0\0",
    ],
};

fn run(data: &[u8]) {
    // The key of the kept file of the first format version.
    let key = MasterKey::new([7; 32]);
    if let Ok(decoded) = decode(data, &key) {
        assert!(decoded.records > 0);
    }
    let mut choices = Choices::new(data);
    let mut records = Vec::new();
    while !choices.is_empty() {
        let bytes = choices.stretch();
        if let Ok(record) = Record::decode(bytes) {
            assert_eq!(record.encode(), bytes, "two spellings of one record");
            records.push(record);
        }
    }
    let Ok(file) = seal::encode(&records, &key, [9; 16]) else { return };
    match decode(&file, &key) {
        Ok(decoded) => {
            assert_eq!(decoded.contents, said(records));
            assert!(!decoded.torn);
            let position = decoded.contents.mark.position;
            let cut = file.get(..file.len() - 1).unwrap_or_default();
            if let Ok(before) = decode(cut, &key) {
                assert!(before.torn && before.contents.mark.position <= position);
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn said(records: Vec<Record>) -> Contents {
    let mut contents = Contents::default();
    for record in records {
        match record {
            Record::Part(change) => contents.apply(change),
            Record::Base(mark) => contents.mark = mark,
            Record::Step(mark, change) => {
                contents.mark = mark;
                contents.apply(change);
            }
        }
    }
    contents
}
