ALTER TABLE job_timeline DROP CONSTRAINT job_timeline_pkey;
ALTER TABLE job_timeline ADD PRIMARY KEY (job_id, lane, record_offset);
