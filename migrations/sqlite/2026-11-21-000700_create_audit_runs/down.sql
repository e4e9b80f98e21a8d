-- Numbers entries and bodies by lane and index again.
CREATE TABLE packed_entries (
    entry         INTEGER PRIMARY KEY,
    record_offset INTEGER NOT NULL,
    leaf_hash     BLOB NOT NULL CHECK (length(leaf_hash) = 32),
    chain_hash    BLOB NOT NULL CHECK (length(chain_hash) = 32),
    mark          TEXT NOT NULL,
    appended_at   INTEGER NOT NULL
) STRICT;

INSERT INTO packed_entries
SELECT (lane << 40) + first_index + (entry - base_entry), record_offset, leaf_hash, chain_hash, mark, appended_at
FROM audit_runs CROSS JOIN audit_entries ON entry BETWEEN base_entry AND base_entry + entries - 1;

CREATE TABLE packed_bodies (
    entry       INTEGER PRIMARY KEY,
    recorded_at INTEGER NOT NULL,
    time_type   INTEGER NOT NULL CHECK (time_type IN (0, 1)),
    key         BLOB,
    headers     BLOB NOT NULL,
    payload     BLOB
) STRICT;

INSERT INTO packed_bodies
SELECT (lane << 40) + first_index + (entry - base_entry), recorded_at, time_type, key, headers, payload
FROM audit_runs CROSS JOIN audit_bodies ON entry BETWEEN base_entry AND base_entry + entries - 1;

DROP TABLE audit_runs;
DROP TABLE audit_entries;
DROP TABLE audit_bodies;
ALTER TABLE packed_entries RENAME TO audit_entries;
ALTER TABLE packed_bodies RENAME TO audit_bodies;

CREATE TRIGGER audit_entries_refuse_update BEFORE UPDATE ON audit_entries
BEGIN
    SELECT RAISE(ABORT, 'horizons: an audit entry is never changed');
END;

CREATE TRIGGER audit_entries_refuse_delete BEFORE DELETE ON audit_entries
BEGIN
    SELECT RAISE(ABORT, 'horizons: an audit entry is never removed');
END;

CREATE TRIGGER audit_bodies_refuse_update BEFORE UPDATE ON audit_bodies
BEGIN
    SELECT RAISE(ABORT, 'horizons: an audit body is never changed');
END;

CREATE TRIGGER audit_bodies_refuse_delete BEFORE DELETE ON audit_bodies
BEGIN
    SELECT RAISE(ABORT, 'horizons: an audit body is never removed');
END;
