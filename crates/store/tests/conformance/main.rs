// SPDX-License-Identifier: Apache-2.0
//! What every store must do, asked of SQLite and of a real PostgreSQL alike. A case is
//! one function over a [`World`]; `failures` holds what only a server can do to us.
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, reason = "tests state what must hold")]

mod cases;
mod failures;
// By path: these two use nothing of ours, the test kit's other modules much that is not needed here.
#[path = "../../../testkit/src/link.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod link;
#[path = "../../../testkit/src/postgres.rs"]
#[allow(dead_code, missing_docs, reason = "other tests use the rest of it")]
mod postgres;
mod world;

use world::World;

/// Runs each case on both stores.
macro_rules! conformance {
    ($($module:ident: $($case:ident)+;)+) => {
        mod sqlite {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    crate::cases::$module::$case(&crate::World::sqlite()).await;
                }
            )+)+
        }
        mod on_postgres {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    crate::cases::$module::$case(&crate::World::postgres()).await;
                }
            )+)+
        }
    };
}

conformance! {
    writing:
        concurrent_writers_leave_no_gap
        a_guard_that_does_not_hold_writes_nothing
        a_claim_has_one_holder
        a_batch_may_move_claims_between_its_artifacts
        a_batch_is_applied_once
        identity_outlives_replacement
        an_id_belongs_to_one_artifact
        what_a_batch_was_made_from_must_still_be_so
        whoever_refers_to_it_is_written_with_it
        a_note_is_written_by_one
        a_payload_is_rewritten_where_it_is_still_so;
    reading:
        changes_come_in_whole_batches
        a_position_off_the_line_is_told_to_resync
        the_past_can_be_read
        pruning_keeps_what_is_readable
        gateways_do_not_see_one_another
        leases_tell_who_is_alive
        a_commit_hints;
    history:
        a_lost_tail_begins_a_new_epoch
        a_tail_written_anew_begins_a_new_epoch
        a_database_emptied_begins_a_new_epoch
        migrating_at_once_is_safe
        a_database_of_a_newer_version_is_refused;
    following:
        a_feed_tells_every_change_once
        a_feed_resumes_after_a_position
        a_burst_longer_than_a_read_arrives_whole
        a_feed_reloads_in_a_new_epoch;
    upgrade:
        a_replica_of_the_first_schema_serves_while_a_newer_one_migrates;
}
