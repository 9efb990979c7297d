-- What all agents of an account may have together. An account without a row, or a column without a value, is unlimited.
CREATE TABLE quotas (
    account    TEXT    NOT NULL PRIMARY KEY REFERENCES accounts (id),
    agents     INTEGER,
    -- In thousandths of a core.
    cpus       INTEGER,
    memory     INTEGER,
    disk       INTEGER,
    -- Raised by every creation, so that two of one account never decide on the same sum.
    decisions  INTEGER NOT NULL DEFAULT 0
) STRICT;

-- What an agent was created with, for sums.
ALTER TABLE agents ADD COLUMN cpus INTEGER NOT NULL DEFAULT 0;
ALTER TABLE agents ADD COLUMN memory INTEGER NOT NULL DEFAULT 0;
ALTER TABLE agents ADD COLUMN disk INTEGER NOT NULL DEFAULT 0;
UPDATE agents SET
    cpus = CAST(round(json_extract(spec, '$.resources.cpus') * 1000) AS INTEGER),
    -- Written as `512MiB`, in the largest unit that divides it.
    memory = CAST(json_extract(spec, '$.resources.memory') AS INTEGER) * CASE
        WHEN json_extract(spec, '$.resources.memory') LIKE '%TiB' THEN 1099511627776
        WHEN json_extract(spec, '$.resources.memory') LIKE '%GiB' THEN 1073741824
        WHEN json_extract(spec, '$.resources.memory') LIKE '%MiB' THEN 1048576
        WHEN json_extract(spec, '$.resources.memory') LIKE '%KiB' THEN 1024 ELSE 1 END,
    disk = CAST(json_extract(spec, '$.resources.disk') AS INTEGER) * CASE
        WHEN json_extract(spec, '$.resources.disk') LIKE '%TiB' THEN 1099511627776
        WHEN json_extract(spec, '$.resources.disk') LIKE '%GiB' THEN 1073741824
        WHEN json_extract(spec, '$.resources.disk') LIKE '%MiB' THEN 1048576
        WHEN json_extract(spec, '$.resources.disk') LIKE '%KiB' THEN 1024 ELSE 1 END;
