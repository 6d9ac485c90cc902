-- Who has a name. Users and organizations share one space of names, which are the namespaces of repositories.
CREATE TABLE accounts (
  id           INTEGER PRIMARY KEY,
  name         TEXT   NOT NULL UNIQUE,
  organization BIGINT NOT NULL DEFAULT 0,
  email        TEXT   NOT NULL DEFAULT '',
  full_name    TEXT   NOT NULL DEFAULT '',
  password     TEXT   NOT NULL DEFAULT '', -- argon2id in the PHC form; '' is none
  subject      TEXT   NOT NULL DEFAULT '', -- issuer and subject of an OIDC login
  admin        BIGINT NOT NULL DEFAULT 0,  -- of the whole Hub
  reviewer     BIGINT NOT NULL DEFAULT 0,  -- decides what is published
  verified     BIGINT NOT NULL DEFAULT 0,  -- publishes without review
  disabled     BIGINT NOT NULL DEFAULT 0,
  epoch        BIGINT NOT NULL DEFAULT 0,  -- counts up when all that was given out must end: a new password, disabled
  created      BIGINT NOT NULL
);
CREATE UNIQUE INDEX accounts_subject ON accounts (subject) WHERE subject <> '';

-- Who belongs to an organization. Its owners may do everything in its namespace.
CREATE TABLE members (
  organization BIGINT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
  account      BIGINT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
  owner        BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (organization, account)
);
CREATE INDEX members_account ON members (account);

CREATE TABLE teams (
  id           INTEGER PRIMARY KEY,
  organization BIGINT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
  name         TEXT   NOT NULL,
  UNIQUE (organization, name)
);

CREATE TABLE team_members (
  team    BIGINT NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
  account BIGINT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
  PRIMARY KEY (team, account)
);
CREATE INDEX team_members_account ON team_members (account);

-- What was granted for one repository, to one account or to one team; the other is NULL.
CREATE TABLE grants (
  id         INTEGER PRIMARY KEY,
  repository BIGINT NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
  account    BIGINT REFERENCES accounts (id) ON DELETE CASCADE,
  team       BIGINT REFERENCES teams (id) ON DELETE CASCADE,
  role       BIGINT NOT NULL, -- auth.Role
  UNIQUE (repository, account),
  UNIQUE (repository, team)
);
CREATE INDEX grants_account ON grants (account);
CREATE INDEX grants_team ON grants (team);

-- What logs in instead of a password. A robot is a token of an account that logs in by a name of its own, ACCOUNT+NAME.
-- A login is what a client keeps instead of a password (docker's identity token).
CREATE TABLE tokens (
  id      TEXT   NOT NULL PRIMARY KEY, -- public part
  account BIGINT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
  kind    TEXT   NOT NULL,             -- personal, robot, login
  name    TEXT   NOT NULL,
  hash    TEXT   NOT NULL,             -- sha256 of the secret part, in hex
  scopes  TEXT   NOT NULL DEFAULT '',  -- JSON of []auth.Scope; '' is all that the account may
  created BIGINT NOT NULL,
  expires BIGINT NOT NULL DEFAULT 0,
  used    BIGINT NOT NULL DEFAULT 0,   -- last time, to the hour
  UNIQUE (account, kind, name)
);

-- Logins of browsers.
CREATE TABLE sessions (
  hash    TEXT   NOT NULL PRIMARY KEY, -- sha256 of the cookie, in hex
  account BIGINT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
  created BIGINT NOT NULL,
  expires BIGINT NOT NULL
);
CREATE INDEX sessions_account ON sessions (account);

-- Failed logins, by who is tried and from where.
CREATE TABLE failures (
  key   TEXT   NOT NULL PRIMARY KEY, -- digest of an address, or of a name and an address
  count BIGINT NOT NULL,
  last  BIGINT NOT NULL,
  until BIGINT NOT NULL -- no other try before
);
CREATE INDEX failures_last ON failures (last);

-- Keys that sign registry tokens; the newest signs, all verify.
CREATE TABLE signing_keys (
  id      TEXT   NOT NULL PRIMARY KEY,
  private TEXT   NOT NULL, -- PKCS #8 in PEM
  created BIGINT NOT NULL
);

CREATE TABLE settings (
  name  TEXT NOT NULL PRIMARY KEY,
  value TEXT NOT NULL
);

-- Every change, in order; rows are only added.
CREATE TABLE audit (
  id      INTEGER PRIMARY KEY,
  at      BIGINT NOT NULL,
  actor   TEXT   NOT NULL, -- name of an account or robot, '' is the server itself
  address TEXT   NOT NULL, -- where the request came from
  action  TEXT   NOT NULL, -- such as tag.set
  object  TEXT   NOT NULL, -- such as team/app:1.2
  detail  TEXT   NOT NULL DEFAULT '' -- JSON, never a secret
);
CREATE INDEX audit_object ON audit (object, id);
CREATE INDEX audit_actor ON audit (actor, id);
