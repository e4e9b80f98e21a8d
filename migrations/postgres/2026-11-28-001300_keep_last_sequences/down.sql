DROP TABLE job_sequences;
