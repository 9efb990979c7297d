-- What left agents, what was refused, and what waits for a person.

-- Without foreign keys, for it outlives the agents. An id is never given twice, or who follows the log would miss records. (An index
-- ends with the id of its row.)
CREATE TABLE egress_log (
    id        INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    agent     TEXT    NOT NULL,
    account   TEXT    NOT NULL,
    -- When it came, which its age is counted from: a connection may have begun long before.
    stored_at INTEGER NOT NULL,
    outcome   TEXT    NOT NULL CHECK (outcome IN ('passed', 'denied', 'failed')),
    record    TEXT    NOT NULL
) STRICT;
CREATE INDEX egress_log_account ON egress_log (account);
CREATE INDEX egress_log_outcome ON egress_log (account, outcome);
CREATE INDEX egress_log_agent ON egress_log (agent);
CREATE INDEX egress_log_refused ON egress_log (agent) WHERE outcome <> 'passed';
CREATE INDEX egress_log_age ON egress_log (stored_at);

-- How many records an agent has, so that nobody has to count them.
CREATE TABLE egress_counts (
    agent   TEXT    NOT NULL PRIMARY KEY,
    records INTEGER NOT NULL CHECK (records >= 0)
) STRICT;
CREATE TRIGGER egress_log_counts_in AFTER INSERT ON egress_log
BEGIN
    INSERT INTO egress_counts (agent, records) VALUES (new.agent, 1)
    ON CONFLICT (agent) DO UPDATE SET records = records + 1;
END;
CREATE TRIGGER egress_log_counts_out AFTER DELETE ON egress_log
BEGIN
    UPDATE egress_counts SET records = records - 1 WHERE agent = old.agent;
    DELETE FROM egress_counts WHERE agent = old.agent AND records = 0;
END;

-- What waits on nodes, as they last told. A row is there until its node no longer lists it.
CREATE TABLE egress_questions (
    id      TEXT    NOT NULL PRIMARY KEY,
    agent   TEXT    NOT NULL,
    account TEXT    NOT NULL,
    node    TEXT    NOT NULL,
    host    TEXT    NOT NULL,
    port    INTEGER NOT NULL,
    -- Nanoseconds since 1970: the node knows its question by it, to the last digit.
    asked   INTEGER NOT NULL,
    until   INTEGER NOT NULL,
    answer  TEXT    CHECK (answer IN ('once', 'agent', 'always', 'deny')),
    UNIQUE (agent, host, port, asked),
    FOREIGN KEY (agent, node) REFERENCES agents (id, node)
) STRICT;
CREATE INDEX egress_questions_account ON egress_questions (account);
CREATE INDEX egress_questions_node ON egress_questions (node);
CREATE INDEX egress_questions_answered ON egress_questions (node) WHERE answer IS NOT NULL;

-- What agents of an account may reach that ask, also those to come.
CREATE TABLE egress_remembered (
    id      TEXT    NOT NULL PRIMARY KEY,
    account TEXT    NOT NULL REFERENCES accounts (id),
    host    TEXT    NOT NULL,
    port    INTEGER NOT NULL,
    actor   TEXT    NOT NULL,
    at      INTEGER NOT NULL,
    UNIQUE (account, host, port)
) STRICT;

-- Until when somebody is there to decide: of one agent, or of all agents of an account, also of those that are made meanwhile.
ALTER TABLE agents ADD COLUMN watched_until INTEGER;
ALTER TABLE accounts ADD COLUMN watched_until INTEGER;
CREATE INDEX agents_watched ON agents (node, watched_until) WHERE watched_until IS NOT NULL;
CREATE INDEX accounts_watched ON accounts (watched_until) WHERE watched_until IS NOT NULL;
CREATE INDEX agents_of_account_on_node ON agents (account, node) WHERE state <> 'destroyed';
