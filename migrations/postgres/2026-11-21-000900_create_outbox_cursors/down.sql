DROP TABLE outbox_set_aside;
DROP TABLE outbox_cursors;
