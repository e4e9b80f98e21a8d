DROP TABLE job_views, live_job_views, job_timeline, job_aggregates, status_counts, refusals, timers;
