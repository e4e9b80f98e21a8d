-- Where keys are at home: how many partitions of a topic they are spread over, and from which offsets on.
CREATE TABLE layout_epochs (
    log_id       TEXT NOT NULL,
    topic        INTEGER NOT NULL,
    -- From 0, without holes; the newest one is for new records.
    epoch        INTEGER NOT NULL CHECK (epoch >= 0),
    partitions   INTEGER NOT NULL CHECK (partitions BETWEEN 1 AND 65535),
    -- From which offset of each partition on it is in force: 8 bytes each, big-endian. One that is not named: from 0.
    from_offsets BLOB NOT NULL CHECK (length(from_offsets) % 8 = 0),
    adopted_at   INTEGER NOT NULL,
    PRIMARY KEY (log_id, topic, epoch)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER layout_epochs_refuse_delete BEFORE DELETE ON layout_epochs
BEGIN SELECT RAISE(ABORT, 'an epoch of a layout is never forgotten'); END;
