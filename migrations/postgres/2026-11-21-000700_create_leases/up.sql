-- Who may do what only one process at a time may do (design D9). Times are the database's.
CREATE TABLE leases (
    name       TEXT COLLATE "C" PRIMARY KEY,
    -- Null when it was given back.
    holder     TEXT COLLATE "C",
    -- Raised whenever another holder takes it.
    epoch      BIGINT NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL
) WITH (fillfactor = 50);
