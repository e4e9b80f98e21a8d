DELETE FROM gaps WHERE kind = 'corrupt';
ALTER TABLE gaps DROP CONSTRAINT gaps_kind_check;
ALTER TABLE gaps ADD CONSTRAINT gaps_kind_check CHECK (kind IN ('trimmed', 'beyond_end', 'replaced'));
