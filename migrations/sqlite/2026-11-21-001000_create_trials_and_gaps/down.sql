DROP TABLE gaps;
DROP TABLE trials;
ALTER TABLE progress DROP COLUMN starts_aside;
ALTER TABLE progress DROP COLUMN ended_in_order;
ALTER TABLE progress DROP COLUMN opened_by;
ALTER TABLE lanes DROP COLUMN generation;
