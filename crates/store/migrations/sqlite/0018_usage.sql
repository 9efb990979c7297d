-- What each account's agents used on each UTC day that is over: counted once from state periods, and never again.
CREATE TABLE usage_days (
    account TEXT NOT NULL,
    -- Days since 1970.
    day     INTEGER NOT NULL,
    agent   TEXT NOT NULL,
    level   TEXT NOT NULL,
    node    TEXT NOT NULL,
    -- In thousandths of a core, and in bytes.
    cpus    INTEGER NOT NULL,
    memory  INTEGER NOT NULL,
    disk    INTEGER NOT NULL,
    -- In milliseconds; see model::usage.
    running INTEGER NOT NULL CHECK (running >= 0),
    paused  INTEGER NOT NULL CHECK (paused >= 0),
    kept    INTEGER NOT NULL CHECK (kept >= running + paused),
    PRIMARY KEY (account, day, agent, node, level, cpus, memory, disk)
) STRICT;

-- The first day that is not counted yet; no row before the first was.
CREATE TABLE usage_mark (
    one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    day INTEGER NOT NULL
) STRICT;

-- For what a day was made of, whoever's it is.
CREATE INDEX state_periods_ended ON state_periods (closed_at) WHERE state <> 'destroyed';

CREATE TRIGGER usage_days_no_update BEFORE UPDATE ON usage_days
BEGIN
    SELECT raise(ABORT, 'a day that was counted stays');
END;
CREATE TRIGGER usage_days_no_delete BEFORE DELETE ON usage_days
BEGIN
    SELECT raise(ABORT, 'a day that was counted stays');
END;
CREATE TRIGGER usage_mark_forward BEFORE UPDATE ON usage_mark
WHEN new.day <= old.day
BEGIN
    SELECT raise(ABORT, 'days are counted once');
END;
CREATE TRIGGER usage_mark_no_delete BEFORE DELETE ON usage_mark
BEGIN
    SELECT raise(ABORT, 'days are counted once');
END;
