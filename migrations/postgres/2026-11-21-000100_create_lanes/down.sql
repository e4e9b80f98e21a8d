DROP TABLE progress;
DROP TABLE lanes;
DROP TABLE store_identity;
DROP FUNCTION refuse_change();
