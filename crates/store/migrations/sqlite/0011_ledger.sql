-- The ledger's chains: see the crate `ledger`. Events are written as before, and chained once they are committed.

-- From where, and by which request. Events from before have neither.
ALTER TABLE events ADD COLUMN source TEXT;
ALTER TABLE events ADD COLUMN request TEXT;

-- Events that are in no chain yet, in the order of their commits. Nothing can be kept out of its chain by a number that was passed.
CREATE TABLE ledger_waiting (
    ordinal INTEGER NOT NULL PRIMARY KEY,
    event   TEXT    NOT NULL UNIQUE
) STRICT;
INSERT INTO ledger_waiting (event) SELECT id FROM events ORDER BY rowid;

CREATE TABLE ledger (
    -- An account's id, or `installation`.
    chain TEXT    NOT NULL,
    seq   INTEGER NOT NULL CHECK (seq > 0),
    event TEXT    NOT NULL UNIQUE,
    hash  TEXT    NOT NULL CHECK (length(hash) = 64),
    PRIMARY KEY (chain, seq)
) STRICT;

-- Public halves of keys that sign checkpoints.
CREATE TABLE ledger_keys (
    id         TEXT    NOT NULL PRIMARY KEY,
    x          TEXT    NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) STRICT;

-- Which control process does what one does for all.
CREATE TABLE leases (
    name   TEXT    NOT NULL PRIMARY KEY,
    holder TEXT    NOT NULL,
    until  INTEGER NOT NULL
) STRICT;

CREATE TRIGGER events_wait AFTER INSERT ON events
BEGIN
    INSERT INTO ledger_waiting (event) VALUES (new.id);
END;
CREATE TRIGGER ledger_waiting_no_update BEFORE UPDATE ON ledger_waiting
BEGIN
    SELECT raise(ABORT, 'an event waits until it is chained');
END;
CREATE TRIGGER ledger_waiting_no_delete BEFORE DELETE ON ledger_waiting
WHEN NOT EXISTS (SELECT 1 FROM ledger WHERE event = old.event)
BEGIN
    SELECT raise(ABORT, 'an event waits until it is chained');
END;
CREATE TRIGGER ledger_no_update BEFORE UPDATE ON ledger
BEGIN
    SELECT raise(ABORT, 'the ledger is append-only');
END;
CREATE TRIGGER ledger_no_delete BEFORE DELETE ON ledger
BEGIN
    SELECT raise(ABORT, 'the ledger is append-only');
END;
