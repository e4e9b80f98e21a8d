DROP TABLE parked_records;
DROP TABLE parked_keys;
DROP TABLE dead_letters;
