-- Unclean ends, trials of what may kill a process (design D6), gaps and generations of lanes (design D2, D8).

-- Raised when an operator accepts that a partition was made anew. log_id holds the id of the generation: the log's
-- own for the first one, with `+` and the number for those after it.
ALTER TABLE lanes ADD COLUMN generation INTEGER NOT NULL DEFAULT 0 CHECK (generation >= 0);

-- Who opened the lane last, and whether that process said that it ended in order. A process of an earlier version
-- did not say so, and is taken to have.
ALTER TABLE progress ADD COLUMN opened_by BLOB CHECK (opened_by IS NULL OR length(opened_by) = 16);
ALTER TABLE progress ADD COLUMN ended_in_order INTEGER NOT NULL DEFAULT 1 CHECK (ended_in_order IN (0, 1));

-- From here on starts_at_next counts processes that found an unclean end, no longer every start; starts_aside counts
-- the same since the last transaction that left next_offset where it was.
ALTER TABLE progress ADD COLUMN starts_aside INTEGER NOT NULL DEFAULT 0;
UPDATE progress SET starts_at_next = 0;

-- What is tried alone. A record has its offset, a timer its kind and key; the others stay 0 and empty.
CREATE TABLE trials (
    lane          INTEGER NOT NULL REFERENCES lanes (lane),
    kind          TEXT NOT NULL CHECK (kind IN ('log', 'parked', 'timer')),
    record_offset INTEGER NOT NULL,
    timer_kind    TEXT NOT NULL,
    timer_key     TEXT NOT NULL,
    deaths        INTEGER NOT NULL,
    is_trying     INTEGER NOT NULL CHECK (is_trying IN (0, 1)),
    is_convicted  INTEGER NOT NULL CHECK (is_convicted IN (0, 1)),
    PRIMARY KEY (lane, kind, record_offset, timer_kind, timer_key)
) STRICT, WITHOUT ROWID;

-- Gaps that lanes found, with the decisions about them.
CREATE TABLE gaps (
    gap         INTEGER PRIMARY KEY AUTOINCREMENT,
    lane        INTEGER NOT NULL REFERENCES lanes (lane),
    kind        TEXT NOT NULL CHECK (kind IN ('trimmed', 'beyond_end', 'replaced')),
    next_offset INTEGER NOT NULL,
    low_offset  INTEGER NOT NULL,
    high_offset INTEGER NOT NULL,
    found_at    INTEGER NOT NULL,
    -- Null while the gap is open.
    decided_at  INTEGER,
    decided_by  TEXT,
    command_id  BLOB CHECK (command_id IS NULL OR length(command_id) = 16),
    reason      TEXT
) STRICT;

CREATE UNIQUE INDEX gaps_open ON gaps (lane) WHERE decided_at IS NULL;
