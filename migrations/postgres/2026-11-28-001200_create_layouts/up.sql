-- Where keys are at home: how many partitions of a topic they are spread over, and from which offsets on.
CREATE TABLE layout_epochs (
    log_id       TEXT COLLATE "C" NOT NULL,
    topic        BIGINT NOT NULL,
    -- From 0, without holes; the newest one is for new records.
    epoch        BIGINT NOT NULL CHECK (epoch >= 0),
    partitions   BIGINT NOT NULL CHECK (partitions BETWEEN 1 AND 65535),
    -- From which offset of each partition on it is in force: 8 bytes each, big-endian. One that is not named: from 0.
    from_offsets BYTEA NOT NULL CHECK (length(from_offsets) % 8 = 0),
    adopted_at   BIGINT NOT NULL,
    PRIMARY KEY (log_id, topic, epoch)
);

CREATE TRIGGER layout_epochs_refuse_delete BEFORE DELETE OR TRUNCATE ON layout_epochs FOR EACH STATEMENT
EXECUTE FUNCTION refuse_change('an epoch of a layout is never forgotten');
