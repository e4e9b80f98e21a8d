-- Poison and what waits behind it (design D6).

-- letter packs lane and offset (see `key.rs`).
CREATE TABLE dead_letters (
    letter      INTEGER PRIMARY KEY,
    recorded_at INTEGER NOT NULL,
    time_type   INTEGER NOT NULL CHECK (time_type IN (0, 1)),
    key         BLOB,
    headers     BLOB NOT NULL,
    payload     BLOB,
    reason      TEXT NOT NULL,
    detail      TEXT NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('parked', 'dead', 'released', 'discarded')),
    attempts    INTEGER NOT NULL,
    rejected_at INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL
) STRICT;

CREATE TABLE parked_keys (
    lane        INTEGER NOT NULL REFERENCES lanes (lane),
    key         BLOB NOT NULL,
    head_offset INTEGER NOT NULL,
    reason      TEXT NOT NULL,
    detail      TEXT NOT NULL,
    -- How many rows of parked_records there are; kept here so that no count walks them.
    records     INTEGER NOT NULL CHECK (records >= 0),
    wish        TEXT NOT NULL CHECK (wish IN ('wait', 'release', 'discard_head')),
    -- The command that brought the wish.
    wished_by   BLOB,
    parked_at   INTEGER NOT NULL,
    PRIMARY KEY (lane, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE parked_records (
    lane          INTEGER NOT NULL,
    key           BLOB NOT NULL,
    record_offset INTEGER NOT NULL,
    recorded_at   INTEGER NOT NULL,
    time_type     INTEGER NOT NULL CHECK (time_type IN (0, 1)),
    record_key    BLOB,
    headers       BLOB NOT NULL,
    payload       BLOB,
    parked_at     INTEGER NOT NULL,
    PRIMARY KEY (lane, key, record_offset),
    FOREIGN KEY (lane, key) REFERENCES parked_keys (lane, key)
) STRICT, WITHOUT ROWID;
