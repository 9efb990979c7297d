-- What left agents, what was refused, and what waits for a person.

-- Without foreign keys, for it outlives the agents. An id is never given twice, or who follows the log would miss records.
CREATE TABLE egress_log (
    id        BIGINT NOT NULL PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    agent     TEXT COLLATE "C" NOT NULL,
    account   TEXT COLLATE "C" NOT NULL,
    -- When it came, which its age is counted from: a connection may have begun long before.
    stored_at BIGINT NOT NULL,
    outcome   TEXT COLLATE "C" NOT NULL CHECK (outcome IN ('passed', 'denied', 'failed')),
    record    TEXT COLLATE "C" NOT NULL
);
CREATE INDEX egress_log_account ON egress_log (account, id);
CREATE INDEX egress_log_outcome ON egress_log (account, outcome, id);
CREATE INDEX egress_log_agent ON egress_log (agent, id);
CREATE INDEX egress_log_refused ON egress_log (agent, id) WHERE outcome <> 'passed';
CREATE INDEX egress_log_age ON egress_log (stored_at);

-- How many records an agent has, so that nobody has to count them.
CREATE TABLE egress_counts (
    agent   TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    records BIGINT NOT NULL CHECK (records >= 0)
);
-- Once for each statement: a row that is counted up many times in one transaction is as many rows, of which all but one are dead.
CREATE FUNCTION egress_log_count_in() RETURNS trigger LANGUAGE plpgsql AS '
BEGIN
    INSERT INTO egress_counts AS known (agent, records) SELECT agent, count(*) FROM added GROUP BY agent
    ON CONFLICT (agent) DO UPDATE SET records = known.records + excluded.records;
    RETURN NULL;
END';
CREATE FUNCTION egress_log_count_out() RETURNS trigger LANGUAGE plpgsql AS '
BEGIN
    UPDATE egress_counts SET records = records - gone.count
    FROM (SELECT agent, count(*) AS count FROM removed GROUP BY agent) AS gone WHERE egress_counts.agent = gone.agent;
    DELETE FROM egress_counts WHERE records = 0 AND agent IN (SELECT agent FROM removed);
    RETURN NULL;
END';
CREATE TRIGGER egress_log_counts_in AFTER INSERT ON egress_log REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION egress_log_count_in();
CREATE TRIGGER egress_log_counts_out AFTER DELETE ON egress_log REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION egress_log_count_out();
CREATE TRIGGER egress_log_no_truncate BEFORE TRUNCATE ON egress_log
    EXECUTE FUNCTION refuse('records are deleted, so that they are counted');

-- What waits on nodes, as they last told. A row is there until its node no longer lists it.
CREATE TABLE egress_questions (
    id      TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    agent   TEXT COLLATE "C" NOT NULL,
    account TEXT COLLATE "C" NOT NULL,
    node    TEXT COLLATE "C" NOT NULL,
    host    TEXT COLLATE "C" NOT NULL,
    port    BIGINT NOT NULL,
    -- Nanoseconds since 1970: the node knows its question by it, to the last digit.
    asked   BIGINT NOT NULL,
    until   BIGINT NOT NULL,
    answer  TEXT COLLATE "C" CHECK (answer IN ('once', 'agent', 'always', 'deny')),
    UNIQUE (agent, host, port, asked),
    FOREIGN KEY (agent, node) REFERENCES agents (id, node)
);
CREATE INDEX egress_questions_account ON egress_questions (account);
CREATE INDEX egress_questions_node ON egress_questions (node);
CREATE INDEX egress_questions_answered ON egress_questions (node) WHERE answer IS NOT NULL;

-- What agents of an account may reach that ask, also those to come.
CREATE TABLE egress_remembered (
    id      TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    account TEXT COLLATE "C" NOT NULL REFERENCES accounts (id),
    host    TEXT COLLATE "C" NOT NULL,
    port    BIGINT NOT NULL,
    actor   TEXT COLLATE "C" NOT NULL,
    at      BIGINT NOT NULL,
    UNIQUE (account, host, port)
);

-- Until when somebody is there to decide: of one agent, or of all agents of an account, also of those that are made meanwhile.
ALTER TABLE agents ADD COLUMN watched_until BIGINT;
ALTER TABLE accounts ADD COLUMN watched_until BIGINT;
CREATE INDEX agents_watched ON agents (node, watched_until) WHERE watched_until IS NOT NULL;
CREATE INDEX accounts_watched ON accounts (watched_until) WHERE watched_until IS NOT NULL;
CREATE INDEX agents_of_account_on_node ON agents (account, node) WHERE state <> 'destroyed';
