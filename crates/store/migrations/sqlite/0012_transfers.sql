-- Agents that went from one account to another. A row is there for ever: what a gate of the account before tells late is that account's.
CREATE TABLE transfers (
    agent        TEXT    NOT NULL,
    -- Counted from 1.
    number       INTEGER NOT NULL,
    from_account TEXT    NOT NULL REFERENCES accounts (id),
    to_account   TEXT    NOT NULL REFERENCES accounts (id),
    at           INTEGER NOT NULL,
    PRIMARY KEY (agent, number),
    CHECK (from_account <> to_account)
) STRICT;

-- How often it went.
ALTER TABLE agents ADD COLUMN transfers INTEGER NOT NULL DEFAULT 0;
