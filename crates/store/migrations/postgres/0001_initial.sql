-- The first schema, for PostgreSQL. Instants are milliseconds since 1970; ids are the text forms of `model::id`. Texts sort by their
-- bytes, as in SQLite, whatever the database's own collation.
-- What must never happen is made impossible here, not only avoided in the code above.

-- Statements stand once, for both databases. What SQLite has in them and PostgreSQL has not, or not of texts, is made here.
CREATE FUNCTION json_each(list text) RETURNS TABLE (value text) LANGUAGE sql IMMUTABLE
    AS 'SELECT json_array_elements_text(list::json)';
CREATE FUNCTION json_member(object text, path text) RETURNS text LANGUAGE sql IMMUTABLE
    AS 'SELECT (object::json #>> string_to_array(regexp_replace(path, ''^\$\.'', ''''), ''.''))';
CREATE FUNCTION json_part(object text, path text) RETURNS text LANGUAGE sql IMMUTABLE
    AS 'SELECT (object::json -> path)::text';
CREATE OPERATOR ->> (LEFTARG = text, RIGHTARG = text, FUNCTION = json_member);
CREATE OPERATOR -> (LEFTARG = text, RIGHTARG = text, FUNCTION = json_part);

-- Counts transactions that change something, in the order of their commits: it is taken behind the lock that they all take.
CREATE SEQUENCE changes;

-- For triggers: refuses, with their argument as the reason.
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN RAISE EXCEPTION ''%'', TG_ARGV[0] USING ERRCODE = ''restrict_violation''; END';

CREATE TABLE installation (
    singleton      BIGINT NOT NULL PRIMARY KEY CHECK (singleton = 1),
    id             TEXT COLLATE "C" NOT NULL,
    database_epoch BIGINT NOT NULL CHECK (database_epoch > 0),
    created_at     BIGINT NOT NULL
);

-- Public halves only; the private one lies in a file beside the database. At most one is in use.
CREATE TABLE signing_keys (
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    x          TEXT COLLATE "C" NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    retired_at BIGINT
);
CREATE UNIQUE INDEX signing_keys_in_use ON signing_keys ((retired_at IS NULL)) WHERE retired_at IS NULL;

CREATE TABLE accounts (
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    name       TEXT COLLATE "C" NOT NULL UNIQUE,
    -- Sees what belongs to no account: events of shared nodes and of the installation.
    operator   BIGINT NOT NULL CHECK (operator IN (0, 1)),
    created_at BIGINT NOT NULL,
    CHECK (id <> 'shared')
);

CREATE TABLE api_keys (
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    account    TEXT COLLATE "C" NOT NULL REFERENCES accounts (id),
    name       TEXT COLLATE "C" NOT NULL,
    hash       TEXT COLLATE "C" NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    UNIQUE (account, name)
);

CREATE TABLE nodes (
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    name       TEXT COLLATE "C" NOT NULL UNIQUE,
    account    TEXT COLLATE "C" REFERENCES accounts (id),
    tenant     TEXT COLLATE "C" NOT NULL CHECK (tenant = coalesce(account, 'shared')),
    -- Absent until the node has enrolled.
    public_key TEXT COLLATE "C" UNIQUE,
    cpus       DOUBLE PRECISION NOT NULL,
    memory     BIGINT NOT NULL,
    rev        BIGINT NOT NULL,
    last_seen  BIGINT,
    created_at BIGINT NOT NULL,
    UNIQUE (id, tenant)
);

CREATE TABLE images (
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    account    TEXT COLLATE "C" NOT NULL REFERENCES accounts (id),
    name       TEXT COLLATE "C" NOT NULL,
    digest     TEXT COLLATE "C" NOT NULL CHECK (length(digest) = 64),
    size       BIGINT NOT NULL,
    config     TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    -- Deleted, or its name moved on to other content. The row stays for the agents made from it.
    deleted_at BIGINT,
    UNIQUE (id, account)
);
CREATE UNIQUE INDEX images_name ON images (account, name) WHERE deleted_at IS NULL;

CREATE TABLE agents (
    id                  TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    account             TEXT COLLATE "C" NOT NULL REFERENCES accounts (id),
    node                TEXT COLLATE "C" NOT NULL,
    tenant              TEXT COLLATE "C" NOT NULL CHECK (tenant IN (account, 'shared')),
    name                TEXT COLLATE "C" NOT NULL,
    image               TEXT COLLATE "C" NOT NULL,
    image_name          TEXT COLLATE "C" NOT NULL,
    spec                TEXT COLLATE "C" NOT NULL,
    labels              TEXT COLLATE "C" NOT NULL,
    desired             TEXT COLLATE "C" NOT NULL CHECK (desired IN ('running', 'paused', 'stopped', 'destroyed')),
    state               TEXT COLLATE "C" NOT NULL CHECK (state IN ('provisioning', 'running', 'paused', 'stopping',
                                'stopped', 'starting', 'destroying', 'destroyed', 'failed')),
    generation          BIGINT NOT NULL,
    observed_generation BIGINT NOT NULL,
    token_epoch         BIGINT NOT NULL,
    reason              TEXT COLLATE "C",
    evidence            TEXT COLLATE "C" NOT NULL,
    workspace_url       TEXT COLLATE "C",
    last_activity       BIGINT,
    expires_at          BIGINT,
    idle_ms             BIGINT,
    created_at          BIGINT NOT NULL,
    state_since         BIGINT NOT NULL,
    UNIQUE (id, node),
    CHECK (state NOT IN ('destroying', 'destroyed') OR desired = 'destroyed'),
    FOREIGN KEY (node, tenant) REFERENCES nodes (id, tenant),
    FOREIGN KEY (image, account) REFERENCES images (id, account)
);
CREATE UNIQUE INDEX agents_name ON agents (account, name) WHERE state <> 'destroyed';
CREATE INDEX agents_page ON agents (account, id);
CREATE INDEX agents_on_node ON agents (node) WHERE state <> 'destroyed';
CREATE INDEX agents_expiring ON agents (expires_at) WHERE expires_at IS NOT NULL AND desired <> 'destroyed';
CREATE INDEX agents_idling ON agents (node)
    WHERE idle_ms IS NOT NULL AND state = 'running' AND desired = 'running';
CREATE INDEX agents_of_image ON agents (image) WHERE state <> 'destroyed';

CREATE TRIGGER agents_stay_destroyed BEFORE UPDATE OF state, desired ON agents
    FOR EACH ROW WHEN (old.state = 'destroyed' AND (new.state <> 'destroyed' OR new.desired <> 'destroyed'))
    EXECUTE FUNCTION refuse('a destroyed agent stays destroyed');

CREATE TABLE agent_labels (
    agent TEXT COLLATE "C" NOT NULL REFERENCES agents (id),
    key   TEXT COLLATE "C" NOT NULL,
    value TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (agent, key)
);

-- The limit of agents per node is a row per slot.
CREATE TABLE node_slots (
    node  TEXT COLLATE "C" NOT NULL REFERENCES nodes (id),
    slot  BIGINT NOT NULL,
    agent TEXT COLLATE "C" UNIQUE,
    UNIQUE (node, slot),
    FOREIGN KEY (agent, node) REFERENCES agents (id, node)
);

CREATE TABLE bootstrap_tokens (
    hash        TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    node        TEXT COLLATE "C" NOT NULL REFERENCES nodes (id),
    expires_at  BIGINT NOT NULL,
    -- The public key that redeemed it. The same key may come again, in case the answer was lost.
    redeemed_by TEXT COLLATE "C"
);

CREATE TABLE callback_tokens (
    hash       TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    node       TEXT COLLATE "C" NOT NULL REFERENCES nodes (id),
    expires_at BIGINT NOT NULL
);

-- Assertions that were traded already.
CREATE TABLE assertions (
    node       TEXT COLLATE "C" NOT NULL REFERENCES nodes (id),
    jti        TEXT COLLATE "C" NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (node, jti)
);

CREATE TABLE idempotency_keys (
    account    TEXT COLLATE "C" NOT NULL REFERENCES accounts (id),
    key        TEXT COLLATE "C" NOT NULL,
    request    TEXT COLLATE "C" NOT NULL,
    answer     TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (account, key)
);

-- The ledger: append-only, and without foreign keys, for it outlives what it tells of.
CREATE TABLE events (
    id      TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    account TEXT COLLATE "C",
    at      BIGINT NOT NULL,
    kind    TEXT COLLATE "C" NOT NULL,
    actor   TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    detail  TEXT COLLATE "C" NOT NULL,
    -- SQLite has it of each row, and ends each index with it.
    rowid   BIGINT NOT NULL GENERATED ALWAYS AS IDENTITY
);
CREATE INDEX events_page ON events (account, id);
CREATE INDEX events_subject ON events (subject, kind, rowid);

CREATE TRIGGER events_no_update BEFORE UPDATE ON events
    FOR EACH ROW EXECUTE FUNCTION refuse('events are append-only');
CREATE TRIGGER events_no_delete BEFORE DELETE ON events
    FOR EACH ROW EXECUTE FUNCTION refuse('events are append-only');
CREATE TRIGGER events_no_truncate BEFORE TRUNCATE ON events
    EXECUTE FUNCTION refuse('events are append-only');

CREATE TABLE state_periods (
    agent     TEXT COLLATE "C" NOT NULL,
    ordinal   BIGINT NOT NULL,
    account   TEXT COLLATE "C" NOT NULL,
    node      TEXT COLLATE "C" NOT NULL,
    state     TEXT COLLATE "C" NOT NULL,
    opened_at BIGINT NOT NULL,
    closed_at BIGINT CHECK (closed_at >= opened_at),
    PRIMARY KEY (agent, ordinal)
);
CREATE UNIQUE INDEX state_periods_open ON state_periods (agent) WHERE closed_at IS NULL;

CREATE TRIGGER state_periods_close_once BEFORE UPDATE ON state_periods
    FOR EACH ROW WHEN (old.closed_at IS NOT NULL OR new.closed_at IS NULL OR new.agent <> old.agent
        OR new.ordinal <> old.ordinal OR new.account <> old.account OR new.node <> old.node OR new.state <> old.state
        OR new.opened_at <> old.opened_at)
    EXECUTE FUNCTION refuse('a state period can only be closed, once');
CREATE TRIGGER state_periods_no_delete BEFORE DELETE ON state_periods
    FOR EACH ROW EXECUTE FUNCTION refuse('state periods are append-only');
CREATE TRIGGER state_periods_no_truncate BEFORE TRUNCATE ON state_periods
    EXECUTE FUNCTION refuse('state periods are append-only');
