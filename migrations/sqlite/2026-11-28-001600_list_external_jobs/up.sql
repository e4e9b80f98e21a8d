-- Jobs of other producers are listed beside our own, newest first. Neither column changes, so a transition does not
-- touch the index; our own jobs are not in it.
CREATE INDEX job_views_external ON job_views (submitted_at, job_id) WHERE NOT is_owned;
