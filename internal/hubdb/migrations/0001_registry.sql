-- Times are Unix seconds; 0 is never. Flags are 0 or 1. IDs of rows are the database's own and are shown to nobody.

-- A repository exists from its first push on, or from when somebody made it.
-- Its namespace is what stands before the first slash of its name, '' where there is none.
CREATE TABLE repositories (
  id          INTEGER PRIMARY KEY,
  name        TEXT   NOT NULL UNIQUE,
  namespace   TEXT   NOT NULL,
  public      BIGINT NOT NULL DEFAULT 0,  -- anybody may read what is published
  kind        TEXT   NOT NULL DEFAULT 'community', -- or official, verified
  description TEXT   NOT NULL DEFAULT '', -- one line
  readme      TEXT   NOT NULL DEFAULT '', -- Markdown
  created     BIGINT NOT NULL DEFAULT 0,
  pushed      BIGINT NOT NULL DEFAULT 0,  -- last
  pulls       BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX repositories_namespace ON repositories (namespace);

-- Which blobs a repository holds. The bytes are in the content store, once.
CREATE TABLE blobs (
  repository BIGINT NOT NULL REFERENCES repositories (id),
  digest     TEXT   NOT NULL,
  size       BIGINT NOT NULL,
  linked     BIGINT NOT NULL DEFAULT 0, -- last time that somebody pushed or mounted it
  PRIMARY KEY (repository, digest)
);
CREATE INDEX blobs_digest ON blobs (digest);

CREATE TABLE manifests (
  repository    BIGINT NOT NULL REFERENCES repositories (id),
  digest        TEXT   NOT NULL,
  size          BIGINT NOT NULL,
  media_type    TEXT   NOT NULL,
  subject       TEXT   NOT NULL DEFAULT '', -- digest of what it refers to
  artifact_type TEXT   NOT NULL DEFAULT '',
  annotations   TEXT   NOT NULL DEFAULT '', -- JSON, of those with a subject
  pushed        BIGINT NOT NULL DEFAULT 0,
  pusher        TEXT   NOT NULL DEFAULT '', -- name of an account
  pulled        BIGINT NOT NULL DEFAULT 0,  -- last
  artifact      BIGINT NOT NULL DEFAULT 0,  -- nothing that runs: it is published with its subject
  held          BIGINT NOT NULL DEFAULT 0,  -- waits for a review: only who may write to the repository reads it
  PRIMARY KEY (repository, digest)
);
CREATE INDEX manifests_digest ON manifests (digest);
CREATE INDEX manifests_subject ON manifests (repository, subject, digest) WHERE subject <> '';

-- What a manifest needs of its repository: blobs, and the manifests that an index names.
CREATE TABLE refs (
  repository BIGINT NOT NULL,
  manifest   TEXT   NOT NULL,
  child      TEXT   NOT NULL,
  PRIMARY KEY (repository, manifest, child),
  FOREIGN KEY (repository, manifest) REFERENCES manifests (repository, digest) ON DELETE CASCADE
);
CREATE INDEX refs_child ON refs (repository, child);

CREATE TABLE tags (
  repository BIGINT NOT NULL,
  name       TEXT   NOT NULL,
  digest     TEXT   NOT NULL,
  pending    TEXT   NOT NULL DEFAULT '', -- what was pushed since and waits for a review: who may write sees it instead
  pushed     BIGINT NOT NULL DEFAULT 0,
  pusher     TEXT   NOT NULL DEFAULT '',
  pulled     BIGINT NOT NULL DEFAULT 0,
  pulls      BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (repository, name),
  FOREIGN KEY (repository, digest) REFERENCES manifests (repository, digest) ON DELETE CASCADE
);
CREATE INDEX tags_digest ON tags (repository, digest);
CREATE INDEX tags_order ON tags (repository, lower(name), name); -- as they are listed

-- Unfinished uploads; their bytes are ingests of the content store.
CREATE TABLE uploads (
  id         TEXT   NOT NULL PRIMARY KEY,
  repository TEXT   NOT NULL, -- its name: it may not exist yet
  created    BIGINT NOT NULL
);
