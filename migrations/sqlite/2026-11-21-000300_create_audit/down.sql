DROP TABLE audit_segments;
DROP TABLE audit_bodies;
DROP TABLE audit_entries;
DROP TABLE audit_logs;
