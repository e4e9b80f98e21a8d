DROP TABLE audit_logs, audit_entries, audit_bodies, audit_runs, audit_segments;
DROP FUNCTION refuse_run_overlap();
DROP SEQUENCE audit_entry_blocks;
