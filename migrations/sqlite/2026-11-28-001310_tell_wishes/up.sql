-- What operators have asked for, so that the process which carries it out sees it, whichever process was asked: a row
-- for each thing that was ever asked about, with the revision of the last wish. The row of kind 0 counts all wishes.
CREATE TABLE wishes (
    -- 0 the count, 1 a lane (its number), 2 a partition of the outbox (topic, partition), 3 the orders of jobs.
    kind     INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 3),
    subject  INTEGER NOT NULL,
    place    INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    PRIMARY KEY (kind, subject, place)
) STRICT, WITHOUT ROWID;

INSERT INTO wishes (kind, subject, place, revision) VALUES (0, 0, 0, 0);
