-- The outbox, which is the embedded log (design D8).

-- position packs topic, partition and offset (see `key.rs`), so that rows of a partition stand in offset order
-- and an append needs no second index.
CREATE TABLE log (
    position    INTEGER PRIMARY KEY,
    recorded_at INTEGER NOT NULL,
    time_type   INTEGER NOT NULL CHECK (time_type IN (0, 1)),
    key         BLOB,
    headers     BLOB NOT NULL,
    payload     BLOB
) STRICT;

CREATE TRIGGER log_refuses_update BEFORE UPDATE ON log
BEGIN
    SELECT RAISE(ABORT, 'horizons: a record of the log is never changed');
END;

-- The offset that the next record of a partition gets.
CREATE TABLE log_head (
    topic       INTEGER NOT NULL,
    partition   INTEGER NOT NULL,
    next_offset INTEGER NOT NULL CHECK (next_offset BETWEEN 0 AND 1099511627776),
    PRIMARY KEY (topic, partition)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER log_head_never_goes_back BEFORE UPDATE ON log_head
WHEN NEW.next_offset < OLD.next_offset OR NEW.topic <> OLD.topic OR NEW.partition <> OLD.partition
BEGIN
    SELECT RAISE(ABORT, 'horizons: the end of a partition may only grow');
END;

CREATE TRIGGER log_head_refuses_delete BEFORE DELETE ON log_head
BEGIN
    SELECT RAISE(ABORT, 'horizons: the end of a partition is never forgotten');
END;
