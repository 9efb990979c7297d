-- Agents that went from one account to another. A row is there for ever: what a gate of the account before tells late is that account's.
CREATE TABLE transfers (
    agent        TEXT COLLATE "C" NOT NULL,
    -- Counted from 1.
    number       BIGINT NOT NULL,
    from_account TEXT COLLATE "C" NOT NULL REFERENCES accounts (id),
    to_account   TEXT COLLATE "C" NOT NULL REFERENCES accounts (id),
    at           BIGINT NOT NULL,
    PRIMARY KEY (agent, number),
    CHECK (from_account <> to_account)
);

-- How often it went.
ALTER TABLE agents ADD COLUMN transfers BIGINT NOT NULL DEFAULT 0;
