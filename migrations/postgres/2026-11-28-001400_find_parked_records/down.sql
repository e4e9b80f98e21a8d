DROP INDEX jobs_by_user_and_status;
DROP INDEX parked_records_by_offset;
CREATE INDEX parked_records_by_key ON parked_records USING hash (key);
CREATE INDEX parked_keys_by_key ON parked_keys USING hash (key);
