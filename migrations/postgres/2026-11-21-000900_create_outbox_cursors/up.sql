-- How far the outbox is sent to Kafka, and what an operator took out of its way (design D9).

CREATE TABLE outbox_cursors (
    topic        BIGINT NOT NULL,
    partition    BIGINT NOT NULL,
    -- The first row that is not known to be in Kafka.
    next_offset  BIGINT NOT NULL,
    -- Where in Kafka a look for rows that were sent already begins; null until the partition was looked at.
    tail_offset  BIGINT,
    -- The first row that is still kept here.
    kept_offset  BIGINT NOT NULL CHECK (kept_offset <= next_offset),
    -- The relay that may move the cursor.
    epoch        BIGINT NOT NULL,
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50);

CREATE TRIGGER outbox_cursors_never_go_back BEFORE UPDATE ON outbox_cursors FOR EACH ROW
WHEN (NEW.next_offset < OLD.next_offset OR NEW.epoch < OLD.epoch OR NEW.kept_offset < OLD.kept_offset
  OR coalesce(NEW.tail_offset, -1) < coalesce(OLD.tail_offset, -1))
EXECUTE FUNCTION refuse_change('a cursor of the outbox may only go forward');

CREATE TRIGGER outbox_cursors_refuse_delete BEFORE DELETE OR TRUNCATE ON outbox_cursors FOR EACH STATEMENT
EXECUTE FUNCTION refuse_change('a cursor of the outbox is never forgotten');

-- Records that Kafka refused for good and an operator set aside, whole; position as in `log`.
CREATE TABLE outbox_set_aside (
    position     BIGINT PRIMARY KEY,
    recorded_at  BIGINT NOT NULL,
    time_type    INTEGER NOT NULL CHECK (time_type IN (0, 1)),
    key          BYTEA,
    headers      BYTEA NOT NULL,
    payload      BYTEA,
    command_id   BYTEA NOT NULL CHECK (length(command_id) = 16),
    set_aside_at BIGINT NOT NULL
);
