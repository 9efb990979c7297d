-- What all agents of an account may have together. An account without a row, or a column without a value, is unlimited.
CREATE TABLE quotas (
    account    TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES accounts (id),
    agents     BIGINT,
    -- In thousandths of a core.
    cpus       BIGINT,
    memory     BIGINT,
    disk       BIGINT,
    -- Raised by every creation, so that two of one account never decide on the same sum.
    decisions  BIGINT NOT NULL DEFAULT 0
);

-- What an agent was created with, for sums.
ALTER TABLE agents ADD COLUMN cpus BIGINT NOT NULL DEFAULT 0;
ALTER TABLE agents ADD COLUMN memory BIGINT NOT NULL DEFAULT 0;
ALTER TABLE agents ADD COLUMN disk BIGINT NOT NULL DEFAULT 0;
-- (No installation on PostgreSQL is older than this: there is nothing to read them from.)
