-- People: who they are, which accounts they belong to, and what they show to prove it. Every token is here as its SHA-256 alone.

-- A personal account has one member, for ever; an organisation has as many as were invited.
ALTER TABLE accounts ADD COLUMN kind TEXT NOT NULL DEFAULT 'organisation' CHECK (kind IN ('personal', 'organisation'));

CREATE TABLE users (
    id         TEXT    NOT NULL PRIMARY KEY,
    -- Lower case.
    email      TEXT    NOT NULL UNIQUE,
    -- Argon2id, as a PHC string. Absent until one was chosen.
    password   TEXT,
    personal   TEXT    NOT NULL UNIQUE REFERENCES accounts (id),
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE memberships (
    account    TEXT    NOT NULL REFERENCES accounts (id),
    person     TEXT    NOT NULL REFERENCES users (id),
    role       TEXT    NOT NULL CHECK (role IN ('owner', 'admin', 'member')),
    created_at INTEGER NOT NULL,
    PRIMARY KEY (account, person)
) STRICT;
CREATE INDEX memberships_of_person ON memberships (person);

CREATE TRIGGER memberships_personal BEFORE INSERT ON memberships
WHEN EXISTS (SELECT 1 FROM users u WHERE u.personal = new.account AND u.id <> new.person)
BEGIN
    SELECT raise(ABORT, 'a personal account has one member');
END;

CREATE TABLE sessions (
    id         TEXT    NOT NULL PRIMARY KEY,
    hash       TEXT    NOT NULL UNIQUE,
    person     TEXT    NOT NULL REFERENCES users (id),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    -- When its person last showed a password or a code.
    proved_at  INTEGER NOT NULL,
    seen_at    INTEGER NOT NULL
) STRICT;
CREATE INDEX sessions_of_person ON sessions (person);

-- The last one that was asked for is the one that counts.
CREATE TABLE password_resets (
    person     TEXT    NOT NULL PRIMARY KEY REFERENCES users (id),
    hash       TEXT    NOT NULL UNIQUE,
    expires_at INTEGER NOT NULL
) STRICT;

CREATE TABLE invitations (
    id         TEXT    NOT NULL PRIMARY KEY,
    account    TEXT    NOT NULL REFERENCES accounts (id),
    email      TEXT    NOT NULL,
    role       TEXT    NOT NULL CHECK (role IN ('owner', 'admin', 'member')),
    -- Who made it: it ends when they are removed, or may less.
    person     TEXT    REFERENCES users (id),
    -- By which key, if by one: it ends with it.
    made_by    TEXT,
    hash       TEXT    NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    UNIQUE (account, email)
) STRICT;

-- Second factors (RFC 6238). The seed is wrapped as keys of accounts are.
CREATE TABLE factors (
    person       TEXT    NOT NULL PRIMARY KEY REFERENCES users (id),
    id           TEXT    NOT NULL UNIQUE,
    account      TEXT    NOT NULL REFERENCES accounts (id),
    wrapped_by   TEXT    NOT NULL,
    wrapped      BLOB    NOT NULL,
    created_at   INTEGER NOT NULL,
    -- Absent until a code of it was shown: it asks for nothing before.
    confirmed_at INTEGER,
    -- The step of the last code that was taken: no code is taken twice.
    last_step    INTEGER NOT NULL
) STRICT;
CREATE INDEX factors_wrapped_by ON factors (wrapped_by);

-- A key acts with a role, and its scopes say what of that. One that a person made never does more than its person may. Keys from before are
-- the account's own, and do everything.
ALTER TABLE api_keys ADD COLUMN role TEXT NOT NULL DEFAULT 'owner' CHECK (role IN ('owner', 'admin', 'member'));
ALTER TABLE api_keys ADD COLUMN scopes TEXT NOT NULL DEFAULT '["admin"]';
ALTER TABLE api_keys ADD COLUMN person TEXT REFERENCES users (id);
ALTER TABLE api_keys ADD COLUMN expires_at INTEGER;
ALTER TABLE api_keys ADD COLUMN last_used INTEGER;
-- The key that made it: it is deleted with it.
ALTER TABLE api_keys ADD COLUMN made_by TEXT;
CREATE INDEX api_keys_made_by ON api_keys (made_by) WHERE made_by IS NOT NULL;
-- Whether a workspace token was issued to it: if so, deleting it ends those of the account. Of keys from before nobody knows.
ALTER TABLE api_keys ADD COLUMN issued INTEGER NOT NULL DEFAULT 0;
UPDATE api_keys SET issued = 1;
CREATE INDEX api_keys_of_person ON api_keys (person) WHERE person IS NOT NULL;
