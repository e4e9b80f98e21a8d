-- The audit log (design D10). No secondary index: one index filled per event costs a factor of five.
--
-- Entries, bodies, runs and closed segments refuse update, delete and truncate for everybody, the owner of the
-- tables included, as long as the owner leaves the triggers alone; a role that is not the owner has no right to
-- any of it, nor to the triggers (see `migrate.rs`).

CREATE TABLE audit_logs (
    lane              BIGINT PRIMARY KEY REFERENCES lanes (lane),
    size              BIGINT NOT NULL,
    chain_head        BYTEA NOT NULL CHECK (octet_length(chain_head) = 32),
    -- The roots of the perfect subtrees, 32 bytes each, largest first.
    frontier          BYTEA NOT NULL CHECK (octet_length(frontier) % 32 = 0),
    last_offset       BIGINT,
    segment_number    BIGINT NOT NULL,
    segment_first     BIGINT NOT NULL,
    segment_opened_at BIGINT NOT NULL
) WITH (fillfactor = 50);

CREATE TRIGGER audit_logs_only_grow BEFORE UPDATE ON audit_logs FOR EACH ROW
WHEN (NEW.lane <> OLD.lane OR NEW.size < OLD.size OR NEW.segment_number < OLD.segment_number
  OR (NEW.size = OLD.size AND (NEW.chain_head <> OLD.chain_head OR NEW.frontier <> OLD.frontier)))
EXECUTE FUNCTION refuse_change('an audit log may only grow');

CREATE TRIGGER audit_logs_refuse_delete BEFORE DELETE OR TRUNCATE ON audit_logs FOR EACH STATEMENT
EXECUTE FUNCTION refuse_change('an audit log is never removed');

-- Numbers of entries, taken in blocks: each process fills its own, so that processes do not wait for one another.
CREATE SEQUENCE audit_entry_blocks INCREMENT BY 16384 MINVALUE 1;

-- entry counts in the order of writing; audit_runs tells which lane and index it is.
CREATE TABLE audit_entries (
    entry         BIGINT PRIMARY KEY,
    record_offset BIGINT NOT NULL,
    leaf_hash     BYTEA NOT NULL CHECK (octet_length(leaf_hash) = 32),
    chain_hash    BYTEA NOT NULL CHECK (octet_length(chain_hash) = 32),
    mark          TEXT COLLATE "C" NOT NULL,
    appended_at   BIGINT NOT NULL
);

CREATE TRIGGER audit_entries_refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_entries
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change('an audit entry is never changed or removed');

CREATE TABLE audit_bodies (
    entry       BIGINT PRIMARY KEY,
    recorded_at BIGINT NOT NULL,
    time_type   INTEGER NOT NULL CHECK (time_type IN (0, 1)),
    key         BYTEA,
    headers     BYTEA NOT NULL,
    payload     BYTEA
);

CREATE TRIGGER audit_bodies_refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_bodies
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change('an audit body is never changed or removed');

-- Where the entries of an audit log stand: the indexes first_index .. first_index + entries of a lane have the
-- numbers base_entry and what follows, without a gap.
CREATE TABLE audit_runs (
    lane        BIGINT NOT NULL REFERENCES lanes (lane),
    first_index BIGINT NOT NULL CHECK (first_index >= 0),
    base_entry  BIGINT NOT NULL,
    entries     BIGINT NOT NULL CHECK (entries > 0),
    PRIMARY KEY (lane, first_index)
);

CREATE TRIGGER audit_runs_refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_runs
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change('an audit run is never changed or removed');

-- The functions of triggers name their tables by the trigger's own schema, whatever search path the session has.
CREATE FUNCTION refuse_run_overlap() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    last_end BIGINT;
BEGIN
    EXECUTE format(
        'SELECT first_index + entries FROM %I.%I WHERE lane = $1 ORDER BY first_index DESC LIMIT 1',
        TG_TABLE_SCHEMA, TG_TABLE_NAME
    ) INTO last_end USING NEW.lane;
    IF NEW.first_index < last_end THEN
        RAISE EXCEPTION 'horizons: an audit run only follows those before it' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END;
$$;

CREATE TRIGGER audit_runs_refuse_overlap BEFORE INSERT ON audit_runs FOR EACH ROW
EXECUTE FUNCTION refuse_run_overlap();

-- Closed segments; the open one stands in audit_logs.
CREATE TABLE audit_segments (
    lane        BIGINT NOT NULL REFERENCES lanes (lane),
    number      BIGINT NOT NULL,
    first_index BIGINT NOT NULL,
    end_index   BIGINT NOT NULL,
    opened_at   BIGINT NOT NULL,
    closed_at   BIGINT NOT NULL,
    PRIMARY KEY (lane, number)
);

CREATE TRIGGER audit_segments_refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_segments
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change('a closed audit segment is never changed or removed');
