-- What lanes derive from events (design D3): every key holds the one lane that writes the row.
--
-- The lane of these rows refers to lanes, but the engine is not told: each check would lock the lane's row for
-- every event, and rows of lanes are never removed.

CREATE TABLE job_views (
    job_id        TEXT COLLATE "C" NOT NULL,
    lane          BIGINT NOT NULL,
    is_owned      BOOLEAN NOT NULL,
    user_id       TEXT COLLATE "C" NOT NULL,
    agent         TEXT COLLATE "C",
    tacc_system   TEXT COLLATE "C",
    status        TEXT COLLATE "C" NOT NULL,
    attempt       BIGINT NOT NULL,
    will_retry    BOOLEAN NOT NULL,
    is_confirmed  BOOLEAN NOT NULL,
    last_sequence BIGINT NOT NULL,
    last_event_id BYTEA NOT NULL CHECK (octet_length(last_event_id) = 16),
    submitted_at  BIGINT NOT NULL,
    status_since  BIGINT NOT NULL,
    updated_at    BIGINT NOT NULL,
    PRIMARY KEY (job_id, lane)
) WITH (fillfactor = 70);

-- The views whose job lives: a small table instead of an index that every transition would rewrite.
CREATE TABLE live_job_views (
    job_id TEXT COLLATE "C" NOT NULL,
    lane   BIGINT NOT NULL,
    PRIMARY KEY (job_id, lane)
);

CREATE TABLE job_timeline (
    job_id        TEXT COLLATE "C" NOT NULL,
    lane          BIGINT NOT NULL,
    record_offset BIGINT NOT NULL,
    event_id      BYTEA NOT NULL CHECK (octet_length(event_id) = 16),
    event_type    TEXT COLLATE "C" NOT NULL,
    sequence      BIGINT NOT NULL,
    status        TEXT COLLATE "C" NOT NULL,
    attempt       BIGINT NOT NULL,
    happened_at   BIGINT NOT NULL,
    applied_at    BIGINT NOT NULL,
    payload       TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (job_id, lane, record_offset)
);

CREATE TABLE job_aggregates (
    job_id         TEXT COLLATE "C" NOT NULL,
    attempt        BIGINT NOT NULL,
    lane           BIGINT NOT NULL,
    cpu_count      BIGINT NOT NULL,
    cpu_sum        DOUBLE PRECISION NOT NULL,
    cpu_min        DOUBLE PRECISION NOT NULL,
    cpu_max        DOUBLE PRECISION NOT NULL,
    memory_count   BIGINT NOT NULL,
    memory_sum     DOUBLE PRECISION NOT NULL,
    memory_min     DOUBLE PRECISION NOT NULL,
    memory_max     DOUBLE PRECISION NOT NULL,
    io_count       BIGINT NOT NULL,
    io_sum         DOUBLE PRECISION NOT NULL,
    io_min         DOUBLE PRECISION NOT NULL,
    io_max         DOUBLE PRECISION NOT NULL,
    time_count     BIGINT NOT NULL,
    time_sum       DOUBLE PRECISION NOT NULL,
    time_min       DOUBLE PRECISION NOT NULL,
    time_max       DOUBLE PRECISION NOT NULL,
    last_sequence  BIGINT,
    summary_cpu    DOUBLE PRECISION,
    summary_memory DOUBLE PRECISION,
    summary_io     BIGINT,
    summary_time   DOUBLE PRECISION,
    updated_at     BIGINT NOT NULL,
    PRIMARY KEY (job_id, attempt, lane)
) WITH (fillfactor = 70);

CREATE TABLE status_counts (
    lane    BIGINT NOT NULL,
    status  TEXT COLLATE "C" NOT NULL,
    entered BIGINT NOT NULL,
    PRIMARY KEY (lane, status)
) WITH (fillfactor = 50);

-- refusal packs lane and offset (see `key.rs`).
CREATE TABLE refusals (
    refusal    BIGINT PRIMARY KEY,
    event_id   BYTEA NOT NULL CHECK (octet_length(event_id) = 16),
    job_id     TEXT COLLATE "C",
    event_type TEXT COLLATE "C" NOT NULL,
    reason     TEXT COLLATE "C" NOT NULL,
    detail     TEXT COLLATE "C" NOT NULL,
    refused_at BIGINT NOT NULL
);

-- Refusals are rare; the index is not on the path of an event that is applied.
CREATE INDEX refusals_by_job ON refusals (job_id, refusal) WHERE job_id IS NOT NULL;

CREATE TABLE timers (
    lane   BIGINT NOT NULL,
    kind   TEXT COLLATE "C" NOT NULL,
    key    TEXT COLLATE "C" NOT NULL,
    due_at BIGINT NOT NULL,
    PRIMARY KEY (lane, kind, key)
);

CREATE INDEX timers_by_due ON timers (lane, due_at, kind, key);
