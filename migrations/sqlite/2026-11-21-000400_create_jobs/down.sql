DROP TABLE idempotency_keys;
DROP TABLE orders;
DROP TABLE job_events;
DROP TABLE jobs;
