-- Namespaces whose repositories are those of another registry.
CREATE TABLE proxies (
  namespace TEXT   NOT NULL PRIMARY KEY,
  host      TEXT   NOT NULL,            -- of the other registry
  prefix    TEXT   NOT NULL DEFAULT '', -- before the names of its repositories
  username  TEXT   NOT NULL DEFAULT '',
  password  TEXT   NOT NULL DEFAULT '', -- sealed
  insecure  BIGINT NOT NULL DEFAULT 0,  -- http, or any certificate
  public    BIGINT NOT NULL DEFAULT 0,  -- anybody may pull by it
  fresh     BIGINT NOT NULL,            -- seconds for which a tag is not asked for again
  version   BIGINT NOT NULL DEFAULT 1   -- grows with every change
);

-- When the other registry was asked for a tag last.
CREATE TABLE proxy_tags (
  repository TEXT   NOT NULL,
  tag        TEXT   NOT NULL,
  checked    BIGINT NOT NULL,
  PRIMARY KEY (repository, tag)
);

-- Repositories into which tags of another registry are copied from time to time.
CREATE TABLE mirrors (
  id         INTEGER PRIMARY KEY,
  repository TEXT   NOT NULL, -- here
  source     TEXT   NOT NULL, -- with its host
  pattern    TEXT   NOT NULL, -- of tags, as in immutable_tags
  every      BIGINT NOT NULL, -- seconds
  username   TEXT   NOT NULL DEFAULT '',
  password   TEXT   NOT NULL DEFAULT '', -- sealed
  insecure   BIGINT NOT NULL DEFAULT 0,
  ended      BIGINT NOT NULL DEFAULT 0,  -- the last run
  copied     BIGINT NOT NULL DEFAULT 0,  -- tags, in the last run
  error      TEXT   NOT NULL DEFAULT '', -- of the last run
  UNIQUE (repository, source, pattern)
);
