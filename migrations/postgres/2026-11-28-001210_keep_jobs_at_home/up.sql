-- The partitions that a job's events go to for all its life, whatever becomes of the topics' layouts. Null in rows of
-- earlier versions: those of the layout that a topic begins with.
ALTER TABLE jobs ADD COLUMN lifecycle_partition BIGINT;
ALTER TABLE jobs ADD COLUMN metrics_partition BIGINT;
