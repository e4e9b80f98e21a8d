-- What lanes derive from events (design D3): every key holds the one lane that writes the row.

CREATE TABLE job_views (
    job_id        TEXT NOT NULL,
    lane          INTEGER NOT NULL REFERENCES lanes (lane),
    is_owned      INTEGER NOT NULL CHECK (is_owned IN (0, 1)),
    user_id       TEXT NOT NULL,
    agent         TEXT,
    tacc_system   TEXT,
    status        TEXT NOT NULL,
    attempt       INTEGER NOT NULL,
    will_retry    INTEGER NOT NULL CHECK (will_retry IN (0, 1)),
    is_confirmed  INTEGER NOT NULL CHECK (is_confirmed IN (0, 1)),
    last_sequence INTEGER NOT NULL,
    last_event_id BLOB NOT NULL CHECK (length(last_event_id) = 16),
    submitted_at  INTEGER NOT NULL,
    status_since  INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    PRIMARY KEY (job_id, lane)
) STRICT, WITHOUT ROWID;

-- The views whose job lives: a small table instead of an index that every transition would rewrite.
CREATE TABLE live_job_views (
    job_id TEXT NOT NULL,
    lane   INTEGER NOT NULL,
    PRIMARY KEY (job_id, lane)
) STRICT, WITHOUT ROWID;

CREATE TABLE job_timeline (
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
    PRIMARY KEY (job_id, lane, record_offset)
) STRICT, WITHOUT ROWID;

CREATE TABLE job_aggregates (
    job_id                 TEXT NOT NULL,
    attempt                INTEGER NOT NULL,
    lane                   INTEGER NOT NULL REFERENCES lanes (lane),
    cpu_count              INTEGER NOT NULL,
    cpu_sum                REAL NOT NULL,
    cpu_min                REAL NOT NULL,
    cpu_max                REAL NOT NULL,
    memory_count           INTEGER NOT NULL,
    memory_sum             REAL NOT NULL,
    memory_min             REAL NOT NULL,
    memory_max             REAL NOT NULL,
    io_count               INTEGER NOT NULL,
    io_sum                 REAL NOT NULL,
    io_min                 REAL NOT NULL,
    io_max                 REAL NOT NULL,
    time_count             INTEGER NOT NULL,
    time_sum               REAL NOT NULL,
    time_min               REAL NOT NULL,
    time_max               REAL NOT NULL,
    last_sequence          INTEGER,
    summary_cpu            REAL,
    summary_memory         REAL,
    summary_io             INTEGER,
    summary_time           REAL,
    updated_at             INTEGER NOT NULL,
    PRIMARY KEY (job_id, attempt, lane)
) STRICT, WITHOUT ROWID;

CREATE TABLE status_counts (
    lane    INTEGER NOT NULL REFERENCES lanes (lane),
    status  TEXT NOT NULL,
    entered INTEGER NOT NULL,
    PRIMARY KEY (lane, status)
) STRICT, WITHOUT ROWID;

-- refusal packs lane and offset (see `key.rs`).
CREATE TABLE refusals (
    refusal    INTEGER PRIMARY KEY,
    event_id   BLOB NOT NULL CHECK (length(event_id) = 16),
    job_id     TEXT,
    event_type TEXT NOT NULL,
    reason     TEXT NOT NULL,
    detail     TEXT NOT NULL,
    refused_at INTEGER NOT NULL
) STRICT;

-- Refusals are rare; the index is not on the path of an event that is applied.
CREATE INDEX refusals_by_job ON refusals (job_id, refusal) WHERE job_id IS NOT NULL;

CREATE TABLE timers (
    lane   INTEGER NOT NULL REFERENCES lanes (lane),
    kind   TEXT NOT NULL,
    key    TEXT NOT NULL,
    due_at INTEGER NOT NULL,
    PRIMARY KEY (lane, kind, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX timers_by_due ON timers (lane, due_at, kind, key);
