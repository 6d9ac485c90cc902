-- What people find repositories by, and what their images are made of. All of it but the stars is derived.
ALTER TABLE repositories ADD COLUMN stars      BIGINT NOT NULL DEFAULT 0;  -- rows of stars
ALTER TABLE repositories ADD COLUMN base       TEXT   NOT NULL DEFAULT ''; -- the last part of the name
ALTER TABLE repositories ADD COLUMN platforms  TEXT   NOT NULL DEFAULT ''; -- of its images, as " linux/amd64 linux/arm64 "
ALTER TABLE repositories ADD COLUMN popularity BIGINT NOT NULL DEFAULT 0;  -- how far up it is shown
ALTER TABLE repositories ADD COLUMN indexed    BIGINT NOT NULL DEFAULT 0;  -- pulls, when that was counted
ALTER TABLE repositories ADD COLUMN text_row   BIGINT NOT NULL DEFAULT 0;  -- in repository_texts; 0: not yet
CREATE INDEX repositories_popularity ON repositories (public, popularity DESC, id);
CREATE INDEX repositories_base ON repositories (base);

CREATE TABLE stars (
  account    BIGINT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
  repository BIGINT NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
  at         BIGINT NOT NULL,
  PRIMARY KEY (account, repository)
);
CREATE INDEX stars_repository ON stars (repository);

-- What a manifest and its config say. They are the same in every repository.
CREATE TABLE images (
  digest       TEXT   NOT NULL PRIMARY KEY, -- of the manifest
  config       TEXT   NOT NULL,             -- digest
  os           TEXT   NOT NULL DEFAULT '',
  architecture TEXT   NOT NULL DEFAULT '',
  variant      TEXT   NOT NULL DEFAULT '',
  size         BIGINT NOT NULL DEFAULT 0,   -- of config and layers, as they are sent
  created      BIGINT NOT NULL DEFAULT 0,
  labels       TEXT   NOT NULL DEFAULT '{}', -- JSON
  layers       TEXT   NOT NULL DEFAULT ''   -- JSON of []catalog.LayerFiles; '': not counted yet
);

-- Repositories whose texts are to be written anew; a change while that happens counts once more.
CREATE TABLE stale (
  repository BIGINT NOT NULL PRIMARY KEY,
  version    BIGINT NOT NULL
);
INSERT INTO stale SELECT id, 1 FROM repositories;

CREATE TRIGGER stale_new AFTER INSERT ON repositories BEGIN
  INSERT INTO stale VALUES (new.id, 1) ON CONFLICT (repository) DO UPDATE SET version = version + 1;
END;
CREATE TRIGGER stale_changed AFTER UPDATE OF name, description, kind, public, stars ON repositories BEGIN
  INSERT INTO stale VALUES (new.id, 1) ON CONFLICT (repository) DO UPDATE SET version = version + 1;
END;
CREATE TRIGGER stale_gone AFTER DELETE ON repositories BEGIN
  INSERT INTO stale VALUES (old.id, 1) ON CONFLICT (repository) DO UPDATE SET version = version + 1;
END;
CREATE TRIGGER stale_tagged AFTER INSERT ON tags BEGIN
  INSERT INTO stale VALUES (new.repository, 1) ON CONFLICT (repository) DO UPDATE SET version = version + 1;
END;
CREATE TRIGGER stale_moved AFTER UPDATE OF digest ON tags WHEN old.digest <> new.digest BEGIN
  INSERT INTO stale VALUES (new.repository, 1) ON CONFLICT (repository) DO UPDATE SET version = version + 1;
END;
CREATE TRIGGER stale_untagged AFTER DELETE ON tags BEGIN
  INSERT INTO stale VALUES (old.repository, 1) ON CONFLICT (repository) DO UPDATE SET version = version + 1;
END;
CREATE TRIGGER stale_held AFTER UPDATE OF held ON manifests WHEN old.held <> new.held BEGIN
  INSERT INTO stale VALUES (new.repository, 1) ON CONFLICT (repository) DO UPDATE SET version = version + 1;
END;

-- What is searched, in lower case. The row says how popular the repository is and which it is (catalog.textRow), so
-- that the rows that come first are those that are wanted.
CREATE VIRTUAL TABLE repository_texts USING fts5 (text, tokenize = 'trigram');
