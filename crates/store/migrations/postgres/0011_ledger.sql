-- The ledger's chains: see the crate `ledger`. Events are written as before, and chained once they are committed.

-- From where, and by which request. Events from before have neither.
ALTER TABLE events ADD COLUMN source TEXT COLLATE "C";
ALTER TABLE events ADD COLUMN request TEXT COLLATE "C";

-- Events that are in no chain yet, in the order of their commits. Nothing can be kept out of its chain by a number that was passed.
CREATE TABLE ledger_waiting (
    ordinal BIGINT NOT NULL PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    event   TEXT COLLATE "C" NOT NULL UNIQUE
);
INSERT INTO ledger_waiting (event) SELECT id FROM events ORDER BY rowid;

CREATE TABLE ledger (
    -- An account's id, or `installation`.
    chain TEXT COLLATE "C" NOT NULL,
    seq   BIGINT NOT NULL CHECK (seq > 0),
    event TEXT COLLATE "C" NOT NULL UNIQUE,
    hash  TEXT COLLATE "C" NOT NULL CHECK (length(hash) = 64),
    PRIMARY KEY (chain, seq)
);

-- Public halves of keys that sign checkpoints.
CREATE TABLE ledger_keys (
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    x          TEXT COLLATE "C" NOT NULL UNIQUE,
    created_at BIGINT NOT NULL
);

-- Which control process does what one does for all.
CREATE TABLE leases (
    name   TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    holder TEXT COLLATE "C" NOT NULL,
    until  BIGINT NOT NULL
);

CREATE FUNCTION events_wait() RETURNS trigger LANGUAGE plpgsql AS '
BEGIN
    INSERT INTO ledger_waiting (event) VALUES (NEW.id);
    RETURN NULL;
END';
CREATE TRIGGER events_wait AFTER INSERT ON events FOR EACH ROW EXECUTE FUNCTION events_wait();
CREATE TRIGGER ledger_waiting_no_update BEFORE UPDATE ON ledger_waiting
    FOR EACH ROW EXECUTE FUNCTION refuse('an event waits until it is chained');
CREATE FUNCTION ledger_waiting_no_delete() RETURNS trigger LANGUAGE plpgsql AS '
BEGIN
    IF NOT EXISTS (SELECT 1 FROM ledger WHERE event = OLD.event) THEN
        RAISE EXCEPTION ''an event waits until it is chained'' USING ERRCODE = ''restrict_violation'';
    END IF;
    RETURN OLD;
END';
CREATE TRIGGER ledger_waiting_no_delete BEFORE DELETE ON ledger_waiting
    FOR EACH ROW EXECUTE FUNCTION ledger_waiting_no_delete();
CREATE TRIGGER ledger_waiting_no_truncate BEFORE TRUNCATE ON ledger_waiting
    EXECUTE FUNCTION refuse('an event waits until it is chained');
CREATE TRIGGER ledger_no_update BEFORE UPDATE ON ledger
    FOR EACH ROW EXECUTE FUNCTION refuse('the ledger is append-only');
CREATE TRIGGER ledger_no_delete BEFORE DELETE ON ledger
    FOR EACH ROW EXECUTE FUNCTION refuse('the ledger is append-only');
CREATE TRIGGER ledger_no_truncate BEFORE TRUNCATE ON ledger
    EXECUTE FUNCTION refuse('the ledger is append-only');
