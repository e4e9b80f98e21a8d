DROP INDEX job_views_external;
