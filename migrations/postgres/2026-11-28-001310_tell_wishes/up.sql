-- What operators have asked for, so that the process which carries it out sees it, whichever process was asked: a row
-- for each thing that was ever asked about, with the revision of the last wish. The row of kind 0 counts all wishes;
-- whoever holds it commits before the next one counts, so that no revision is seen before an earlier one.
CREATE TABLE wishes (
    -- 0 the count, 1 a lane (its number), 2 a partition of the outbox (topic, partition), 3 the orders of jobs.
    kind     BIGINT NOT NULL CHECK (kind BETWEEN 0 AND 3),
    subject  BIGINT NOT NULL,
    place    BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    PRIMARY KEY (kind, subject, place)
) WITH (fillfactor = 50);

INSERT INTO wishes (kind, subject, place, revision) VALUES (0, 0, 0, 0);
