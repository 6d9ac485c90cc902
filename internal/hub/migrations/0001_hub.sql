-- A repository exists from its first blob or manifest on.
CREATE TABLE repositories (
  id   INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE
);

-- Which blobs a repository holds. The bytes are in the content store, once.
CREATE TABLE blobs (
  repository BIGINT NOT NULL REFERENCES repositories (id),
  digest     TEXT   NOT NULL,
  size       BIGINT NOT NULL,
  PRIMARY KEY (repository, digest)
);

CREATE TABLE manifests (
  repository    BIGINT NOT NULL REFERENCES repositories (id),
  digest        TEXT   NOT NULL,
  size          BIGINT NOT NULL,
  media_type    TEXT   NOT NULL,
  subject       TEXT   NOT NULL DEFAULT '', -- digest of what it refers to
  artifact_type TEXT   NOT NULL DEFAULT '',
  annotations   TEXT   NOT NULL DEFAULT '', -- JSON, of those with a subject
  PRIMARY KEY (repository, digest)
);
CREATE INDEX manifests_subject ON manifests (repository, subject, digest) WHERE subject <> '';

CREATE TABLE tags (
  repository BIGINT NOT NULL,
  name       TEXT   NOT NULL,
  digest     TEXT   NOT NULL,
  PRIMARY KEY (repository, name),
  FOREIGN KEY (repository, digest) REFERENCES manifests (repository, digest) ON DELETE CASCADE
);
CREATE INDEX tags_digest ON tags (repository, digest);

-- Unfinished uploads; their bytes are ingests of the content store.
CREATE TABLE uploads (
  id         TEXT   NOT NULL PRIMARY KEY,
  repository TEXT   NOT NULL, -- its name: it may not exist yet
  created    BIGINT NOT NULL  -- Unix seconds
);
