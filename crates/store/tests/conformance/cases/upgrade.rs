// SPDX-License-Identifier: Apache-2.0
//! Replicas of two versions over one database: the older one made it and goes on serving
//! from it while the newer one migrates. What the older version says to the database is
//! kept here as it said it.

use ferrogate_model::Revision;
use ferrogate_store::Changes;

use crate::world::{World, commit, name, put};

/// What a commit of the first version writes, as one transaction.
const COMMIT: &str = "\
    UPDATE gateways SET revision = revision + 1 WHERE gateway_id = 'g'; \
    INSERT INTO artifacts (gateway_id, kind, handle, uuid, revision, source, payload, created_at, updated_at) \
    VALUES ('g', 'rest-apis', 'old', 'c0ffee00-0000-4000-8000-000000000001', 2, 'source', 'payload', 5, 6); \
    INSERT INTO claims (gateway_id, claim, kind, handle) VALUES ('g', 'route /old', 'rest-apis', 'old'); \
    INSERT INTO changes (gateway_id, batch_id, batch_end, author, at, revision, kind, handle, action, uuid, \
        source, payload, created_at) \
    VALUES ('g', 'c0ffee00-0000-4000-8000-000000000002', 2, 'an older replica', 6, 2, 'rest-apis', 'old', 'put', \
        'c0ffee00-0000-4000-8000-000000000001', 'source', 'payload', 5); \
    INSERT INTO batches (gateway_id, batch_id, first_revision, last_revision, committed_at) \
    VALUES ('g', 'c0ffee00-0000-4000-8000-000000000002', 2, 2, 6)";

/// What the first version reads, and how it keeps its leases.
const SERVE: &str = "\
    SELECT revision, batch_end, batch_id, kind, handle, action, uuid, source, payload, created_at, author, at \
    FROM changes WHERE gateway_id = 'g' AND revision > 0 ORDER BY revision; \
    SELECT kind, handle, uuid, revision, source, payload, created_at, updated_at \
    FROM artifacts WHERE gateway_id = 'g' ORDER BY kind, handle; \
    SELECT epoch, revision, floor, lineage FROM gateways WHERE gateway_id = 'g'; \
    SELECT claim, kind, handle FROM claims WHERE gateway_id = 'g'; \
    INSERT INTO controllers (gateway_id, id, report, renewed_at) VALUES ('g', 'c0', '{}', 1); \
    INSERT INTO runtimes (gateway_id, id, controller, connected, report, renewed_at) \
    VALUES ('g', 'r0', 'c0', TRUE, '{}', 1); \
    DELETE FROM runtimes WHERE gateway_id = 'g' AND id = 'r0'; \
    DELETE FROM controllers WHERE gateway_id = 'g' AND id = 'c0'";

pub async fn a_replica_of_the_first_schema_serves_while_a_newer_one_migrates(world: &World) {
    world.make_first_schema().await;
    world.execute(SERVE).await;
    // Opening it is what migrates.
    let newer = world.store();
    let first = commit(&newer, vec![put("new", "content")]).await;
    assert_eq!(first.last, Revision(1));
    let seen = newer.head().await.unwrap().position;
    world.execute(SERVE).await;
    world.execute(COMMIT).await;
    let Changes::Line { changes, .. } = newer.changes_since(seen, 9).await.unwrap() else {
        panic!("the older replica's commit is a change like any other")
    };
    let [change] = changes.as_slice() else { panic!("{changes:?}") };
    assert_eq!(
        (change.revision, &change.name, change.author.as_str()),
        (Revision(2), &name("old"), "an older replica")
    );
    let artifact = change.artifact.as_ref().unwrap();
    assert_eq!((artifact.source.as_str(), artifact.payload.as_deref()), ("source", Some("payload")));
    let state = newer.load().await.unwrap();
    assert_eq!(state.artifacts.len(), 2);
    assert_eq!(commit(&newer, vec![put("old", "replaced")]).await.last, Revision(3));
}
