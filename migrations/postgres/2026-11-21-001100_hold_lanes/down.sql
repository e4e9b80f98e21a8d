ALTER TABLE progress DROP COLUMN held_because;
