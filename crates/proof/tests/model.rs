// SPDX-License-Identifier: Apache-2.0
//! The model within the bounds of continuous integration, and the bugs planted in it.

use ferrogate_proof::model::report::{Finding, check, planted, scenarios, table};
use ferrogate_proof::model::{Plant, Promise};

fn found(plant: Plant, promise: Promise) {
    let Finding { broken, states, .. } = check(planted(plant));
    assert!(
        broken.iter().any(|(broken, _)| *broken == promise),
        "{plant:?} was not found in {states} states"
    );
}

#[test]
fn every_promise_holds_on_every_path() {
    let findings: Vec<Finding> = scenarios(0).into_iter().map(check).collect();
    println!("{}", table(&findings));
    let broken = findings.iter().flat_map(|finding| &finding.broken);
    let paths: Vec<String> = broken.map(|(promise, path)| format!("{}\n{path}", promise.text())).collect();
    assert!(paths.is_empty(), "{}", paths.join("\n"));
}

#[test]
fn a_sequence_instead_of_the_counter_is_found() {
    found(Plant::Sequence, Promise::Line);
}

#[test]
fn a_cursor_moved_before_apply_is_found() {
    found(Plant::CursorBeforeApply, Promise::Assertions);
}

#[test]
fn an_acknowledgement_before_the_disk_is_found() {
    found(Plant::AckBeforeDisk, Promise::Live);
}

#[test]
fn a_resume_without_the_epoch_is_found() {
    found(Plant::ResumeWithoutEpoch, Promise::Converges);
}

#[test]
fn a_database_without_epochs_is_found() {
    found(Plant::NoEpochs, Promise::Line);
}
