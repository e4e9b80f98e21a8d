DROP TABLE log, log_head;
