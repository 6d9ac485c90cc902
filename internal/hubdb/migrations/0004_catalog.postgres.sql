-- As 0004_catalog.sqlite.sql, with a trigram index of pg_trgm.
CREATE EXTENSION IF NOT EXISTS pg_trgm;
ALTER TABLE repositories ADD COLUMN stars      BIGINT NOT NULL DEFAULT 0;
ALTER TABLE repositories ADD COLUMN base       TEXT   NOT NULL DEFAULT '';
ALTER TABLE repositories ADD COLUMN platforms  TEXT   NOT NULL DEFAULT '';
ALTER TABLE repositories ADD COLUMN popularity BIGINT NOT NULL DEFAULT 0;
ALTER TABLE repositories ADD COLUMN indexed    BIGINT NOT NULL DEFAULT 0;
ALTER TABLE repositories ADD COLUMN text_row   BIGINT NOT NULL DEFAULT 0;
CREATE INDEX repositories_popularity ON repositories (public, popularity DESC, id);
CREATE INDEX repositories_base ON repositories (base);

CREATE TABLE stars (
  account    BIGINT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
  repository BIGINT NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
  at         BIGINT NOT NULL,
  PRIMARY KEY (account, repository)
);
CREATE INDEX stars_repository ON stars (repository);

CREATE TABLE images (
  digest       TEXT   NOT NULL PRIMARY KEY,
  config       TEXT   NOT NULL,
  os           TEXT   NOT NULL DEFAULT '',
  architecture TEXT   NOT NULL DEFAULT '',
  variant      TEXT   NOT NULL DEFAULT '',
  size         BIGINT NOT NULL DEFAULT 0,
  created      BIGINT NOT NULL DEFAULT 0,
  labels       TEXT   NOT NULL DEFAULT '{}',
  layers       TEXT   NOT NULL DEFAULT ''
);

CREATE TABLE stale (
  repository BIGINT NOT NULL PRIMARY KEY,
  version    BIGINT NOT NULL
);
INSERT INTO stale SELECT id, 1 FROM repositories;

-- The argument names the column that holds the repository.
CREATE FUNCTION note_stale() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  changed jsonb;
BEGIN
  IF TG_OP = 'DELETE' THEN changed := to_jsonb(OLD); ELSE changed := to_jsonb(NEW); END IF;
  INSERT INTO stale VALUES ((changed ->> TG_ARGV[0])::bigint, 1) ON CONFLICT (repository) DO UPDATE SET version = stale.version + 1;
  RETURN NULL;
END $$;
CREATE TRIGGER stale_repositories AFTER INSERT OR DELETE OR UPDATE OF name, description, kind, public, stars ON repositories
  FOR EACH ROW EXECUTE FUNCTION note_stale('id');
CREATE TRIGGER stale_tags AFTER INSERT OR DELETE ON tags FOR EACH ROW EXECUTE FUNCTION note_stale('repository');
CREATE TRIGGER stale_moved AFTER UPDATE OF digest ON tags
  FOR EACH ROW WHEN (OLD.digest <> NEW.digest) EXECUTE FUNCTION note_stale('repository');
CREATE TRIGGER stale_held AFTER UPDATE OF held ON manifests
  FOR EACH ROW WHEN (OLD.held <> NEW.held) EXECUTE FUNCTION note_stale('repository');

CREATE TABLE repository_texts (
  rowid BIGINT NOT NULL PRIMARY KEY,
  text  TEXT   NOT NULL
);
CREATE INDEX repository_texts_trigrams ON repository_texts USING gin (text gin_trgm_ops);
