-- Why a lane holds still: what its brake on floods of poison found (design D6). Null where nothing holds it.
ALTER TABLE progress ADD COLUMN held_because TEXT;
