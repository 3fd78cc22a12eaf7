-- SPDX-License-Identifier: Apache-2.0
-- What secrets need: references, and notes such as the one that tells whether keys are shared.

-- Which artifact's payload was made from which other artifact's content. The one referred to
-- may be gone: whoever writes it again finds here what must be made anew.
CREATE TABLE artifact_refs (
    gateway_id    TEXT NOT NULL,
    kind          TEXT NOT NULL,
    handle        TEXT NOT NULL,
    target_kind   TEXT NOT NULL,
    target_handle TEXT NOT NULL,
    PRIMARY KEY (gateway_id, kind, handle, target_kind, target_handle)
);
CREATE INDEX artifact_refs_by_target ON artifact_refs (gateway_id, target_kind, target_handle);

-- Texts that the controllers of a gateway share outside the change line.
CREATE TABLE notes (
    gateway_id TEXT NOT NULL,
    name       TEXT NOT NULL,
    text       TEXT NOT NULL,
    PRIMARY KEY (gateway_id, name)
);

-- From here on every artifact claims its id. Should two share one already, one of them holds it.
INSERT INTO claims (gateway_id, claim, kind, handle)
    SELECT gateway_id, 'id ' || uuid, kind, handle FROM artifacts WHERE true
    ON CONFLICT DO NOTHING;
