DROP TABLE outbox_cursors, outbox_set_aside;
