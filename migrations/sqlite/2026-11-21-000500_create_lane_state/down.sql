DROP TABLE timers;
DROP TABLE refusals;
DROP TABLE status_counts;
DROP TABLE job_aggregates;
DROP TABLE job_timeline;
DROP TABLE live_job_views;
DROP TABLE job_views;
