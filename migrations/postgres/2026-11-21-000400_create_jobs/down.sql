DROP TABLE jobs, job_events, orders, idempotency_keys;
