-- What each period was of, so that usage needs nothing but periods: level and size as they were asked for, and who moved the agent there.
ALTER TABLE state_periods ADD COLUMN level TEXT NOT NULL DEFAULT 'container';
-- In thousandths of a core, and in bytes.
ALTER TABLE state_periods ADD COLUMN cpus INTEGER NOT NULL DEFAULT 0;
ALTER TABLE state_periods ADD COLUMN memory INTEGER NOT NULL DEFAULT 0;
ALTER TABLE state_periods ADD COLUMN disk INTEGER NOT NULL DEFAULT 0;
-- Absent of periods that are older than these columns.
ALTER TABLE state_periods ADD COLUMN actor TEXT;
ALTER TABLE state_periods ADD COLUMN cause TEXT;

DROP TRIGGER state_periods_close_once;
UPDATE state_periods SET
    level = coalesce((SELECT json_extract(a.spec, '$.level') FROM agents a WHERE a.id = agent), level),
    cpus = coalesce((SELECT a.cpus FROM agents a WHERE a.id = agent), 0),
    memory = coalesce((SELECT a.memory FROM agents a WHERE a.id = agent), 0),
    disk = coalesce((SELECT a.disk FROM agents a WHERE a.id = agent), 0);

CREATE TRIGGER state_periods_close_once BEFORE UPDATE ON state_periods
WHEN old.closed_at IS NOT NULL OR new.closed_at IS NULL OR new.agent <> old.agent OR new.ordinal <> old.ordinal
    OR new.account <> old.account OR new.node <> old.node OR new.state <> old.state OR new.opened_at <> old.opened_at
    OR new.level <> old.level OR new.cpus <> old.cpus OR new.memory <> old.memory OR new.disk <> old.disk
    OR new.actor IS NOT old.actor OR new.cause IS NOT old.cause
BEGIN
    SELECT raise(ABORT, 'a state period can only be closed, once');
END;

-- No gap, no overlap: each begins at the instant at which the one before ended.
CREATE TRIGGER state_periods_follow BEFORE INSERT ON state_periods
WHEN new.ordinal <> 1 + (SELECT coalesce(max(ordinal), 0) FROM state_periods WHERE agent = new.agent)
    OR (new.ordinal > 1 AND new.opened_at IS NOT
        (SELECT closed_at FROM state_periods WHERE agent = new.agent AND ordinal = new.ordinal - 1))
BEGIN
    SELECT raise(ABORT, 'a state period begins when the one before ends');
END;

-- For what an account used since some instant. Those who are destroyed use nothing, and there are ever more of them.
CREATE INDEX state_periods_of_account ON state_periods (account, closed_at) WHERE state <> 'destroyed';
