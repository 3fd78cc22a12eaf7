// SPDX-License-Identifier: Apache-2.0
//! The queries whose text both databases understand alike; those that differ stand in
//! `postgres` and `sqlite`. `$1` is the gateway in each of them.

/// The changes after `$2` up to the end of the batch that holds `$3`, or all of them when there is no `$3`.
pub(crate) const CHANGES_AFTER: &str = "\
    SELECT revision, batch_end, batch_id, kind, handle, action, uuid, source, payload, created_at, author, at \
    FROM changes WHERE gateway_id = $1 AND revision > $2 AND revision <= COALESCE( \
        (SELECT c.batch_end FROM changes c WHERE c.gateway_id = $1 AND c.revision = $3), \
        9223372036854775807) \
    ORDER BY revision";

/// Every current artifact.
pub(crate) const ARTIFACTS: &str = "\
    SELECT kind, handle, uuid, revision, source, payload, created_at, updated_at \
    FROM artifacts WHERE gateway_id = $1 ORDER BY kind, handle";

/// The newest `$5` changes of the artifact `$2`, `$3` below `$4`.
pub(crate) const REVISIONS: &str = "\
    SELECT revision, batch_end, batch_id, kind, handle, action, uuid, source, payload, created_at, author, at \
    FROM changes WHERE gateway_id = $1 AND kind = $2 AND handle = $3 AND revision < $4 \
    ORDER BY revision DESC LIMIT $5";

/// The newest change of the artifact `$2`, `$3` at or below `$4`.
pub(crate) const CHANGE_AT: &str = "\
    SELECT revision, batch_end, batch_id, kind, handle, action, uuid, source, payload, created_at, author, at \
    FROM changes WHERE gateway_id = $1 AND kind = $2 AND handle = $3 AND revision <= $4 \
    ORDER BY revision DESC LIMIT 1";

/// The newest change of every artifact at or below `$2`, tombstones left out.
pub(crate) const STATE_AT: &str = "\
    SELECT c.revision, c.batch_end, c.batch_id, c.kind, c.handle, c.action, c.uuid, c.source, c.payload, \
           c.created_at, c.author, c.at \
    FROM changes c JOIN ( \
        SELECT MAX(n.revision) AS revision FROM changes n \
        WHERE n.gateway_id = $1 AND n.revision <= $2 GROUP BY n.kind, n.handle \
    ) newest ON newest.revision = c.revision \
    WHERE c.gateway_id = $1 AND c.action = 'put' ORDER BY c.kind, c.handle";

/// The last batch end at or below `$2`: the floor must not cut a batch in two.
pub(crate) const BATCH_END_BELOW: &str = "\
    SELECT MAX(revision) FROM changes WHERE gateway_id = $1 AND revision <= $2 AND revision = batch_end";

/// Drops what no revision at or above `$2` needs: changes superseded by then, and tombstones.
pub(crate) const PRUNE: &str = "\
    DELETE FROM changes WHERE gateway_id = $1 AND revision <= $2 AND (action = 'delete' OR EXISTS ( \
        SELECT 1 FROM changes n WHERE n.gateway_id = $1 AND n.kind = changes.kind \
        AND n.handle = changes.handle AND n.revision > changes.revision AND n.revision <= $2))";

/// Records the floor `$2`.
pub(crate) const SET_FLOOR: &str = "UPDATE gateways SET floor = $2 WHERE gateway_id = $1";

/// The last change there is, and the batch `$2` if it was committed before.
pub(crate) const BEFORE_COMMIT: &str = "\
    SELECT (SELECT MAX(c.revision) FROM changes c WHERE c.gateway_id = $1) AS last_change, \
           b.first_revision, b.last_revision \
    FROM (SELECT 1 AS one) AS single LEFT JOIN batches b ON b.gateway_id = $1 AND b.batch_id = $2";

/// The `$3` changes that follow `$2`, of their payloads those that do not begin with `$4`.
pub(crate) const PAYLOADS: &str = "\
    SELECT revision, kind, handle, CASE \
        WHEN substr(payload, 1, length(CAST($4 AS TEXT))) = CAST($4 AS TEXT) THEN NULL ELSE payload END AS payload \
    FROM changes WHERE gateway_id = $1 AND revision > $2 ORDER BY revision LIMIT $3";

/// The artifacts that refer to `$2`, `$3`.
pub(crate) const REFERRERS: &str = "\
    SELECT kind, handle FROM artifact_refs \
    WHERE gateway_id = $1 AND target_kind = $2 AND target_handle = $3 ORDER BY kind, handle";

/// The note `$2`.
pub(crate) const NOTE: &str = "SELECT text FROM notes WHERE gateway_id = $1 AND name = $2";

/// Writes the note `$2` unless there is one.
pub(crate) const FIRST_NOTE: &str = "\
    INSERT INTO notes (gateway_id, name, text) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";

/// Replaces the note `$2` if it is `$4`.
pub(crate) const NEXT_NOTE: &str = "\
    UPDATE notes SET text = $3 WHERE gateway_id = $1 AND name = $2 AND text = $4";

/// Every controller's lease.
pub(crate) const CONTROLLERS: &str =
    "SELECT id, report, renewed_at FROM controllers WHERE gateway_id = $1 ORDER BY id";

/// Every runtime's lease.
pub(crate) const RUNTIMES: &str =
    "SELECT id, report, renewed_at FROM runtimes WHERE gateway_id = $1 ORDER BY id";

/// Drops the leases of controllers not renewed since `$2`.
pub(crate) const FORGET_CONTROLLERS: &str =
    "DELETE FROM controllers WHERE gateway_id = $1 AND renewed_at < $2";

/// Drops the leases of runtimes not renewed since `$2`.
pub(crate) const FORGET_RUNTIMES: &str = "DELETE FROM runtimes WHERE gateway_id = $1 AND renewed_at < $2";

/// Drops the record of batches committed before `$2`.
pub(crate) const FORGET_BATCHES: &str = "DELETE FROM batches WHERE gateway_id = $1 AND committed_at < $2";
