-- Where the entries of an audit log stand: from here on, entries and bodies are numbered in the order in which they
-- are written, so that every commit appends to both tables, whatever lanes it is of. A run says which numbers the
-- indexes first_index .. first_index + entries of a lane have: base_entry and what follows, without a gap.
CREATE TABLE audit_runs (
    lane        INTEGER NOT NULL REFERENCES lanes (lane),
    first_index INTEGER NOT NULL CHECK (first_index >= 0),
    base_entry  INTEGER NOT NULL,
    entries     INTEGER NOT NULL CHECK (entries > 0),
    PRIMARY KEY (lane, first_index)
) STRICT, WITHOUT ROWID;

-- What was written so far is numbered lane * 2^40 + index: one run for each lane, and no row is moved.
INSERT INTO audit_runs (lane, first_index, base_entry, entries)
SELECT lane, 0, lane << 40, size FROM audit_logs WHERE size > 0;

CREATE TRIGGER audit_runs_refuse_update BEFORE UPDATE ON audit_runs
BEGIN
    SELECT RAISE(ABORT, 'horizons: an audit run is never changed');
END;

CREATE TRIGGER audit_runs_refuse_delete BEFORE DELETE ON audit_runs
BEGIN
    SELECT RAISE(ABORT, 'horizons: an audit run is never removed');
END;

-- Refuses a replace too, on every connection: there is one run in a lane's batch, so it costs nearly nothing.
CREATE TRIGGER audit_runs_refuse_overlap BEFORE INSERT ON audit_runs
WHEN NEW.first_index < (
    SELECT first_index + entries FROM audit_runs WHERE lane = NEW.lane ORDER BY first_index DESC LIMIT 1
)
BEGIN
    SELECT RAISE(ABORT, 'horizons: an audit run only follows those before it');
END;
