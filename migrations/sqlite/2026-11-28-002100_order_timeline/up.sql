-- The steps of a job in the order of its life, also where it moved to another lane.
CREATE TABLE job_timeline_anew (
    job_id        TEXT NOT NULL,
    lane          INTEGER NOT NULL REFERENCES lanes (lane),
    record_offset INTEGER NOT NULL,
    event_id      BLOB NOT NULL CHECK (length(event_id) = 16),
    event_type    TEXT NOT NULL,
    sequence      INTEGER NOT NULL,
    status        TEXT NOT NULL,
    attempt       INTEGER NOT NULL,
    happened_at   INTEGER NOT NULL,
    applied_at    INTEGER NOT NULL,
    payload       TEXT NOT NULL,
    PRIMARY KEY (job_id, sequence, lane, record_offset)
) STRICT, WITHOUT ROWID;
INSERT INTO job_timeline_anew SELECT * FROM job_timeline ORDER BY job_id, sequence, lane, record_offset;
DROP TABLE job_timeline;
ALTER TABLE job_timeline_anew RENAME TO job_timeline;
