-- A topic's turn from one layout to the next, at each of its partitions. Both are null where the topic never grew.

-- Over how many partitions the keys of new rows are spread; read by whoever takes offsets, in the same statement.
ALTER TABLE log_head ADD COLUMN spread BIGINT;
-- From where on rows are not sent yet: until the layout counts that was begun there.
ALTER TABLE log_head ADD COLUMN held_at BIGINT;
