-- Views of other producers' jobs get the timer that looks whether they are still wanted; it falls due at once and sets
-- itself anew.
INSERT INTO timers (lane, kind, key, due_at)
SELECT lane, 'external', job_id, updated_at FROM job_views WHERE NOT is_owned
ON CONFLICT DO NOTHING;
