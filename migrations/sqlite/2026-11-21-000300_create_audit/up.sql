-- The audit log (design D10). No secondary index: one index filled per event costs a factor of five.
--
-- Entries and bodies refuse update and delete. A trigger against INSERT OR REPLACE was measured and left out there:
-- it takes 30 % of the insert. Our own connections set recursive_triggers, with which a replace fires the delete
-- trigger; a replace from another program's connection is found by the hash chain and the tree.

CREATE TABLE audit_logs (
    lane              INTEGER PRIMARY KEY REFERENCES lanes (lane),
    size              INTEGER NOT NULL,
    chain_head        BLOB NOT NULL CHECK (length(chain_head) = 32),
    -- The roots of the perfect subtrees, 32 bytes each, largest first.
    frontier          BLOB NOT NULL CHECK (length(frontier) % 32 = 0),
    last_offset       INTEGER,
    segment_number    INTEGER NOT NULL,
    segment_first     INTEGER NOT NULL,
    segment_opened_at INTEGER NOT NULL
) STRICT;

CREATE TRIGGER audit_logs_only_grow BEFORE UPDATE ON audit_logs
WHEN NEW.lane <> OLD.lane OR NEW.size < OLD.size OR NEW.segment_number < OLD.segment_number
  OR (NEW.size = OLD.size AND (NEW.chain_head <> OLD.chain_head OR NEW.frontier <> OLD.frontier))
BEGIN
    SELECT RAISE(ABORT, 'horizons: an audit log may only grow');
END;

CREATE TRIGGER audit_logs_refuse_delete BEFORE DELETE ON audit_logs
BEGIN
    SELECT RAISE(ABORT, 'horizons: an audit log is never removed');
END;

CREATE TRIGGER audit_logs_refuse_replace BEFORE INSERT ON audit_logs
WHEN EXISTS (SELECT 1 FROM audit_logs WHERE lane = NEW.lane)
BEGIN
    SELECT RAISE(ABORT, 'horizons: an audit log is never replaced');
END;

-- entry packs lane and index (see `key.rs`).
CREATE TABLE audit_entries (
    entry         INTEGER PRIMARY KEY,
    record_offset INTEGER NOT NULL,
    leaf_hash     BLOB NOT NULL CHECK (length(leaf_hash) = 32),
    chain_hash    BLOB NOT NULL CHECK (length(chain_hash) = 32),
    mark          TEXT NOT NULL,
    appended_at   INTEGER NOT NULL
) STRICT;

CREATE TRIGGER audit_entries_refuse_update BEFORE UPDATE ON audit_entries
BEGIN
    SELECT RAISE(ABORT, 'horizons: an audit entry is never changed');
END;

CREATE TRIGGER audit_entries_refuse_delete BEFORE DELETE ON audit_entries
BEGIN
    SELECT RAISE(ABORT, 'horizons: an audit entry is never removed');
END;

CREATE TABLE audit_bodies (
    entry       INTEGER PRIMARY KEY,
    recorded_at INTEGER NOT NULL,
    time_type   INTEGER NOT NULL CHECK (time_type IN (0, 1)),
    key         BLOB,
    headers     BLOB NOT NULL,
    payload     BLOB
) STRICT;

CREATE TRIGGER audit_bodies_refuse_update BEFORE UPDATE ON audit_bodies
BEGIN
    SELECT RAISE(ABORT, 'horizons: an audit body is never changed');
END;

CREATE TRIGGER audit_bodies_refuse_delete BEFORE DELETE ON audit_bodies
BEGIN
    SELECT RAISE(ABORT, 'horizons: an audit body is never removed');
END;

-- Closed segments; the open one stands in audit_logs.
CREATE TABLE audit_segments (
    lane        INTEGER NOT NULL REFERENCES lanes (lane),
    number      INTEGER NOT NULL,
    first_index INTEGER NOT NULL,
    end_index   INTEGER NOT NULL,
    opened_at   INTEGER NOT NULL,
    closed_at   INTEGER NOT NULL,
    PRIMARY KEY (lane, number)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER audit_segments_refuse_update BEFORE UPDATE ON audit_segments
BEGIN
    SELECT RAISE(ABORT, 'horizons: a closed audit segment is never changed');
END;

CREATE TRIGGER audit_segments_refuse_delete BEFORE DELETE ON audit_segments
BEGIN
    SELECT RAISE(ABORT, 'horizons: a closed audit segment is never removed');
END;

CREATE TRIGGER audit_segments_refuse_replace BEFORE INSERT ON audit_segments
WHEN EXISTS (SELECT 1 FROM audit_segments WHERE lane = NEW.lane AND number = NEW.number)
BEGIN
    SELECT RAISE(ABORT, 'horizons: a closed audit segment is never replaced');
END;
