DROP INDEX jobs_by_user_and_status;
DROP INDEX parked_records_by_offset;
