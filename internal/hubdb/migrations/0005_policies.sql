-- What is forbidden, kept and counted. A scope is the name of a repository, a namespace and /* for all of its repositories, or * for all there are.

CREATE TABLE immutable_tags (
  id      INTEGER PRIMARY KEY,
  scope   TEXT   NOT NULL,
  pattern TEXT   NOT NULL, -- of tags
  created BIGINT NOT NULL,
  actor   TEXT   NOT NULL,
  UNIQUE (scope, pattern)
);

-- A tag that rules speak of goes unless one of them keeps it.
CREATE TABLE retention_rules (
  id          INTEGER PRIMARY KEY,
  scope       TEXT   NOT NULL,
  pattern     TEXT   NOT NULL, -- of the tags that it speaks of; '' is manifests without a tag
  last_pushed BIGINT NOT NULL, -- keeps so many; 0 says nothing, here and below
  last_pulled BIGINT NOT NULL,
  pushed_days BIGINT NOT NULL, -- keeps what was pushed within so many days
  pulled_days BIGINT NOT NULL,
  created     BIGINT NOT NULL,
  actor       TEXT   NOT NULL
);
CREATE INDEX retention_rules_scope ON retention_rules (scope);

-- What stops pulls: a severity of vulnerabilities.
CREATE TABLE pull_rules (
  scope     TEXT   NOT NULL PRIMARY KEY,
  severity  TEXT   NOT NULL, -- or 'none'
  unscanned BIGINT NOT NULL
);

-- How many bytes a namespace may hold; 0 is any number. One without a row has the default, of the namespace *.
CREATE TABLE quotas (
  namespace TEXT   NOT NULL PRIMARY KEY,
  bytes     BIGINT NOT NULL
);

-- Never less than what a namespace holds: what is added is added here, and counted anew when that is more than the quota.
CREATE TABLE quota_bounds (
  namespace TEXT   NOT NULL PRIMARY KEY,
  bytes     BIGINT NOT NULL
);
