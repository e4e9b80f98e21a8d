ALTER TABLE log_head DROP COLUMN held_at;
ALTER TABLE log_head DROP COLUMN spread;
