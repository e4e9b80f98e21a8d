DROP TABLE progress;
DROP TABLE lanes;
DROP TABLE store_identity;
