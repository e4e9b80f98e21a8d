ALTER TABLE jobs DROP COLUMN lifecycle_partition;
ALTER TABLE jobs DROP COLUMN metrics_partition;
