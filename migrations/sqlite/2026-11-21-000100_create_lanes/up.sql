-- Who this store is, and how far every lane is (design D2, D8).

-- One row: the id of the embedded log that lives in this file.
CREATE TABLE store_identity (
    one        INTEGER PRIMARY KEY CHECK (one = 1),
    log_id     TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- Gives every lane a small number, which stands for (log id, group, topic, partition) in all other keys.
CREATE TABLE lanes (
    lane       INTEGER PRIMARY KEY CHECK (lane BETWEEN 1 AND 8388607),
    log_id     TEXT NOT NULL,
    group_name TEXT NOT NULL,
    topic      INTEGER NOT NULL,
    partition  INTEGER NOT NULL,
    UNIQUE (log_id, group_name, topic, partition)
) STRICT;

CREATE TABLE progress (
    lane             INTEGER PRIMARY KEY REFERENCES lanes (lane),
    -- The next record to apply; null before the first transaction.
    next_offset      INTEGER,
    owner_epoch      INTEGER NOT NULL,
    revision         INTEGER NOT NULL,
    last_fingerprint BLOB CHECK (last_fingerprint IS NULL OR length(last_fingerprint) = 32),
    -- How many incarnations have started since next_offset moved last.
    starts_at_next   INTEGER NOT NULL,
    desired          TEXT NOT NULL DEFAULT 'running' CHECK (desired IN ('running', 'paused'))
) STRICT;

CREATE TRIGGER progress_never_goes_back BEFORE UPDATE ON progress
WHEN NEW.owner_epoch < OLD.owner_epoch OR NEW.revision < OLD.revision
BEGIN
    SELECT RAISE(ABORT, 'horizons: epoch and revision of a lane may only grow');
END;
