DROP TABLE dead_letters, parked_keys, parked_records;
