-- What can be undone. Rows go when the window is over (hub.Collect); until
-- then garbage collection keeps what they name.

-- What tags named. A manifest that a row names as previous can be tagged again.
CREATE TABLE tag_history (
  id         INTEGER PRIMARY KEY,
  repository BIGINT NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
  name       TEXT   NOT NULL,
  digest     TEXT   NOT NULL, -- from then on; '' when the tag was deleted
  previous   TEXT   NOT NULL, -- before; '' when the tag was new
  action     TEXT   NOT NULL, -- set, delete, restore, publish, expire
  at         BIGINT NOT NULL,
  actor      TEXT   NOT NULL
);
CREATE INDEX tag_history_name ON tag_history (repository, name, id);
CREATE INDEX tag_history_previous ON tag_history (repository, previous);
CREATE INDEX tag_history_at ON tag_history (at);

-- Manifests that were deleted: their rows of manifests.
CREATE TABLE trash (
  repository    BIGINT NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
  digest        TEXT   NOT NULL,
  size          BIGINT NOT NULL,
  media_type    TEXT   NOT NULL,
  subject       TEXT   NOT NULL,
  artifact_type TEXT   NOT NULL,
  annotations   TEXT   NOT NULL,
  pushed        BIGINT NOT NULL,
  pusher        TEXT   NOT NULL,
  pulled        BIGINT NOT NULL,
  artifact      BIGINT NOT NULL,
  held          BIGINT NOT NULL,
  tags          TEXT   NOT NULL, -- JSON of the names that it had
  deleted       BIGINT NOT NULL,
  actor         TEXT   NOT NULL,
  PRIMARY KEY (repository, digest)
);
CREATE INDEX trash_digest ON trash (digest);
CREATE INDEX trash_deleted ON trash (deleted);

-- Their rows of refs.
CREATE TABLE trash_refs (
  repository BIGINT NOT NULL,
  manifest   TEXT   NOT NULL,
  child      TEXT   NOT NULL,
  PRIMARY KEY (repository, manifest, child),
  FOREIGN KEY (repository, manifest) REFERENCES trash (repository, digest) ON DELETE CASCADE
);
CREATE INDEX trash_refs_child ON trash_refs (repository, child);
