-- What each period was of, so that usage needs nothing but periods: level and size as they were asked for, and who moved the agent there.
ALTER TABLE state_periods ADD COLUMN level TEXT COLLATE "C" NOT NULL DEFAULT 'container';
-- In thousandths of a core, and in bytes.
ALTER TABLE state_periods ADD COLUMN cpus BIGINT NOT NULL DEFAULT 0;
ALTER TABLE state_periods ADD COLUMN memory BIGINT NOT NULL DEFAULT 0;
ALTER TABLE state_periods ADD COLUMN disk BIGINT NOT NULL DEFAULT 0;
-- Absent of periods that are older than these columns.
ALTER TABLE state_periods ADD COLUMN actor TEXT COLLATE "C";
ALTER TABLE state_periods ADD COLUMN cause TEXT COLLATE "C";

DROP TRIGGER state_periods_close_once ON state_periods;
UPDATE state_periods p SET level = coalesce(a.spec::json ->> 'level', p.level), cpus = a.cpus, memory = a.memory, disk = a.disk
FROM agents a WHERE a.id = p.agent;

CREATE TRIGGER state_periods_close_once BEFORE UPDATE ON state_periods
    FOR EACH ROW WHEN (old.closed_at IS NOT NULL OR new.closed_at IS NULL OR new.agent <> old.agent
        OR new.ordinal <> old.ordinal OR new.account <> old.account OR new.node <> old.node OR new.state <> old.state
        OR new.opened_at <> old.opened_at OR new.level <> old.level OR new.cpus <> old.cpus OR new.memory <> old.memory
        OR new.disk <> old.disk OR new.actor IS DISTINCT FROM old.actor OR new.cause IS DISTINCT FROM old.cause)
    EXECUTE FUNCTION refuse('a state period can only be closed, once');

-- No gap, no overlap: each begins at the instant at which the one before ended.
CREATE FUNCTION state_periods_follow() RETURNS trigger LANGUAGE plpgsql AS '
    BEGIN
        IF new.ordinal <> 1 + (SELECT coalesce(max(ordinal), 0) FROM state_periods WHERE agent = new.agent)
            OR (new.ordinal > 1 AND new.opened_at IS DISTINCT FROM
                (SELECT closed_at FROM state_periods WHERE agent = new.agent AND ordinal = new.ordinal - 1)) THEN
            RAISE EXCEPTION ''a state period begins when the one before ends'' USING ERRCODE = ''restrict_violation'';
        END IF;
        RETURN new;
    END';
CREATE TRIGGER state_periods_follow BEFORE INSERT ON state_periods
    FOR EACH ROW EXECUTE FUNCTION state_periods_follow();

-- For what an account used since some instant. Those who are destroyed use nothing, and there are ever more of them.
CREATE INDEX state_periods_of_account ON state_periods (account, closed_at) WHERE state <> 'destroyed';
