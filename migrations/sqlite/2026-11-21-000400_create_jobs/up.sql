-- What the orchestrator writes (design D18). Rows change per transition of a job, never per event, so indexes
-- for listing are affordable here.

CREATE TABLE jobs (
    job_id                 TEXT NOT NULL PRIMARY KEY,
    user_id                TEXT NOT NULL,
    agent                  TEXT NOT NULL,
    dataset_id             TEXT NOT NULL,
    parameters             TEXT NOT NULL,
    tacc_system            TEXT NOT NULL,
    correlation_id         BLOB NOT NULL,
    status                 TEXT NOT NULL,
    attempt                INTEGER NOT NULL,
    will_retry             INTEGER NOT NULL CHECK (will_retry IN (0, 1)),
    is_live                INTEGER NOT NULL CHECK (is_live IN (0, 1)),
    lifecycle_sequence     INTEGER NOT NULL,
    metrics_sequence       INTEGER NOT NULL,
    scheduler_job_id       TEXT,
    samples_published      INTEGER NOT NULL,
    cancelled_by           TEXT,
    cancel_reason          TEXT,
    cancel_requested_at    INTEGER,
    error_code             TEXT,
    error_message          TEXT,
    execution_time_seconds REAL,
    submitted_at           INTEGER NOT NULL,
    updated_at             INTEGER NOT NULL
) STRICT;

CREATE INDEX jobs_by_time ON jobs (submitted_at, job_id);
CREATE INDEX jobs_by_user ON jobs (user_id, submitted_at, job_id);
CREATE INDEX jobs_by_status ON jobs (status, submitted_at, job_id);
CREATE INDEX jobs_by_life ON jobs (is_live, job_id);

-- Which event carries a lifecycle sequence.
CREATE TABLE job_events (
    job_id   TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    event_id BLOB NOT NULL CHECK (length(event_id) = 16),
    PRIMARY KEY (job_id, sequence)
) STRICT, WITHOUT ROWID;

-- Work on attempts; number orders what was decided at the same time.
CREATE TABLE orders (
    number      INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id      TEXT NOT NULL,
    attempt     INTEGER NOT NULL,
    kind        TEXT NOT NULL CHECK (kind IN ('submit', 'cancel', 'clean')),
    ordered_at  INTEGER NOT NULL,
    is_answered INTEGER NOT NULL CHECK (is_answered IN (0, 1)),
    -- Why it was refused; null where it was carried out or is open.
    refusal     TEXT,
    UNIQUE (job_id, attempt, kind)
) STRICT;

CREATE INDEX orders_by_answer ON orders (is_answered, ordered_at, number);

CREATE TABLE idempotency_keys (
    user_id        TEXT NOT NULL,
    key            TEXT NOT NULL,
    request_digest BLOB NOT NULL CHECK (length(request_digest) = 32),
    job_id         TEXT NOT NULL,
    created_at     INTEGER NOT NULL,
    PRIMARY KEY (user_id, key)
) STRICT, WITHOUT ROWID;
