-- People: who they are, which accounts they belong to, and what they show to prove it. Every token is here as its SHA-256 alone.

-- A personal account has one member, for ever; an organisation has as many as were invited.
ALTER TABLE accounts ADD COLUMN kind TEXT COLLATE "C" NOT NULL DEFAULT 'organisation' CHECK (kind IN ('personal', 'organisation'));

CREATE TABLE users (
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    -- Lower case.
    email      TEXT COLLATE "C" NOT NULL UNIQUE,
    -- Argon2id, as a PHC string. Absent until one was chosen.
    password   TEXT COLLATE "C",
    personal   TEXT COLLATE "C" NOT NULL UNIQUE REFERENCES accounts (id),
    created_at BIGINT NOT NULL
);

CREATE TABLE memberships (
    account    TEXT COLLATE "C" NOT NULL REFERENCES accounts (id),
    person     TEXT COLLATE "C" NOT NULL REFERENCES users (id),
    role       TEXT COLLATE "C" NOT NULL CHECK (role IN ('owner', 'admin', 'member')),
    created_at BIGINT NOT NULL,
    PRIMARY KEY (account, person)
);
CREATE INDEX memberships_of_person ON memberships (person);

CREATE FUNCTION memberships_personal() RETURNS trigger LANGUAGE plpgsql AS '
BEGIN
    IF EXISTS (SELECT 1 FROM users u WHERE u.personal = new.account AND u.id <> new.person) THEN
        RAISE EXCEPTION ''a personal account has one member'' USING ERRCODE = ''restrict_violation'';
    END IF;
    RETURN new;
END';
CREATE TRIGGER memberships_personal BEFORE INSERT ON memberships
    FOR EACH ROW EXECUTE FUNCTION memberships_personal();

CREATE TABLE sessions (
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    hash       TEXT COLLATE "C" NOT NULL UNIQUE,
    person     TEXT COLLATE "C" NOT NULL REFERENCES users (id),
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    -- When its person last showed a password or a code.
    proved_at  BIGINT NOT NULL,
    seen_at    BIGINT NOT NULL
);
CREATE INDEX sessions_of_person ON sessions (person);

-- The last one that was asked for is the one that counts.
CREATE TABLE password_resets (
    person     TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES users (id),
    hash       TEXT COLLATE "C" NOT NULL UNIQUE,
    expires_at BIGINT NOT NULL
);

CREATE TABLE invitations (
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    account    TEXT COLLATE "C" NOT NULL REFERENCES accounts (id),
    email      TEXT COLLATE "C" NOT NULL,
    role       TEXT COLLATE "C" NOT NULL CHECK (role IN ('owner', 'admin', 'member')),
    -- Who made it: it ends when they are removed, or may less.
    person     TEXT COLLATE "C" REFERENCES users (id),
    -- By which key, if by one: it ends with it.
    made_by    TEXT COLLATE "C",
    hash       TEXT COLLATE "C" NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    UNIQUE (account, email)
);

-- Second factors (RFC 6238). The seed is wrapped as keys of accounts are.
CREATE TABLE factors (
    person       TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES users (id),
    id           TEXT COLLATE "C" NOT NULL UNIQUE,
    account      TEXT COLLATE "C" NOT NULL REFERENCES accounts (id),
    wrapped_by   TEXT COLLATE "C" NOT NULL,
    wrapped      BYTEA NOT NULL,
    created_at   BIGINT NOT NULL,
    -- Absent until a code of it was shown: it asks for nothing before.
    confirmed_at BIGINT,
    -- The step of the last code that was taken: no code is taken twice.
    last_step    BIGINT NOT NULL
);
CREATE INDEX factors_wrapped_by ON factors (wrapped_by);

-- A key acts with a role, and its scopes say what of that. One that a person made never does more than its person may. Keys from before are
-- the account's own, and do everything.
ALTER TABLE api_keys ADD COLUMN role TEXT COLLATE "C" NOT NULL DEFAULT 'owner' CHECK (role IN ('owner', 'admin', 'member'));
ALTER TABLE api_keys ADD COLUMN scopes TEXT COLLATE "C" NOT NULL DEFAULT '["admin"]';
ALTER TABLE api_keys ADD COLUMN person TEXT COLLATE "C" REFERENCES users (id);
ALTER TABLE api_keys ADD COLUMN expires_at BIGINT;
ALTER TABLE api_keys ADD COLUMN last_used BIGINT;
-- The key that made it: it is deleted with it.
ALTER TABLE api_keys ADD COLUMN made_by TEXT COLLATE "C";
CREATE INDEX api_keys_made_by ON api_keys (made_by) WHERE made_by IS NOT NULL;
-- Whether a workspace token was issued to it: if so, deleting it ends those of the account. Of keys from before nobody knows.
ALTER TABLE api_keys ADD COLUMN issued BIGINT NOT NULL DEFAULT 0;
UPDATE api_keys SET issued = 1;
CREATE INDEX api_keys_of_person ON api_keys (person) WHERE person IS NOT NULL;
