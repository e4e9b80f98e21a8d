-- Statements about a key name its hash as the unique indexes do, so the hash indexes on keys are of no use: for one
-- key with many records they bring all of them.
DROP INDEX parked_keys_by_key;
DROP INDEX parked_records_by_key;

-- A trial knows a parked record by its offset alone.
CREATE INDEX parked_records_by_offset ON parked_records (lane, record_offset);

-- One user's jobs of one status, without a walk over all of that user's.
CREATE INDEX jobs_by_user_and_status ON jobs (user_id, status, submitted_at, job_id);
