-- A further kind of gap: records that cannot be read.
ALTER TABLE gaps DROP CONSTRAINT gaps_kind_check;
ALTER TABLE gaps ADD CONSTRAINT gaps_kind_check
    CHECK (kind IN ('trimmed', 'beyond_end', 'replaced', 'corrupt'));
