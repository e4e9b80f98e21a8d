-- The steps of a job in the order of its life, also where it moved to another lane.
ALTER TABLE job_timeline DROP CONSTRAINT job_timeline_pkey;
ALTER TABLE job_timeline ADD PRIMARY KEY (job_id, sequence, lane, record_offset);
