-- How far the outbox is sent to Kafka, and what an operator took out of its way (design D9).

CREATE TABLE outbox_cursors (
    topic        INTEGER NOT NULL,
    partition    INTEGER NOT NULL,
    -- The first row that is not known to be in Kafka.
    next_offset  INTEGER NOT NULL,
    -- Where in Kafka a look for rows that were sent already begins; null until the partition was looked at.
    tail_offset  INTEGER,
    -- The first row that is still kept here.
    kept_offset  INTEGER NOT NULL CHECK (kept_offset <= next_offset),
    -- The relay that may move the cursor.
    epoch        INTEGER NOT NULL,
    PRIMARY KEY (topic, partition)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER outbox_cursors_never_go_back BEFORE UPDATE ON outbox_cursors
WHEN NEW.next_offset < OLD.next_offset OR NEW.epoch < OLD.epoch OR NEW.kept_offset < OLD.kept_offset
  OR coalesce(NEW.tail_offset, -1) < coalesce(OLD.tail_offset, -1)
BEGIN
    SELECT RAISE(ABORT, 'horizons: a cursor of the outbox may only go forward');
END;

CREATE TRIGGER outbox_cursors_refuse_delete BEFORE DELETE ON outbox_cursors
BEGIN
    SELECT RAISE(ABORT, 'horizons: a cursor of the outbox is never forgotten');
END;

-- Records that Kafka refused for good and an operator set aside, whole; position as in `log`.
CREATE TABLE outbox_set_aside (
    position     INTEGER PRIMARY KEY,
    recorded_at  INTEGER NOT NULL,
    time_type    INTEGER NOT NULL CHECK (time_type IN (0, 1)),
    key          BLOB,
    headers      BLOB NOT NULL,
    payload      BLOB,
    command_id   BLOB NOT NULL CHECK (length(command_id) = 16),
    set_aside_at INTEGER NOT NULL
) STRICT;
