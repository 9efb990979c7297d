-- The first schema, for SQLite. Instants are milliseconds since 1970; ids are the text forms of `model::id`.
-- What must never happen is made impossible here, not only avoided in the code above.

CREATE TABLE installation (
    singleton      INTEGER NOT NULL PRIMARY KEY CHECK (singleton = 1),
    id             TEXT    NOT NULL,
    database_epoch INTEGER NOT NULL CHECK (database_epoch > 0),
    created_at     INTEGER NOT NULL
) STRICT;

-- Public halves only; the private one lies in a file beside the database. At most one is in use.
CREATE TABLE signing_keys (
    id         TEXT    NOT NULL PRIMARY KEY,
    x          TEXT    NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    retired_at INTEGER
) STRICT;
CREATE UNIQUE INDEX signing_keys_in_use ON signing_keys ((retired_at IS NULL)) WHERE retired_at IS NULL;

CREATE TABLE accounts (
    id         TEXT    NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    -- Sees what belongs to no account: events of shared nodes and of the installation.
    operator   INTEGER NOT NULL CHECK (operator IN (0, 1)),
    created_at INTEGER NOT NULL,
    CHECK (id <> 'shared')
) STRICT;

CREATE TABLE api_keys (
    id         TEXT    NOT NULL PRIMARY KEY,
    account    TEXT    NOT NULL REFERENCES accounts (id),
    name       TEXT    NOT NULL,
    hash       TEXT    NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    UNIQUE (account, name)
) STRICT;

CREATE TABLE nodes (
    id         TEXT    NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    account    TEXT    REFERENCES accounts (id),
    tenant     TEXT    NOT NULL CHECK (tenant = coalesce(account, 'shared')),
    -- Absent until the node has enrolled.
    public_key TEXT    UNIQUE,
    cpus       REAL    NOT NULL,
    memory     INTEGER NOT NULL,
    rev        INTEGER NOT NULL,
    last_seen  INTEGER,
    created_at INTEGER NOT NULL,
    UNIQUE (id, tenant)
) STRICT;

CREATE TABLE images (
    id         TEXT    NOT NULL PRIMARY KEY,
    account    TEXT    NOT NULL REFERENCES accounts (id),
    name       TEXT    NOT NULL,
    digest     TEXT    NOT NULL CHECK (length(digest) = 64),
    size       INTEGER NOT NULL,
    config     TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    -- Deleted, or its name moved on to other content. The row stays for the agents made from it.
    deleted_at INTEGER,
    UNIQUE (id, account)
) STRICT;
CREATE UNIQUE INDEX images_name ON images (account, name) WHERE deleted_at IS NULL;

CREATE TABLE agents (
    id                  TEXT    NOT NULL PRIMARY KEY,
    account             TEXT    NOT NULL REFERENCES accounts (id),
    node                TEXT    NOT NULL,
    tenant              TEXT    NOT NULL CHECK (tenant IN (account, 'shared')),
    name                TEXT    NOT NULL,
    image               TEXT    NOT NULL,
    image_name          TEXT    NOT NULL,
    spec                TEXT    NOT NULL,
    labels              TEXT    NOT NULL,
    desired             TEXT    NOT NULL CHECK (desired IN ('running', 'paused', 'stopped', 'destroyed')),
    state               TEXT    NOT NULL CHECK (state IN ('provisioning', 'running', 'paused', 'stopping',
                                'stopped', 'starting', 'destroying', 'destroyed', 'failed')),
    generation          INTEGER NOT NULL,
    observed_generation INTEGER NOT NULL,
    token_epoch         INTEGER NOT NULL,
    reason              TEXT,
    evidence            TEXT    NOT NULL,
    workspace_url       TEXT,
    last_activity       INTEGER,
    expires_at          INTEGER,
    idle_ms             INTEGER,
    created_at          INTEGER NOT NULL,
    state_since         INTEGER NOT NULL,
    UNIQUE (id, node),
    CHECK (state NOT IN ('destroying', 'destroyed') OR desired = 'destroyed'),
    FOREIGN KEY (node, tenant) REFERENCES nodes (id, tenant),
    FOREIGN KEY (image, account) REFERENCES images (id, account)
) STRICT;
CREATE UNIQUE INDEX agents_name ON agents (account, name) WHERE state <> 'destroyed';
CREATE INDEX agents_page ON agents (account, id);
CREATE INDEX agents_on_node ON agents (node) WHERE state <> 'destroyed';
CREATE INDEX agents_expiring ON agents (expires_at) WHERE expires_at IS NOT NULL AND desired <> 'destroyed';
CREATE INDEX agents_idling ON agents (node)
    WHERE idle_ms IS NOT NULL AND state = 'running' AND desired = 'running';
CREATE INDEX agents_of_image ON agents (image) WHERE state <> 'destroyed';

CREATE TRIGGER agents_stay_destroyed BEFORE UPDATE OF state, desired ON agents
WHEN old.state = 'destroyed' AND (new.state <> 'destroyed' OR new.desired <> 'destroyed')
BEGIN
    SELECT raise(ABORT, 'a destroyed agent stays destroyed');
END;

CREATE TABLE agent_labels (
    agent TEXT NOT NULL REFERENCES agents (id),
    key   TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (agent, key)
) STRICT;

-- The limit of agents per node is a row per slot.
CREATE TABLE node_slots (
    node  TEXT    NOT NULL REFERENCES nodes (id),
    slot  INTEGER NOT NULL,
    agent TEXT    UNIQUE,
    UNIQUE (node, slot),
    FOREIGN KEY (agent, node) REFERENCES agents (id, node)
) STRICT;

CREATE TABLE bootstrap_tokens (
    hash        TEXT    NOT NULL PRIMARY KEY,
    node        TEXT    NOT NULL REFERENCES nodes (id),
    expires_at  INTEGER NOT NULL,
    -- The public key that redeemed it. The same key may come again, in case the answer was lost.
    redeemed_by TEXT
) STRICT;

CREATE TABLE callback_tokens (
    hash       TEXT    NOT NULL PRIMARY KEY,
    node       TEXT    NOT NULL REFERENCES nodes (id),
    expires_at INTEGER NOT NULL
) STRICT;

-- Assertions that were traded already.
CREATE TABLE assertions (
    node       TEXT    NOT NULL REFERENCES nodes (id),
    jti        TEXT    NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (node, jti)
) STRICT;

CREATE TABLE idempotency_keys (
    account    TEXT    NOT NULL REFERENCES accounts (id),
    key        TEXT    NOT NULL,
    request    TEXT    NOT NULL,
    answer     TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (account, key)
) STRICT;

-- The ledger: append-only, and without foreign keys, for it outlives what it tells of.
CREATE TABLE events (
    id      TEXT    NOT NULL PRIMARY KEY,
    account TEXT,
    at      INTEGER NOT NULL,
    kind    TEXT    NOT NULL,
    actor   TEXT    NOT NULL,
    subject TEXT    NOT NULL,
    detail  TEXT    NOT NULL
) STRICT;
CREATE INDEX events_page ON events (account, id);
CREATE INDEX events_subject ON events (subject, kind);

CREATE TRIGGER events_no_update BEFORE UPDATE ON events
BEGIN
    SELECT raise(ABORT, 'events are append-only');
END;
CREATE TRIGGER events_no_delete BEFORE DELETE ON events
BEGIN
    SELECT raise(ABORT, 'events are append-only');
END;

CREATE TABLE state_periods (
    agent     TEXT    NOT NULL,
    ordinal   INTEGER NOT NULL,
    account   TEXT    NOT NULL,
    node      TEXT    NOT NULL,
    state     TEXT    NOT NULL,
    opened_at INTEGER NOT NULL,
    closed_at INTEGER CHECK (closed_at >= opened_at),
    PRIMARY KEY (agent, ordinal)
) STRICT;
CREATE UNIQUE INDEX state_periods_open ON state_periods (agent) WHERE closed_at IS NULL;

CREATE TRIGGER state_periods_close_once BEFORE UPDATE ON state_periods
WHEN old.closed_at IS NOT NULL OR new.closed_at IS NULL OR new.agent <> old.agent OR new.ordinal <> old.ordinal
    OR new.account <> old.account OR new.node <> old.node OR new.state <> old.state OR new.opened_at <> old.opened_at
BEGIN
    SELECT raise(ABORT, 'a state period can only be closed, once');
END;
CREATE TRIGGER state_periods_no_delete BEFORE DELETE ON state_periods
BEGIN
    SELECT raise(ABORT, 'state periods are append-only');
END;
