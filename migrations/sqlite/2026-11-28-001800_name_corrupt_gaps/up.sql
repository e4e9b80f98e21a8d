-- A further kind of gap: records that cannot be read. SQLite cannot change a check in place.
CREATE TABLE gaps_anew (
    gap         INTEGER PRIMARY KEY AUTOINCREMENT,
    lane        INTEGER NOT NULL REFERENCES lanes (lane),
    kind        TEXT NOT NULL CHECK (kind IN ('trimmed', 'beyond_end', 'replaced', 'corrupt')),
    next_offset INTEGER NOT NULL,
    -- Where reading goes on once the gap is accepted.
    low_offset  INTEGER NOT NULL,
    high_offset INTEGER NOT NULL,
    found_at    INTEGER NOT NULL,
    -- Null while the gap is open.
    decided_at  INTEGER,
    decided_by  TEXT,
    command_id  BLOB CHECK (command_id IS NULL OR length(command_id) = 16),
    reason      TEXT
) STRICT;

INSERT INTO gaps_anew
    (gap, lane, kind, next_offset, low_offset, high_offset, found_at, decided_at, decided_by, command_id, reason)
SELECT gap, lane, kind, next_offset, low_offset, high_offset, found_at, decided_at, decided_by, command_id, reason
FROM gaps;

DROP TABLE gaps;
ALTER TABLE gaps_anew RENAME TO gaps;

CREATE UNIQUE INDEX gaps_open ON gaps (lane) WHERE decided_at IS NULL;
