-- Secrets of accounts. Values are here as ciphertexts alone, and the key that wraps the keys of accounts is not here at all.

-- Keys of accounts, wrapped. At most one of an account is in use; others are there until nothing is encrypted under them.
CREATE TABLE data_keys (
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    account    TEXT COLLATE "C" NOT NULL REFERENCES accounts (id),
    -- The key that unwraps it, which is kept elsewhere.
    wrapped_by TEXT COLLATE "C" NOT NULL,
    wrapped    BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    retired_at BIGINT,
    UNIQUE (id, account)
);
CREATE UNIQUE INDEX data_keys_in_use ON data_keys (account) WHERE retired_at IS NULL;
CREATE INDEX data_keys_wrapped_by ON data_keys (wrapped_by);

CREATE TABLE secrets (
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    account    TEXT COLLATE "C" NOT NULL REFERENCES accounts (id),
    name       TEXT COLLATE "C" NOT NULL,
    hosts      TEXT COLLATE "C" NOT NULL,
    version    BIGINT NOT NULL CHECK (version > 0),
    hint       TEXT COLLATE "C" NOT NULL CHECK (length(hint) <= 8),
    created_at BIGINT NOT NULL,
    rotated_at BIGINT NOT NULL,
    UNIQUE (account, name),
    UNIQUE (id, account),
    UNIQUE (id, version)
);
CREATE INDEX secrets_page ON secrets (account, id);

-- The one value of each. It is always of the secret's own version, and under a key of the secret's own account.
CREATE TABLE secret_values (
    secret     TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    version    BIGINT NOT NULL,
    account    TEXT COLLATE "C" NOT NULL,
    data_key   TEXT COLLATE "C" NOT NULL,
    nonce      BYTEA NOT NULL CHECK (length(nonce) = 12),
    ciphertext BYTEA NOT NULL,
    FOREIGN KEY (secret, version) REFERENCES secrets (id, version) DEFERRABLE INITIALLY DEFERRED,
    FOREIGN KEY (secret, account) REFERENCES secrets (id, account) DEFERRABLE INITIALLY DEFERRED,
    FOREIGN KEY (data_key, account) REFERENCES data_keys (id, account)
);
CREATE INDEX secret_values_by_key ON secret_values (data_key);

-- Which agents have which secrets: given to them for life, put into requests by their policies, or both. A row stays when a policy
-- drops a secret, for programs of the agent may know the placeholder.
CREATE UNIQUE INDEX agents_of_account ON agents (id, account);
CREATE TABLE agent_secrets (
    agent       TEXT COLLATE "C" NOT NULL,
    secret      TEXT COLLATE "C" NOT NULL,
    account     TEXT COLLATE "C" NOT NULL,
    given       BIGINT NOT NULL CHECK (given IN (0, 1)),
    injected    BIGINT NOT NULL CHECK (injected IN (0, 1)),
    placeholder TEXT COLLATE "C" UNIQUE,
    PRIMARY KEY (agent, secret),
    CHECK (injected = 0 OR placeholder IS NOT NULL),
    FOREIGN KEY (agent, account) REFERENCES agents (id, account),
    FOREIGN KEY (secret, account) REFERENCES secrets (id, account)
);
CREATE INDEX agent_secrets_of ON agent_secrets (secret);

-- Raised whenever the secrets of an agent change, for its node; and up to where a node has had them.
ALTER TABLE agents ADD COLUMN secrets_revision BIGINT NOT NULL DEFAULT 0;
ALTER TABLE agents ADD COLUMN secrets_delivered BIGINT NOT NULL DEFAULT 0;
