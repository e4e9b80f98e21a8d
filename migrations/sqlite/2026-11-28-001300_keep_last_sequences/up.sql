-- The last sequence of a job's events that a lane has taken, for consumers that keep no row about the job which would
-- say so: a producer's retry that comes after the duplicate window is known by it.
CREATE TABLE job_sequences (
    job_id        TEXT NOT NULL,
    lane          INTEGER NOT NULL REFERENCES lanes (lane),
    last_sequence INTEGER NOT NULL,
    PRIMARY KEY (job_id, lane)
) STRICT, WITHOUT ROWID;
