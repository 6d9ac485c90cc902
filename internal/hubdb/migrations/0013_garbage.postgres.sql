-- As the file for SQLite.
CREATE TABLE candidates (
  id         INTEGER PRIMARY KEY,
  repository BIGINT NOT NULL,
  digest     TEXT   NOT NULL,
  since      BIGINT NOT NULL
);
CREATE INDEX candidates_links ON candidates (since, id) WHERE repository <> 0;
CREATE INDEX candidates_bytes ON candidates (since, id) WHERE repository = 0;

CREATE FUNCTION note_linked() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO candidates (repository, digest, since) VALUES (NEW.repository, NEW.digest, NEW.linked);
  RETURN NULL;
END $$;
CREATE FUNCTION note_unnamed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO candidates (repository, digest, since) VALUES (OLD.repository, OLD.child, 0);
  RETURN NULL;
END $$;
CREATE FUNCTION note_reserved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO candidates (repository, digest, since) VALUES (0, NEW.digest, NEW.touched);
  RETURN NULL;
END $$;
CREATE FUNCTION note_unheld() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO candidates (repository, digest, since) VALUES (0, OLD.digest, 0);
  RETURN NULL;
END $$;
CREATE TRIGGER candidates_linked AFTER INSERT ON blobs FOR EACH ROW EXECUTE FUNCTION note_linked();
CREATE TRIGGER candidates_unreferred AFTER DELETE ON refs FOR EACH ROW EXECUTE FUNCTION note_unnamed();
CREATE TRIGGER candidates_expired AFTER DELETE ON trash_refs FOR EACH ROW EXECUTE FUNCTION note_unnamed();
CREATE TRIGGER candidates_reserved AFTER INSERT ON contents FOR EACH ROW EXECUTE FUNCTION note_reserved();
CREATE TRIGGER candidates_unlinked AFTER DELETE ON blobs FOR EACH ROW EXECUTE FUNCTION note_unheld();
CREATE TRIGGER candidates_deleted AFTER DELETE ON manifests FOR EACH ROW EXECUTE FUNCTION note_unheld();
CREATE TRIGGER candidates_forgotten AFTER DELETE ON trash FOR EACH ROW EXECUTE FUNCTION note_unheld();

INSERT INTO settings (name, value) SELECT 'gc-full', '0' WHERE NOT EXISTS (SELECT 1 FROM contents);
