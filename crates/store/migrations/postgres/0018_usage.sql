-- What each account's agents used on each UTC day that is over: counted once from state periods, and never again.
CREATE TABLE usage_days (
    account TEXT COLLATE "C" NOT NULL,
    -- Days since 1970.
    day     BIGINT NOT NULL,
    agent   TEXT COLLATE "C" NOT NULL,
    level   TEXT COLLATE "C" NOT NULL,
    node    TEXT COLLATE "C" NOT NULL,
    -- In thousandths of a core, and in bytes.
    cpus    BIGINT NOT NULL,
    memory  BIGINT NOT NULL,
    disk    BIGINT NOT NULL,
    -- In milliseconds; see model::usage.
    running BIGINT NOT NULL CHECK (running >= 0),
    paused  BIGINT NOT NULL CHECK (paused >= 0),
    kept    BIGINT NOT NULL CHECK (kept >= running + paused),
    PRIMARY KEY (account, day, agent, node, level, cpus, memory, disk)
);

-- The first day that is not counted yet; no row before the first was.
CREATE TABLE usage_mark (
    one BIGINT NOT NULL PRIMARY KEY CHECK (one = 1),
    day BIGINT NOT NULL
);

-- For what a day was made of, whoever's it is.
CREATE INDEX state_periods_ended ON state_periods (closed_at) WHERE state <> 'destroyed';

CREATE TRIGGER usage_days_no_update BEFORE UPDATE ON usage_days
    FOR EACH ROW EXECUTE FUNCTION refuse('a day that was counted stays');
CREATE TRIGGER usage_days_no_delete BEFORE DELETE ON usage_days
    FOR EACH ROW EXECUTE FUNCTION refuse('a day that was counted stays');
CREATE TRIGGER usage_days_no_truncate BEFORE TRUNCATE ON usage_days
    EXECUTE FUNCTION refuse('a day that was counted stays');
CREATE TRIGGER usage_mark_forward BEFORE UPDATE ON usage_mark
    FOR EACH ROW WHEN (new.day <= old.day) EXECUTE FUNCTION refuse('days are counted once');
CREATE TRIGGER usage_mark_no_delete BEFORE DELETE ON usage_mark
    FOR EACH ROW EXECUTE FUNCTION refuse('days are counted once');
CREATE TRIGGER usage_mark_no_truncate BEFORE TRUNCATE ON usage_mark
    EXECUTE FUNCTION refuse('days are counted once');
