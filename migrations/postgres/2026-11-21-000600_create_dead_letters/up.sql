-- Poison and what waits behind it (design D6).
--
-- The key of a record may be longer than a B-tree takes (2704 bytes), so the indexes on keys are over their
-- hashes.

-- letter packs lane and offset (see `key.rs`).
CREATE TABLE dead_letters (
    letter      BIGINT PRIMARY KEY,
    recorded_at BIGINT NOT NULL,
    time_type   INTEGER NOT NULL CHECK (time_type IN (0, 1)),
    key         BYTEA,
    headers     BYTEA NOT NULL,
    payload     BYTEA,
    reason      TEXT COLLATE "C" NOT NULL,
    detail      TEXT COLLATE "C" NOT NULL,
    state       TEXT COLLATE "C" NOT NULL CHECK (state IN ('parked', 'dead', 'released', 'discarded')),
    attempts    BIGINT NOT NULL,
    rejected_at BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL
);

CREATE TABLE parked_keys (
    lane        BIGINT NOT NULL REFERENCES lanes (lane),
    key         BYTEA NOT NULL,
    head_offset BIGINT NOT NULL,
    reason      TEXT COLLATE "C" NOT NULL,
    detail      TEXT COLLATE "C" NOT NULL,
    -- How many rows of parked_records there are; kept here so that no count walks them.
    records     BIGINT NOT NULL CHECK (records >= 0),
    wish        TEXT COLLATE "C" NOT NULL CHECK (wish IN ('wait', 'release', 'discard_head')),
    -- The command that brought the wish.
    wished_by   BYTEA,
    parked_at   BIGINT NOT NULL
);

CREATE UNIQUE INDEX parked_keys_once ON parked_keys (lane, sha256(key));
CREATE INDEX parked_keys_by_key ON parked_keys USING hash (key);

CREATE TABLE parked_records (
    lane          BIGINT NOT NULL REFERENCES lanes (lane),
    key           BYTEA NOT NULL,
    record_offset BIGINT NOT NULL,
    recorded_at   BIGINT NOT NULL,
    time_type     INTEGER NOT NULL CHECK (time_type IN (0, 1)),
    record_key    BYTEA,
    headers       BYTEA NOT NULL,
    payload       BYTEA,
    parked_at     BIGINT NOT NULL
);

CREATE UNIQUE INDEX parked_records_once ON parked_records (lane, sha256(key), record_offset);
CREATE INDEX parked_records_by_key ON parked_records USING hash (key);
