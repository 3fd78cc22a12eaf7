-- SPDX-License-Identifier: Apache-2.0
-- Every row carries its gateway: several gateways may share one database.
-- Keys compare byte by byte, whatever locale the database was created with.

-- One row per gateway: the counter every transaction increments, and the epoch beside it.
CREATE TABLE gateways (
    gateway_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    epoch      BIGINT NOT NULL,
    revision   BIGINT NOT NULL,
    floor      BIGINT NOT NULL,
    lineage    TEXT   NOT NULL
);

-- The current artifacts.
CREATE TABLE artifacts (
    gateway_id TEXT COLLATE "C" NOT NULL,
    kind       TEXT COLLATE "C" NOT NULL,
    handle     TEXT COLLATE "C" NOT NULL,
    uuid       TEXT   NOT NULL,
    revision   BIGINT NOT NULL,
    source     TEXT   NOT NULL,
    payload    TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (gateway_id, kind, handle)
);

-- What only one artifact may have: its display name and version, and its routes.
CREATE TABLE claims (
    gateway_id TEXT COLLATE "C" NOT NULL,
    claim      TEXT COLLATE "C" NOT NULL,
    kind       TEXT COLLATE "C" NOT NULL,
    handle     TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (gateway_id, claim)
);
CREATE INDEX claims_by_artifact ON claims (gateway_id, kind, handle);

-- The change line. The columns from uuid to created_at are null when action is 'delete'.
CREATE TABLE changes (
    gateway_id TEXT COLLATE "C" NOT NULL,
    revision   BIGINT NOT NULL,
    batch_end  BIGINT NOT NULL,
    batch_id   TEXT COLLATE "C" NOT NULL,
    kind       TEXT COLLATE "C" NOT NULL,
    handle     TEXT COLLATE "C" NOT NULL,
    action     TEXT   NOT NULL CHECK (action IN ('put', 'delete')),
    uuid       TEXT,
    source     TEXT,
    payload    TEXT,
    created_at BIGINT,
    author     TEXT   NOT NULL,
    at         BIGINT NOT NULL,
    PRIMARY KEY (gateway_id, revision)
);
CREATE INDEX changes_by_artifact ON changes (gateway_id, kind, handle, revision);

-- Which batches were committed: a repeated batch answers what the first one did.
CREATE TABLE batches (
    gateway_id     TEXT COLLATE "C" NOT NULL,
    batch_id       TEXT COLLATE "C" NOT NULL,
    first_revision BIGINT NOT NULL,
    last_revision  BIGINT NOT NULL,
    committed_at   BIGINT NOT NULL,
    PRIMARY KEY (gateway_id, batch_id)
);

-- Who is alive. Outside the change line; reports are JSON, so that a field costs no migration.
CREATE TABLE controllers (
    gateway_id TEXT COLLATE "C" NOT NULL,
    id         TEXT COLLATE "C" NOT NULL,
    report     TEXT   NOT NULL,
    renewed_at BIGINT NOT NULL,
    PRIMARY KEY (gateway_id, id)
);
CREATE TABLE runtimes (
    gateway_id TEXT COLLATE "C" NOT NULL,
    id         TEXT COLLATE "C" NOT NULL,
    controller TEXT    NOT NULL,
    connected  BOOLEAN NOT NULL,
    report     TEXT    NOT NULL,
    renewed_at BIGINT  NOT NULL,
    PRIMARY KEY (gateway_id, id)
);
