-- A trial knows a parked record by its offset alone.
CREATE INDEX parked_records_by_offset ON parked_records (lane, record_offset);

-- One user's jobs of one status, without a walk over all of that user's.
CREATE INDEX jobs_by_user_and_status ON jobs (user_id, status, submitted_at, job_id);
