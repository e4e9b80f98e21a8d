-- The outbox, which is the embedded log (design D8).

-- position packs topic, partition and offset (see `key.rs`), so that rows of a partition stand in offset order
-- and an append needs no second index.
CREATE TABLE log (
    position    BIGINT PRIMARY KEY,
    recorded_at BIGINT NOT NULL,
    time_type   INTEGER NOT NULL CHECK (time_type IN (0, 1)),
    key         BYTEA,
    headers     BYTEA NOT NULL,
    payload     BYTEA
);

CREATE TRIGGER log_refuses_update BEFORE UPDATE ON log FOR EACH STATEMENT
EXECUTE FUNCTION refuse_change('a record of the log is never changed');

-- The offset that the next record of a partition gets.
CREATE TABLE log_head (
    topic       BIGINT NOT NULL,
    partition   BIGINT NOT NULL,
    next_offset BIGINT NOT NULL CHECK (next_offset BETWEEN 0 AND 1099511627776),
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50);

CREATE TRIGGER log_head_never_goes_back BEFORE UPDATE ON log_head FOR EACH ROW
WHEN (NEW.next_offset < OLD.next_offset OR NEW.topic <> OLD.topic OR NEW.partition <> OLD.partition)
EXECUTE FUNCTION refuse_change('the end of a partition may only grow');

CREATE TRIGGER log_head_refuses_delete BEFORE DELETE OR TRUNCATE ON log_head FOR EACH STATEMENT
EXECUTE FUNCTION refuse_change('the end of a partition is never forgotten');
