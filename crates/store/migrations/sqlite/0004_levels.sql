-- Agents below level 2 have no image. SQLite's own way to take a constraint away without copying the table, and all that refers
-- to it: the rows stay as they are, and are right by the wider rule.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema
SET sql = replace(replace(sql,
    'image               TEXT    NOT NULL,', 'image               TEXT,'),
    'image_name          TEXT    NOT NULL,', 'image_name          TEXT    CHECK ((image IS NULL) = (image_name IS NULL)),')
WHERE type = 'table' AND name = 'agents';
PRAGMA writable_schema = RESET;

-- The levels that a node makes, by its own word. Nodes that never said so make containers.
ALTER TABLE nodes ADD COLUMN levels TEXT NOT NULL DEFAULT '["container"]';
